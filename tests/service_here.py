"""The service in this process: its interface on a port of its own, its replica a thread. No Ray, and up within a second."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from helpers import PATIENCE_S, free_port

from ptycho_ray.service.api import make_app
from ptycho_ray.service.engine import LoadedModel
from ptycho_ray.service.jobs import AUTOMATIC, LOOK, JobStore
from ptycho_ray.service.memory import MemoryBudget
from ptycho_ray.service.models import ModelStore
from ptycho_ray.service.service import Service
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.work import run_job


class ReplicaHere:
    """What ``deployments.Models`` does, in threads of this process."""

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings, self.memory, self.store = settings, MemoryBudget.of(settings), None
        self.pool, self.solver = ThreadPoolExecutor(2), ThreadPoolExecutor(1)
        self.loaded: dict[str, LoadedModel] = {}

    async def run(self, job_id: str, attempt: int, model_key: str) -> None:
        pool = self.solver if model_key == AUTOMATIC else self.pool
        await asyncio.get_running_loop().run_in_executor(pool, self._run, job_id, attempt, model_key)

    def _run(self, job_id: str, attempt: int, key: str) -> None:
        if key not in (AUTOMATIC, LOOK) and key not in self.loaded:
            place = ModelStore(self.settings).by_key(key).path
            self.loaded[key] = LoadedModel.load(place, self.settings)
        assert self.store is not None
        run_job(job_id, attempt, self.loaded.get(key), self.store, self.settings, self.memory)

    async def predict(self, *_: Any) -> Any:
        raise AssertionError("no stream is opened")

    async def states(self) -> dict[str, dict[str, int]]:
        return {"Interface": {"RUNNING": 1}, "Models": {"RUNNING": 1}}


@contextmanager
def service_here(folder: Path, port: int | None = None, **settings: Any) -> Iterator[tuple[str, Service]]:
    """Address and state of a service with these settings until the block ends."""
    defaults = {"require_token": False, "accelerator": "cpu", "min_free_bytes": 0, "requests_per_minute": 100_000}
    chosen = ServiceSettings(data_dir=folder, **(defaults | settings))
    replica = ReplicaHere(chosen)
    service = Service(chosen, replica, "here")
    replica.store = JobStore(service.jobs.engine)
    port = port or free_port()
    config = uvicorn.Config(make_app(service), host="127.0.0.1", port=port, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    until = time.monotonic() + PATIENCE_S
    while not server.started:
        assert time.monotonic() < until, "the service did not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}", service
    finally:
        server.should_exit = True
        thread.join()
        replica.pool.shutdown()
        replica.solver.shutdown()
