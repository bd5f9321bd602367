"""The two deployments of the service on Ray Serve, and the function that configuration files refer to."""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from ray import serve
from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from ptycho_ray.service.audit import keep_log
from ptycho_ray.service.database import AWAY
from ptycho_ray.service.dispatch import WITH_MODEL, WITHOUT_MODEL, ReplicaLost
from ptycho_ray.service.guard import App
from ptycho_ray.service.jobs import AUTOMATIC, LOOK, new_id
from ptycho_ray.service.own_ray import listen_as_the_node_does
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.turns import Turns, give_way

MODELS_IN_MEMORY = 3
#: How long a replica that reconstructs waits for a database server that is away, before the attempt is lost.
PATIENCE_S = 300.0


@serve.deployment(
    max_ongoing_requests=WITH_MODEL + WITHOUT_MODEL,
    graceful_shutdown_timeout_s=30,
    health_check_period_s=5,
    health_check_timeout_s=30,
    ray_actor_options={"num_cpus": 1},
    autoscaling_config={"min_replicas": 1, "max_replicas": 2, "target_ongoing_requests": 8},
)
class Models:
    """Holds models and reconstructs with them, or without one; jobs of one model share forward passes."""

    def __init__(self, args: dict[str, Any]) -> None:
        listen_as_the_node_does()
        import torch

        from ptycho_ray.service.database import connect
        from ptycho_ray.service.engine import device_of
        from ptycho_ray.service.jobs import JobStore
        from ptycho_ray.service.memory import MemoryBudget
        from ptycho_ray.service.metering import Meter
        from ptycho_ray.service.models import ModelStore

        self.settings = ServiceSettings.from_args(args)
        self.settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        keep_log(self.settings.data_dir)
        self.physics: dict[tuple[str, str, int], Any] = {}  # of streams, see ``live_image.ScanPhysics``
        if self.settings.threads:
            torch.set_num_threads(self.settings.threads)
        keep_s = self.settings.keep_s
        self.jobs = JobStore(connect(self.settings.database), keep_s=keep_s, patience_s=PATIENCE_S)
        self.models = ModelStore(self.settings)
        self.memory = MemoryBudget.of(self.settings)
        self.meter = Meter(gpu=device_of(self.settings) != "cpu")
        self.pool = ThreadPoolExecutor(WITH_MODEL, "job", give_way)
        self.solver = ThreadPoolExecutor(
            1, "automatic", give_way
        )  # it uses every core, and its budget is the process's
        self.turns = Turns()

    @serve.multiplexed(max_num_models_per_replica=MODELS_IN_MEMORY)
    async def loaded(self, key: str) -> Any:
        """The model of this key; the least recently used one is unloaded, once its last job has ended."""
        from ptycho_ray.service.engine import LoadedModel

        return await self._in_pool(LoadedModel.load, self.models.by_key(key).path, self.settings)

    async def run(self, job_id: str, attempt: int) -> None:
        """One attempt at a job."""
        from ptycho_ray.service.work import run_job

        loaded = await self.loaded(serve.get_multiplexed_model_id())
        await self._in_pool(run_job, job_id, attempt, loaded, self.jobs, self.settings, self.memory, self.meter)

    async def run_without_model(self, job_id: str, attempt: int) -> None:
        """One attempt at a job that has no model."""
        from ptycho_ray.service.work import run_job

        job = await asyncio.to_thread(self.jobs.get, job_id)
        shared = (self.jobs, self.settings, self.memory, self.meter)
        async with self.turns.turn(job.priority):
            await self._in_pool(run_job, job_id, attempt, None, *shared, pool=self.solver)

    async def look(self, job_id: str, attempt: int) -> None:
        """One attempt at a job that only looks at its scan; it does not wait for those that solve."""
        from ptycho_ray.service.work import run_job

        await self._in_pool(run_job, job_id, attempt, None, self.jobs, self.settings, self.memory)

    async def predict(self, stream_id: str, first: int, frames: np.ndarray, positions: np.ndarray, domain: str) -> Any:
        """Patches, positions and weight for some patterns of a stream; without any, only what takes time is prepared."""
        from ptycho_ray.service.live_image import STREAMS_IN_MEMORY, physics_of_stream, predict

        key = serve.get_multiplexed_model_id()
        loaded = await self.loaded(key)
        if not first:
            return None
        known = (key, stream_id, first)
        if known not in self.physics:
            folder = self.settings.job_folder(stream_id)
            self.physics[known] = await self._in_pool(physics_of_stream, loaded, folder, first)
            for oldest in list(self.physics)[:-STREAMS_IN_MEMORY]:
                del self.physics[oldest]
        return await self._in_pool(predict, self.physics[known], frames, positions, domain)

    async def _in_pool(self, function: Any, *args: Any, pool: ThreadPoolExecutor | None = None) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool or self.pool, function, *args)


