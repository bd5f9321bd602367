"""Jobs that wait: in which order they are done, by whom, what they may take, and what they are said to cost. No Ray."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import PATIENCE_S
from postgresql_server import own_server
from starlette.testclient import TestClient

from ptycho_ray.service import dispatch
from ptycho_ray.service.api import make_app
from ptycho_ray.service.database import connect
from ptycho_ray.service.dispatch import Dispatcher
from ptycho_ray.service.jobs import AUTOMATIC, JobStore
from ptycho_ray.service.metering import Meter, Spent, estimate
from ptycho_ray.service.quotas import Quota, QuotaStore
from ptycho_ray.service.service import Service
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.turns import NICENESS, Turns, give_way

RAW = {"Content-Type": "application/octet-stream", "Prefer": "respond-async"}


def add(store: JobStore, owner: str = "ann", model: str = "m@1@x") -> str:
    asked = {"options": {}, "source": "/s", "source_name": "s", "deadline_s": 1e6, "max_jobs": 10**6}
    return store.create(owner=owner, model=model, max_jobs_of_owner=10**6, **asked)[0].id


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(connect(f"sqlite:///{tmp_path / 'jobs.sqlite'}"))


@pytest.fixture
def settings(tmp_path: Path) -> ServiceSettings:
    return ServiceSettings(data_dir=tmp_path, require_token=False)


def test_what_is_urgent_is_done_first_and_with_a_model_as_well_as_without(
    store: JobStore, settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "WITH_MODEL", 1)
    monkeypatch.setattr(dispatch, "WITHOUT_MODEL", 1)
    QuotaStore(store.engine).settle("live", Quota(priority=5))
    automatic = [add(store, model=AUTOMATIC) for _ in range(3)]
    ordinary = [add(store) for _ in range(4)]
    urgent = [add(store, "live") for _ in range(2)]
    begun: list[str] = []
    go = asyncio.Event()

    async def run(job_id: str, attempt: int, _: str) -> None:
        begun.append(job_id)
        await go.wait()
        store.finish(job_id, attempt, {})

    async def scenario() -> None:
        dispatcher = Dispatcher(store, run, settings, "w")
        await dispatcher.start()
        while len(begun) < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert sorted(begun) == sorted([automatic[0], urgent[0]])
        assert store.counts()["queued"] == 9
        go.set()
        while store.counts()["done"] < 9:
            await asyncio.sleep(0.01)
        await dispatcher.stop()

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
    assert [job for job in begun if job in automatic] == automatic
    assert [job for job in begun if job not in automatic] == urgent + ordinary


def test_turns_go_by_priority_and_pass_over_who_has_left() -> None:
    order: list[str] = []

    async def scenario() -> None:
        turns = Turns()

        async def work(name: str, priority: int) -> None:
            async with turns.turn(priority):
                order.append(name)
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(work(*asked)) for asked in (("a", 0), ("b", 0), ("c", 9), ("left", 5), ("d", 0))]
        await asyncio.sleep(0)
        tasks[3].cancel()
        await asyncio.wait(tasks)

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
    assert order == ["a", "c", "b", "d"]


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The URL of a database, and what restarts its server."""
    if request.param == "SQLite":
        yield f"sqlite:///{tmp_path / 'jobs.sqlite'}", lambda: None
        return
    with own_server() as server:

        def restart() -> None:
            server.stop("immediate")
            time.sleep(0.5)
            server.start()

        yield server.new_database(), restart


