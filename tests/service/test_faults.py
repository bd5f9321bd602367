"""What may go wrong around a running service, and what its callers notice of it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import PATIENCE_S

from ptycho_ray.client import AsyncClient, Client, ServiceError

pytestmark = pytest.mark.slow

RAW = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def service(deploy: Callable[..., Any]) -> Any:
    """Small limits, so that they are reached; two replicas of the models."""
    return deploy("faults", max_jobs=24, max_jobs_per_token=20, body_timeout_s=1.5, options={"max_ongoing_requests": 8})


def actors(kind: str, app: str = "faults") -> list[str]:
    import ray

    named = [entry["name"] for entry in ray.util.list_named_actors(all_namespaces=True)]
    return [name for name in named if kind in name and (app in name or kind == "PROXY")]


def kill(name: str) -> None:
    import ray

    ray.kill(ray.get_actor(name, namespace="serve"), no_restart=True)


def until(condition: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.HTTPError, ServiceError):
            if found := condition():
                return found
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


class Load:
    """Requests by several threads, one after the other, until told to stop; what they were answered."""

    def __init__(self, url: str, scan: bytes, threads: int = 4, model: str = "tiny") -> None:
        self.url, self.scan, self.params = url, scan, {"model": model}
        self.answers: Counter[int] = Counter()
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(threads)]

    def ask(self) -> None:
        with httpx.Client(timeout=PATIENCE_S) as http:
            while not self.over.is_set():
                try:
                    answer = http.post(
                        f"{self.url}/v1/reconstructions", content=self.scan, headers=RAW, params=self.params
                    )
                    self.answers[answer.status_code] += 1
                except httpx.TransportError:
                    self.answers[0] += 1

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(PATIENCE_S)


@pytest.fixture
def load(service: Any, scan_file: Path) -> Iterator[Load]:
    with Load(service.url, scan_file.read_bytes()) as running:
        until(lambda: running.answers[200] > 3)
        yield running


def test_a_replica_of_the_models_is_killed_under_load(load: Load) -> None:
    (victim,) = actors("#Models#")
    kill(victim)
    before = load.answers[200]
    until(lambda: load.answers[200] > before + 8)
    load.__exit__()
    assert set(load.answers) == {200}
    assert actors("#Models#") != [victim]


def test_a_replica_of_the_interface_is_killed_and_the_client_does_not_notice(service: Any, scan_file: Path) -> None:
    async def work() -> list[Any]:
        async with AsyncClient(service.url) as client:
            asked = [asyncio.create_task(client.reconstruct(scan_file, model="tiny")) for _ in range(8)]
            await asyncio.sleep(0.3)
            await asyncio.to_thread(kill, actors("#Interface#")[0])
            return list(await asyncio.gather(*asked))

    assert len(asyncio.run(work())) == 8


def test_a_job_survives_the_interface_that_took_it(service: Any) -> None:
    with Client(service.url) as client:
        job = until(lambda: client.submit(demo="dead_leaves", model="tiny", n_subsample=200))
        kill(actors("#Interface#")[0])
        done = client.wait(job["id"])
    assert done["state"] == "done"


def test_the_proxy_is_killed_and_the_client_does_not_notice(service: Any, scan_file: Path) -> None:
    with Client(service.url) as client:
        assert client.models()
        kill(actors("PROXY")[0])
        assert client.reconstruct(scan_file, model="tiny").content
    assert actors("PROXY")


def test_a_new_version_and_a_broken_one_are_rolled_in_under_load(
    service: Any, load: Load, small_scan: Any, write_model: Any
) -> None:
    def newest() -> str:
        return str(httpx.get(f"{service.url}/readyz", timeout=PATIENCE_S).json()["models"][0])

    incoming = service.model_root / "tiny" / ".incoming"
    write_model(incoming, small_scan, seed=5)
    incoming.rename(service.model_root / "tiny" / "2")
    until(lambda: newest() == "tiny@2")
    broken = service.model_root / "tiny" / "3"
    broken.mkdir()
    (broken / "wts.h5.zip").write_bytes((service.model_root / "tiny" / "2" / "wts.h5.zip").read_bytes()[:-2000])
    before = load.answers[200]
    until(lambda: load.answers[200] > before + 8)
    assert newest() == "tiny@2"
    states = {
        model["version"]: model["state"] for model in httpx.get(f"{service.url}/v1/models", timeout=PATIENCE_S).json()
    }
    assert states == {"3": "broken", "2": "good", "1": "good"}
    refused = httpx.post(
        f"{service.url}/v1/reconstructions", json={"demo": "lines", "model": "tiny@3"}, timeout=PATIENCE_S
    )
    assert refused.status_code == 503
    load.__exit__()
    assert set(load.answers) == {200}
    shutil.rmtree(broken)
    shutil.rmtree(service.model_root / "tiny" / "2")


def test_models_are_evicted_while_they_are_used(
    service: Any, scan_file: Path, small_scan: Any, write_model: Any
) -> None:
    names = [f"m{k}" for k in range(6)]  # a replica keeps three
    for k, name in enumerate(names):
        write_model(service.model_root / name / "1", small_scan, seed=k)
    loads = [Load(service.url, scan_file.read_bytes(), threads=1, model=name) for name in names]
    with contextlib.ExitStack() as stack:
        for one in loads:
            stack.enter_context(one)
        until(lambda: all(one.answers[200] >= 3 for one in loads))
    assert all(set(one.answers) == {200} for one in loads)
    for name in names:
        shutil.rmtree(service.model_root / name)


def test_too_many_at_once_are_told_so_at_once(service: Any, scan_file: Path) -> None:
    content = scan_file.read_bytes()
    answers: list[httpx.Response] = []

    def ask() -> None:
        started = time.monotonic()
        answer = httpx.post(
            f"{service.url}/v1/reconstructions?model=tiny", content=content, headers=RAW, timeout=PATIENCE_S
        )
        answer.elapsed_here = time.monotonic() - started  # type: ignore[attr-defined]
        answers.append(answer)

    threads = [threading.Thread(target=ask) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = Counter(answer.status_code for answer in answers)
    assert set(found) <= {200, 429, 503}
    assert found[200] >= 20
    for answer in answers:
        if answer.status_code != 200:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.headers["content-type"] == "application/problem+json"
    assert found[429] > 0


def test_a_caller_who_has_gone_is_not_worked_for(service: Any) -> None:
    with Client(service.url) as client:
        before = [client.submit(demo="lines", model="tiny") for _ in range(12)]  # so that the next one has to wait
        with contextlib.suppress(httpx.ReadTimeout):
            httpx.post(
                f"{service.url}/v1/reconstructions",
                json={"demo": "siemens", "model": "tiny"},
                timeout=httpx.Timeout(10, read=0.5),
            )
        jobs = httpx.get(f"{service.url}/v1/reconstructions", timeout=PATIENCE_S).json()
        (gone,) = [job["id"] for job in jobs if job["source"] == "demo scan siemens"]
        until(lambda: client.job(gone)["state"] in ("cancelled", "done"))
        assert client.job(gone)["state"] == "cancelled"
        for job in before:
            client.cancel(job["id"])


def test_half_a_body_and_then_nothing(service: Any) -> None:
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port), timeout=PATIENCE_S) as line:
        head = f"POST {url.path}/v1/reconstructions HTTP/1.1\r\nHost: {url.host}:{url.port}\r\n"
        line.sendall(f"{head}Content-Type: application/octet-stream\r\nContent-Length: 100000\r\n\r\n".encode())
        line.sendall(b"x" * 5000)
        answer = line.recv(4096)
    assert b" 408 " in answer.split(b"\r\n")[0]
    assert httpx.get(f"{service.url}/healthz", timeout=PATIENCE_S).status_code == 200
    assert not [scan for scan in (service.data_dir / "jobs").glob("*/scan") if scan.stat().st_size < 10_000]


def test_connections_that_never_speak(service: Any, scan_file: Path) -> None:
    url = httpx.URL(service.url)
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(socket.create_connection((url.host, url.port), timeout=PATIENCE_S))
        with Client(service.url) as client:
            assert client.reconstruct(scan_file, model="tiny").content


def test_replicas_come_with_the_load(deploy: Callable[..., Any], scan_file: Path) -> None:
    soon = {"target_ongoing_requests": 1, "upscale_delay_s": 0.5, "metrics_interval_s": 0.2, "look_back_period_s": 1}
    scaled = deploy("scaling", max_replicas=2, options={"autoscaling_config": soon})
    assert len(actors("#Models#", "scaling")) == 1
    with Load(scaled.url, scan_file.read_bytes(), threads=6) as load:
        until(lambda: len(actors("#Models#", "scaling")) == 2)
        until(lambda: load.answers[200] > 20)
    assert set(load.answers) == {200}


def test_a_full_disk(deploy: Callable[..., Any], scan_file: Path) -> None:
    full = deploy("full", min_free_bytes=2**60)
    answer = httpx.post(
        f"{full.url}/v1/reconstructions", content=scan_file.read_bytes(), headers=RAW, timeout=PATIENCE_S
    )
    assert answer.status_code == 507
    assert answer.headers["retry-after"]
    assert httpx.get(f"{full.url}/readyz", timeout=PATIENCE_S).status_code == 507
    assert httpx.get(f"{full.url}/healthz", timeout=PATIENCE_S).status_code == 200
