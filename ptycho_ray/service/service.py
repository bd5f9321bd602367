"""The state and helpers of the interface."""

from __future__ import annotations

import shutil
from typing import Any, Protocol

import numpy as np

from ptycho_ray.service.database import connect
from ptycho_ray.service.dispatch import Dispatcher
from ptycho_ray.service.jobs import JobStore
from ptycho_ray.service.metrics import Metrics
from ptycho_ray.service.models import ModelStore
from ptycho_ray.service.problems import storage_full
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.tokens import TokenStore


class Replicas(Protocol):
    """The replicas of the models, as the interface sees them."""

    async def run(self, job_id: str, attempt: int, model_key: str) -> None:
        """One attempt at a job; raises ReplicaLost."""

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
        self.jobs = JobStore(engine)
        self.tokens = TokenStore(engine)
        self.models = ModelStore(settings)
        self.metrics = Metrics()
        self.dispatcher = Dispatcher(self.jobs, replicas.run, settings, worker)
        self.open_streams = 0

    def check_space(self) -> None:
        """Problem 507 while the disk is nearly full."""
        if shutil.disk_usage(self.settings.data_dir).free < self.settings.min_free_bytes:
            raise storage_full()
