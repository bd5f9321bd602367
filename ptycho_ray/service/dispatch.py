"""Dispatching jobs: each is given to a replica of the models, and retried if the replica or this process dies. The replicas get
as many as they can work on; the others wait in the database, where those of the highest priority are first."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Awaitable, Callable

from ptycho_ray.service.database import AWAY
from ptycho_ray.service.jobs import AUTOMATIC, MAX_ATTEMPTS, Job, JobStore
from ptycho_ray.service.problems import Problem, from_error
from ptycho_ray.service.settings import ServiceSettings

log = logging.getLogger(__name__)

HEARTBEAT_S = 3.0
RETRY_S = 0.5
CLEAN_EVERY = 20
#: Jobs that a replica of the models has at once: with a model, it works on all of them together; without any on one, and a few
#: more wait for it, by which Ray Serve sees that another replica would be of use.
WITH_MODEL, WITHOUT_MODEL = 16, 8

#: Runs one attempt of a job: job id, attempt, model key. Raises ReplicaLost if another try may succeed.
Runner = Callable[[str, int, str], Awaitable[None]]


class ReplicaLost(Exception):
    """The replica working on a job was lost, through no fault of the job."""


class Dispatcher:
    """Runs the jobs of this process, and those abandoned by other processes."""

    def __init__(
        self,
        store: JobStore,
        runner: Runner,
        settings: ServiceSettings,
        worker: str,
        on_loss: Callable[[], None] = lambda: None,
    ) -> None:
        self.store, self.runner, self.settings, self.worker, self.on_loss = store, runner, settings, worker, on_loss
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._automatic: set[str] = set()
        self._room = asyncio.Event()
        self._own: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start dispatching jobs."""
        self._own = [asyncio.create_task(self._beat()), asyncio.create_task(self._feed())]

    async def stop(self) -> None:
        """Release unfinished jobs, so that another process can continue them."""
        for task in [*self._own, *self.tasks.values()]:
            task.cancel()
        await asyncio.to_thread(self.store.release, self.worker)

    def dispatch(self, job_id: str, model_key: str) -> None:
        """Begin with a job in the background, unless so many are under way that it has to wait for its turn."""
        automatic = model_key == AUTOMATIC
        if job_id in self.tasks or self._places(automatic) <= 0:
            return
        task = asyncio.create_task(self._run(job_id, model_key))
        self.tasks[job_id] = task
        if automatic:
            self._automatic.add(job_id)
        task.add_done_callback(lambda _: self._ended(job_id))

    def _ended(self, job_id: str) -> None:
        self.tasks.pop(job_id, None)
        self._automatic.discard(job_id)
        self._room.set()

    def _places(self, automatic: bool) -> int:
        busy = len(self._automatic) if automatic else len(self.tasks) - len(self._automatic)
        return (WITHOUT_MODEL if automatic else WITH_MODEL) * self.settings.max_replicas - busy

    async def cancel(self, job_id: str) -> bool:
        """Cancel a job wherever it runs; False if it had ended."""
        cancelled = await asyncio.to_thread(self.store.cancel, job_id)
        if (task := self.tasks.get(job_id)) is not None:
            task.cancel()
        return cancelled

    async def ended(self, job_id: str, timeout_s: float) -> Job:
        """The job once it has ended, or as it is after ``timeout_s``."""
        until = asyncio.get_running_loop().time() + timeout_s
        while True:
            if (task := self.tasks.get(job_id)) is not None:
                await asyncio.wait({task}, timeout=max(0.0, until - asyncio.get_running_loop().time()))
            over = asyncio.get_running_loop().time() >= until
            try:
                job = await asyncio.to_thread(self.store.get, job_id)
            except AWAY:
                if over:
                    raise
            else:
                if over or not job.active:
                    return job
            await asyncio.sleep(0.2)

    async def _run(self, job_id: str, model_key: str) -> None:
        attempt = await asyncio.to_thread(self.store.claim, job_id, self.worker)
        while attempt is not None:
            try:
                await self.runner(job_id, attempt, model_key)
            except ReplicaLost as error:
                log.warning("attempt %d at job %s was lost: %s", attempt, job_id, error)
                self.on_loss()
                if attempt >= MAX_ATTEMPTS:
                    gone = Problem(500, "internal", f"The service lost this reconstruction {attempt} times.")
                    await asyncio.to_thread(self.store.fail, job_id, attempt, gone)
                    return
                await asyncio.sleep(RETRY_S * attempt)
                await asyncio.to_thread(self.store.hand_back, job_id, attempt)
                attempt = await asyncio.to_thread(self.store.claim, job_id, self.worker)
                continue
            except Problem as problem:
                await asyncio.to_thread(self.store.fail, job_id, attempt, problem)
            except Exception as error:  # whatever it is, the job must come to an end and the caller must hear of it
                log.exception("job %s failed", job_id)
                await asyncio.to_thread(self.store.fail, job_id, attempt, from_error(error))
            return

    async def _beat(self) -> None:
        """Keep the leases, and clean up from time to time."""
        beats = 0
        while True:
            try:
                await asyncio.to_thread(self.store.renew, self.worker)
                if beats % CLEAN_EVERY == 0:
                    await asyncio.to_thread(self._clean)
            except Exception:  # the database may be away for a while; jobs go on when it is back
                log.exception("keeping the jobs of this process failed")
            beats += 1
            await asyncio.sleep(HEARTBEAT_S)

    async def _feed(self) -> None:
        """Begin with waiting jobs, and with those that another process abandoned, whenever there is room for them."""
        while True:
            self._room.clear()
            try:
                for automatic in (True, False):
                    if (places := self._places(automatic)) > 0:
                        own = len(self.tasks)  # some of which may have no lease yet
                        for job in await asyncio.to_thread(self.store.free, automatic, places + own):
                            self.dispatch(job.id, job.model)
            except Exception:  # as above
                log.exception("dispatching jobs failed")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._room.wait(), HEARTBEAT_S)

    def _clean(self) -> None:
        """Delete expired files."""
        for job_id in self.store.expired(self.settings.keep_bytes):
            shutil.rmtree(self.settings.job_folder(job_id), ignore_errors=True)
            self.store.delete(job_id)
        for folder in (self.settings.data_dir / "jobs").glob("*"):  # uploads and streams that never became a job
            if time.time() - folder.stat().st_mtime > self.settings.keep_s and not self.store.exists(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
