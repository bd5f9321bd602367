"""The state and helpers of the interface."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any, Protocol

import numpy as np

from ptycho_ray.service import metrics
from ptycho_ray.service.database import connect
from ptycho_ray.service.dispatch import Dispatcher
from ptycho_ray.service.draining import draining
from ptycho_ray.service.jobs import JobStore
from ptycho_ray.service.metrics import Metrics
from ptycho_ray.service.models import ModelStore
from ptycho_ray.service.problems import Problem, storage_full
from ptycho_ray.service.quotas import QuotaStore
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.tokens import TokenStore


class Replicas(Protocol):
    """The replicas of the models, as the interface sees them."""

    async def run(self, job_id: str, attempt: int, model_key: str) -> None:
        """One attempt at a job; raises ReplicaLost."""

    async def states(self) -> dict[str, dict[str, int]]:
        """How many replicas of each part of the service are in which state."""

    async def predict(
        self, model_key: str, stream_id: str, first: int, frames: np.ndarray, positions: np.ndarray, domain: str
    ) -> Any:
        """Patches, positions and weight for some patterns of a stream (``live_image.predict``), in the physics that its first
        ``first`` patterns tell; with 0 the model is only loaded. Raises ReplicaLost."""


class Service:
    """Settings, records and helpers of one replica of the interface."""

    def __init__(self, settings: ServiceSettings, replicas: Replicas, worker: str) -> None:
        self.settings, self.replicas = settings, replicas
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        engine = connect(settings.database)
        self.jobs = JobStore(engine, keep_s=settings.keep_s)
        self.quotas = QuotaStore(engine)
        self.tokens = TokenStore(engine)
        self.models = ModelStore(settings)
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(self.jobs, replicas.run, settings, worker, self.metrics.lost.inc)
        self.open_streams = 0
        #: Pictures that are computed at a time; the processors are needed elsewhere.
        self.computing = asyncio.Semaphore(2)

    def check_space(self) -> None:
        """Whether there is room for new work: Problem 503 while the service is drained, 507 while the disk is nearly full."""
        if draining(self.settings.data_dir):
            raise Problem(503, "busy", "The service finishes its work and will then be restarted.", retry_after_s=10)
        if shutil.disk_usage(self.settings.data_dir).free < self.settings.min_free_bytes:
            raise storage_full()

    def shared_metrics(self) -> dict[str, float]:
        """The values of ``metrics.SHARED``."""
        settings = self.settings
        return {
            metrics.JOBS_LIMIT: settings.max_jobs,
            metrics.WAITING: self.jobs.oldest_waiting_s(),
            metrics.DISK_FREE: shutil.disk_usage(settings.data_dir).free,
            metrics.DISK_RESERVE: settings.min_free_bytes,
            metrics.DRAINING: draining(settings.data_dir),
        }
