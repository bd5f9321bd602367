"""Callers whose connection breaks: what becomes of their jobs, and what a retry with the same key gets."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import PATIENCE_S

from ptycho_ray.client import Client
from ptycho_ray.service.api import make_app
from ptycho_ray.service.callers import patience
from ptycho_ray.service.job_results import RESULT
from ptycho_ray.service.service import Service
from ptycho_ray.service.settings import ServiceSettings

PATH = "/v1/reconstructions"
IMAGE = b"the image"


class Replicas:
    """Writes the image of a job as soon as ``go`` is set."""

    service: Service

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def run(self, job_id: str, attempt: int, model_key: str) -> None:
        self.service.jobs.report(job_id, attempt, "reconstructing", 1, 2)
        await self.go.wait()
        job = self.service.jobs.get(job_id)
        assert Path(job.source).read_bytes() == b"scan"
        (Path(job.source).parent / RESULT).write_bytes(IMAGE)
        self.service.jobs.finish(job_id, attempt, {})

    async def predict(self, *_: Any) -> Any:
        raise AssertionError("no stream is opened")


@pytest.fixture
def service(tmp_path: Path) -> Service:
    replicas = Replicas()
    replicas.service = Service(ServiceSettings(data_dir=tmp_path, require_token=False), replicas, "here")
    return replicas.service


async def post(
    app: Any, key: str | None, connected: bool, prefer: str = "", more_body: bool = False
) -> tuple[int, bytes]:
    """Status and body of a POST whose connection breaks after its last byte, unless it stays connected."""
    messages = [{"type": "http.request", "body": b"scan", "more_body": more_body}]
    answers: list[Any] = []

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.sleep(3600 if connected else 0.05)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        answers.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/octet-stream")]
    headers += [(b"prefer", prefer.encode())] if prefer else []
    headers += [] if key is None else [(b"idempotency-key", key.encode())]
    scope = {"type": "http", "method": "POST", "path": PATH, "raw_path": PATH.encode(), "query_string": b"",
             "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http", "http_version": "1.1"}  # fmt: skip
    await app(scope, receive, send)
    return answers[0]["status"], b"".join(message.get("body", b"") for message in answers[1:])


def test_whoever_retries_with_the_same_key_gets_the_image(service: Service) -> None:
    async def scenario() -> tuple[int, bytes]:
        app = make_app(service)
        assert (await post(app, "mine", connected=False))[0] == 499
        service.replicas.go.set()  # type: ignore[attr-defined]
        return await post(app, "mine", connected=True)

    assert asyncio.run(scenario()) == (200, IMAGE)
    (job,) = service.jobs.recent(None, 10)
    assert (job.state, job.attempt) == ("done", 1)


def test_an_upload_that_breaks_off_leaves_nothing_and_no_error(service: Service, caplog: Any) -> None:
    assert asyncio.run(post(make_app(service), "mine", connected=False, more_body=True))[0] == 499
    assert service.jobs.recent(None, 10) == []
    assert list((service.settings.data_dir / "jobs").iterdir()) == []
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_without_a_key_nobody_can_come_back_and_the_job_is_cancelled(service: Service) -> None:
    assert asyncio.run(post(make_app(service), None, connected=False))[0] == 499
    (job,) = service.jobs.recent(None, 10)
    assert job.state == "cancelled"


@pytest.mark.parametrize("key", ["mine", None])
def test_a_connection_that_breaks_while_the_job_is_recorded(
    service: Service, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    create = service.jobs.create

    def slowly(**fields: Any) -> Any:
        time.sleep(0.3)
        return create(**fields)

    async def scenario() -> None:
        app = make_app(service)
        asked = asyncio.create_task(post(app, key, connected=True))
        await asyncio.sleep(0.15)
        asked.cancel()  # what Ray's own proxy does when a connection breaks
        with pytest.raises(asyncio.CancelledError):
            await asked
        while not service.jobs.recent(None, 1):
            await asyncio.sleep(0.02)
        if key is not None:
            service.replicas.go.set()  # type: ignore[attr-defined]
            assert await post(app, key, connected=True) == (200, IMAGE)
        else:
            while service.jobs.recent(None, 1)[0].active:
                await asyncio.sleep(0.02)

    monkeypatch.setattr(service.jobs, "create", slowly)
    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))
    (job,) = service.jobs.recent(None, 10)
    assert job.state == ("cancelled" if key is None else "done")


def test_who_asks_for_an_image_gets_no_job_in_its_place(service: Service) -> None:
    async def scenario() -> None:
        app = make_app(service)
        assert [(await post(app, "mine", True, prefer))[0] for prefer in ("respond-async", "wait=1")] == [202, 202]
        asked = asyncio.create_task(post(app, "mine", True))
        assert not (await asyncio.wait({asked}, timeout=2))[0]
        service.replicas.go.set()  # type: ignore[attr-defined]
        assert await asked == (200, IMAGE)

    asyncio.run(asyncio.wait_for(scenario(), PATIENCE_S))


@pytest.mark.parametrize(
    ("said", "waits_s"), [("", 60), ("respond-async", 0), ("respond-async, wait=7", 7), ("wait=99", 60)]
)
def test_how_long_a_caller_waits(said: str, waits_s: float) -> None:
    assert patience(said, 60) == waits_s


@pytest.fixture
def proxy_without_routes() -> httpx.MockTransport:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) == 1:
            text = "Path '/v1/models' not found. Ping http://.../-/routes for available routes."
            return httpx.Response(404, text=text)
        return httpx.Response(200, json=[{"name": "tiny"}])

    return httpx.MockTransport(answer)


def test_the_client_waits_for_a_proxy_that_knows_no_route_yet(proxy_without_routes: httpx.MockTransport) -> None:
    with Client("http://127.0.0.1:1") as client:
        client._http = httpx.Client(transport=proxy_without_routes, base_url="http://127.0.0.1:1")
        assert client.models() == [{"name": "tiny"}]