class ServeReplicas:
    """The deployment of the models behind its handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle

    async def run(self, job_id: str, attempt: int, model_key: str) -> None:
        """See ``Replicas``."""
        with _losses():
            if model_key in (AUTOMATIC, LOOK):
                method = "run_without_model" if model_key == AUTOMATIC else "look"
                await self.handle.options(method_name=method).remote(job_id, attempt)
            else:
                await self.handle.options(multiplexed_model_id=model_key, method_name="run").remote(job_id, attempt)

    async def states(self) -> dict[str, dict[str, int]]:
        """See ``Replicas``."""
        name = serve.get_replica_context().app_name
        parts = (await asyncio.to_thread(serve.status)).applications[name].deployments
        return {part: {str(state): count for state, count in of.replica_states.items()} for part, of in parts.items()}

    async def predict(
        self, model_key: str, stream_id: str, first: int, frames: np.ndarray, positions: np.ndarray, domain: str
    ) -> Any:
        """See ``Replicas``."""
        with _losses():
            remote = self.handle.options(multiplexed_model_id=model_key, method_name="predict").remote
            return await remote(stream_id, first, frames, positions, domain)


@contextlib.contextmanager
def _losses() -> Any:
    """Distinguish the loss of a replica from errors of the work itself."""
    try:
        yield
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, Problem):
            raise cause from None
        if isinstance(cause, AWAY):
            raise ReplicaLost("the job database is away") from error
        raise
    except (
        RayActorError,
        TaskCancelledError,
        DeploymentUnavailableError,
        BackPressureError,
        RayServeException,
    ) as error:
        raise ReplicaLost(type(error).__name__) from error


@serve.deployment(
    max_ongoing_requests=300,
    graceful_shutdown_timeout_s=30,
    health_check_period_s=5,
    ray_actor_options={"num_cpus": 0.5},
)
@serve.ingress()
class Interface:
    """Answers HTTP and websockets."""

    def __init__(self, models: DeploymentHandle, args: dict[str, Any]) -> None:
        listen_as_the_node_does()
        from ptycho_ray.service.service import Service

        settings = ServiceSettings.from_args(args)
        self.service = Service(settings, ServeReplicas(models), new_id())
        keep_log(settings.data_dir)

    def __serve_build_asgi_app__(self) -> App:
        from ptycho_ray.service.api import make_app

        return make_app(self.service, numbered=True)


def build(args: dict[str, Any]) -> Application:
    """The application; ``args`` are the fields of ``ServiceSettings``, checked before anything starts."""
    ServiceSettings.from_args(args)
    return Interface.bind(Models.bind(args), args)  # type: ignore[attr-defined] # the decorator made deployments of them


def scaled(args: dict[str, Any], max_replicas: int, **options: Any) -> Application:
    """``build`` for one machine: few processors reserved, since its replicas share them, and so many replicas at most."""
    args = args | {"max_replicas": max_replicas}
    drain_s = ServiceSettings.from_args(args).drain_s
    scaling = {"min_replicas": 1, "max_replicas": max_replicas, "target_ongoing_requests": 8}
    scaling |= options.pop("autoscaling_config", {})
    models: Any = Models.options(  # type: ignore[attr-defined] # as above
        ray_actor_options={"num_cpus": 0.1}, autoscaling_config=scaling, graceful_shutdown_timeout_s=drain_s, **options
    )
    interface: Any = Interface.options(  # type: ignore[attr-defined]
        ray_actor_options={"num_cpus": 0.1}, graceful_shutdown_timeout_s=drain_s
    )
    application: Application = interface.bind(models.bind(args), args)
    return application