def test_two_replicas_do_each_job_once_and_a_restart_of_the_database_loses_none(
    database: tuple[str, Callable[[], None]], settings: ServiceSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, restart = database
    monkeypatch.setattr(dispatch, "HEARTBEAT_S", 0.2)
    stores = [JobStore(connect(url), patience_s=PATIENCE_S) for _ in range(2)]
    done: Counter[str] = Counter()
    by: Counter[str] = Counter()

    def runner(name: str, store: JobStore) -> dispatch.Runner:
        async def run(job_id: str, attempt: int, _: str) -> None:
            for step in range(4):
                if not await asyncio.to_thread(store.report, job_id, attempt, "reconstructing", step, 4):
                    return
                await asyncio.sleep(0.02)
            if await asyncio.to_thread(store.finish, job_id, attempt, {"attempt": attempt}):
                done[job_id] += 1
                by[name] += 1

        return run

    async def scenario() -> list[str]:
        both = [Dispatcher(store, runner(str(k), store), settings, str(k)) for k, store in enumerate(stores)]
        for one in both:
            await one.start()
        jobs = [await asyncio.to_thread(add, stores[k % 2]) for k in range(30)]
        await asyncio.to_thread(restart)
        jobs += [await asyncio.to_thread(add, stores[k % 2]) for k in range(30)]
        while (await asyncio.to_thread(stores[0].counts))["done"] < 60:
            await asyncio.sleep(0.05)
        for one in both:
            await one.stop()
        return jobs

    jobs = asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
    assert done.keys() <= set(jobs)
    assert set(done.values()) == {1}
    assert len(by) == 2
    assert stores[0].counts() == {"queued": 0, "running": 0, "done": 60, "failed": 0, "cancelled": 0}
    for store in stores:
        store.engine.dispose()


def test_what_is_counted_is_what_was_used() -> None:
    meter, two = Meter(gpu=True), [Spent(), Spent()]
    cpu, wall = time.process_time(), time.perf_counter()
    with meter.counting(two[0]):
        sum(range(10**5))
        with meter.counting(two[1]):
            sum(range(10**6))
    most_cpu, most_wall = time.process_time() - cpu, time.perf_counter() - wall
    assert 0 < two[1].cpu_s < two[0].cpu_s
    assert two[0].cpu_s + two[1].cpu_s <= most_cpu
    assert 0 < two[0].gpu_s + two[1].gpu_s <= most_wall
    sum(range(10**5))
    assert meter.so_far(two[0])["cpu_s"] == round(two[0].cpu_s, 4)  # nothing after its end


def test_the_cost_of_a_scan_is_that_of_those_before(store: JobStore) -> None:
    assert estimate(store, "m@1@x", 100, 64) == {"patterns": 100, "side": 64, "jobs": 0}
    for factor in (1, 2, 30):
        job = add(store)
        assert store.claim(job, "w") == 1
        assert store.finish(job, 1, {}, {"patterns": 50, "side": 32, "cpu_s": 1.5 * factor, "bytes": 1000 * factor})
    likely = estimate(store, "m@1@x", 100, 64)
    assert likely == {"patterns": 100, "side": 64, "jobs": 3, "cpu_s": 24.0, "gpu_s": 0.0, "bytes": 16000}
    assert estimate(store, AUTOMATIC, 100, 64)["jobs"] == 0


class Slow:
    async def run(self, job_id: str, attempt: int, model_key: str) -> None:
        await asyncio.sleep(3600)

    async def predict(self, *_: Any) -> Any:
        raise AssertionError("no stream is opened")


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(ServiceSettings(data_dir=tmp_path, require_token=True), Slow(), "here")


@pytest.fixture
def http(service: Service) -> Iterator[TestClient]:
    with TestClient(make_app(service), base_url="http://127.0.0.1") as client:
        yield client


def as_a(service: Service, role: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.tokens.add(role, role)[1]}"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="threads have a priority of their own on Linux only")
def test_who_computes_gives_way_to_who_receives() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        computing = pool.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id())).result()
    assert computing == max(NICENESS, own)
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_a_quota_is_settled_seen_and_kept_over_http(service: Service, http: TestClient) -> None:
    admin, submit = as_a(service, "admin"), as_a(service, "submit")
    wish = {"jobs_a_day": 1, "priority": 7}
    assert http.put("/v1/quotas/submit", json=wish, headers=submit).status_code == 403
    for wrong in (-1, 10**30):
        assert http.put("/v1/quotas/submit", json={"jobs_a_day": wrong}, headers=admin).status_code == 422
    assert http.put("/v1/quotas/submit", json=wish, headers=admin).json()["quota"]["jobs_a_day"] == 1
    accepted = http.post("/v1/reconstructions", content=b"scan", headers=submit | RAW)
    assert accepted.status_code == 202
    assert accepted.json()["priority"] == 7
    assert accepted.json()["cost"] == {"cpu_s": 0, "gpu_s": 0, "bytes": 4}
    refused = http.post("/v1/reconstructions", content=b"scan", headers=submit | RAW)
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert 86000 < int(refused.headers["retry-after"]) <= 86400
    assert refused.json()["quota"] == "jobs_a_day"
    used = http.get("/v1/usage", headers=submit).json()
    assert used["used"] == {"jobs_at_once": 1, "jobs_a_day": 1, "bytes_kept": 4, "compute_s_a_day": 0}
    assert http.get("/v1/usage?name=admin", headers=submit).status_code == 403
    assert http.get("/v1/usage?name=submit", headers=admin).json() == used
    assert http.delete("/v1/quotas/submit", headers=admin).status_code == 204
    assert http.delete("/v1/quotas/submit", headers=admin).status_code == 404
    likely = http.get("/v1/estimate?patterns=100&side=64", headers=submit).json()
    assert (likely["jobs"], likely["waiting"], likely["cpu_s"]) == (0, 1, None)
