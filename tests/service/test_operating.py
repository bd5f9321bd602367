"""What an operator does: drain, back up, restore, have retention and alerts. No Ray."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import wait_for
from postgresql_server import Server, own_server
from starlette.testclient import TestClient

from ptycho_ray.commands.cli import main
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.service import draining
from ptycho_ray.service.alerts import ALERTS, rules
from ptycho_ray.service.api import make_app
from ptycho_ray.service.backup import back_up, restore
from ptycho_ray.service.database import connect
from ptycho_ray.service.jobs import JobStore
from ptycho_ray.service.quotas import Quota, QuotaStore
from ptycho_ray.service.service import Service
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.tokens import TokenStore

RAW = {"Content-Type": "application/octet-stream", "Prefer": "respond-async"}


class Idle:
    async def run(self, job_id: str, attempt: int, model_key: str) -> None:
        await asyncio.sleep(3600)

    async def predict(self, *_: Any) -> Any:
        raise AssertionError("no stream is opened")


def add(store: JobStore, number: int) -> str:
    asked = {"model": "m@1@x", "options": {}, "source": "/s", "deadline_s": 1e6}
    job, _ = store.create(owner="ann", source_name=str(number), max_jobs=10**6, max_jobs_of_owner=10**6, **asked)
    return job.id


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with own_server() as running:
        yield running


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.slow)])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    """Of two new databases of one kind."""
    if request.param == "SQLite":
        return [f"sqlite:///{tmp_path / name / 'jobs.sqlite'}" for name in "ab"]
    running: Server = request.getfixturevalue("server")
    return [running.new_database() for _ in range(2)]


def test_a_back_up_while_jobs_come_in_is_one_moment_and_can_be_restored(urls: list[str], tmp_path: Path) -> None:
    store = JobStore(connect(urls[0]))
    token, text = TokenStore(store.engine).add("ann", "submit")
    QuotaStore(store.engine).settle("ann", Quota(priority=3))
    over, count = threading.Event(), [0]

    def come_in() -> None:
        while not over.is_set():
            add(store, count[0])
            count[0] += 1

    thread = threading.Thread(target=come_in)
    thread.start()
    try:
        wait_for(lambda: count[0] > 20, "jobs")
        before, path = count[0], tmp_path / "jobs.backup"
        back_up(urls[0], path)
        after = count[0] + 1
    finally:
        over.set()
        thread.join()
    assert path.stat().st_mode & 0o777 == 0o600
    lost = JobStore(connect(urls[1]))
    add(lost, -1)  # what is there is replaced
    lost.engine.dispose()
    restore(urls[1], path)
    restored = JobStore(connect(urls[1]))
    numbers = sorted(int(job.source_name) for job in restored.recent("ann", 10**6))
    assert numbers == list(range(len(numbers)))
    assert before <= len(numbers) <= after
    assert TokenStore(restored.engine).find(text) == token
    assert QuotaStore(restored.engine).of("ann").priority == 3


def test_what_is_no_back_up_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    job = add(JobStore(connect(url)), 1)
    for content in (b"", b"junk" * 1000, b"PGDMP and more", b"SQLite format 3\0" + bytes(5000)):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(InputError):
            restore(url, tmp_path / "file")
    assert JobStore(connect(url)).get(job).id == job


def test_the_commands_of_back_up_and_restoration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, kept = tmp_path / "data", str(tmp_path / "kept")
    job = add(JobStore(connect(f"sqlite:///{data / 'jobs.sqlite'}")), 1)
    of = ["--data-dir", str(data)]
    assert main(["operate", "backup", kept, *of]) == 0
    assert main(["operate", "backup", kept, *of]) == 2  # it exists
    JobStore(connect(f"sqlite:///{data / 'jobs.sqlite'}")).delete(job)
    with draining.only_one(data):
        assert main(["operate", "restore", kept, *of, "--overwrite"]) == 2
    assert "operate drain" in capsys.readouterr().err
    assert main(["operate", "restore", kept, *of]) == 2
    assert main(["operate", "restore", kept, *of, "--overwrite"]) == 0
    assert JobStore(connect(f"sqlite:///{data / 'jobs.sqlite'}")).get(job).source_name == "1"
    assert main(["operate", "restore", kept, "--data-dir", str(tmp_path / "new")]) == 0
    assert main(["operate", "quota", "ann", "--gib-kept", "0.5", "--priority", "2", *of]) == 0
    assert "536870912" in capsys.readouterr().out
    assert main(["operate", "quota", *of]) == 2


@pytest.fixture
def service(tmp_path: Path) -> Service:
    return Service(ServiceSettings(data_dir=tmp_path / "data", require_token=False), Idle(), "here")


@pytest.fixture
def http(service: Service) -> Iterator[TestClient]:
    with TestClient(make_app(service), base_url="http://127.0.0.1") as client:
        yield client


def test_a_drained_service_accepts_nothing_new_and_answers_for_what_it_has(service: Service, http: TestClient) -> None:
    data, path = service.settings.data_dir, "/v1/reconstructions"
    mine = RAW | {"Idempotency-Key": "mine"}
    job = http.post(path, content=b"scan", headers=mine).json()["id"]
    draining.drain(data)
    refused = http.post(path, content=b"scan", headers=RAW)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
    assert http.get("/readyz").status_code == 503
    assert http.get("/healthz").status_code == 200
    assert http.post(path, content=b"scan", headers=mine).json()["id"] == job
    assert "ptycho_ray_draining 1.0" in http.get("/metrics").text
    asked: list[str] = []
    left = iter([2, 1, 1, 0, 0, 0])
    with draining.only_one(data), pytest.raises(ConfigurationError), draining.only_one(data):
        pass
    assert draining.wait_until_done(lambda: next(left), data, 60, asked.append)
    assert [line.split()[0] for line in asked] == ["2", "1"]
    assert not draining.wait_until_done(lambda: 1, data, 0, asked.append)
    draining.accept(data)
    assert http.post(path, content=b"scan", headers=RAW).status_code == 202


def test_the_oldest_results_go_where_space_is_short(service: Service) -> None:
    ids = []
    for number in range(3):
        job_id = add(service.jobs, number)
        folder = service.settings.job_folder(job_id)
        folder.mkdir(parents=True)
        (folder / "scan").write_bytes(bytes(1000))
        assert service.jobs.claim(job_id, "w") == 1
        assert service.jobs.finish(job_id, 1, {}, {"bytes": 1000})
        ids.append(job_id)
    object.__setattr__(service.settings, "keep_bytes", 2500)
    service.dispatcher._clean()
    assert [service.settings.job_folder(job_id).exists() for job_id in ids] == [False, True, True]
    assert [service.jobs.exists(job_id) for job_id in ids] == [False, True, True]


def test_alerts_name_metrics_that_exist(http: TestClient, tmp_path: Path) -> None:
    for path in ("/v1/models", "/readyz"):
        http.get(path)
    there = set(re.findall(r"^(ptycho_ray_\w+)", http.get("/metrics").text, re.MULTILINE))
    for alert in ALERTS:
        named = set(re.findall(r"\b(ptycho_ray_\w+)", alert.when))
        assert named <= there, alert.name
        assert alert.when.count("(") == alert.when.count(")")
        assert re.fullmatch(r"\d+[mh]", alert.lasts)
    assert main(["operate", "alerts", str(tmp_path / "rules.yaml")]) == 0
    (group,) = yaml.safe_load((tmp_path / "rules.yaml").read_text())["groups"]
    assert [rule["alert"] for rule in group["rules"]] == [f"PtychoRay{alert.name}" for alert in ALERTS]
    assert rules() == (tmp_path / "rules.yaml").read_text()
