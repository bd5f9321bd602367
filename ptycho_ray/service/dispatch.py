"""Dispatching jobs: each is given to a replica of the models, and retried if the replica or this process dies."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Awaitable, Callable

from ptycho_ray.service.jobs import MAX_ATTEMPTS, Job, JobStore
from ptycho_ray.service.problems import Problem, from_error
from ptycho_ray.service.settings import ServiceSettings

log = logging.getLogger(__name__)

HEARTBEAT_S = 3.0
RETRY_S = 0.5
CLEAN_EVERY = 200

#: Runs one attempt of a job: job id, attempt, model key. Raises ReplicaLost if another try may succeed.
Runner = Callable[[str, int, str], Awaitable[None]]


class ReplicaLost(Exception):
    """The replica working on a job was lost, through no fault of the job."""


class Dispatcher:
    """Runs the jobs of this process, and those abandoned by other processes."""

    def __init__(self, store: JobStore, runner: Runner, settings: ServiceSettings, worker: str) -> None:
        self.store, self.runner, self.settings, self.worker = store, runner, settings, worker
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._heart: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start dispatching jobs."""
        self._heart = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """Release unfinished jobs, so that another process can continue them."""
        for task in [self._heart, *self.tasks.values()]:
            if task is not None:
                task.cancel()
        await asyncio.to_thread(self.store.release, self.worker)

    def dispatch(self, job_id: str, model_key: str) -> asyncio.Task[None]:
        """Run a job in the background; the task ends when the job is recorded as ended, or has been taken over by
        another process."""
        if job_id not in self.tasks:
            task = asyncio.create_task(self._run(job_id, model_key))
            self.tasks[job_id] = task
            task.add_done_callback(lambda _: self.tasks.pop(job_id, None))
        return self.tasks[job_id]

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
            job = await asyncio.to_thread(self.store.get, job_id)
            if not job.active or asyncio.get_running_loop().time() >= until:
                return job
            await asyncio.sleep(0.2)

    async def _run(self, job_id: str, model_key: str) -> None:
        attempt = await asyncio.to_thread(self.store.claim, job_id, self.worker)
        while attempt is not None:
            try:
                await self.runner(job_id, attempt, model_key)
            except ReplicaLost as error:
                log.warning("attempt %d at job %s was lost: %s", attempt, job_id, error)
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
        beats = 0
        while True:
            try:
                await asyncio.to_thread(self.store.renew, self.worker)
                for job in await asyncio.to_thread(self.store.abandoned):
                    if job.id not in self.tasks:
                        self.dispatch(job.id, job.model)
                if beats % CLEAN_EVERY == 0:
                    await asyncio.to_thread(self._clean)
            except Exception:  # the database may be away for a while; jobs go on when it is back
                log.exception("dispatching jobs failed")
            beats += 1
            await asyncio.sleep(HEARTBEAT_S)

    def _clean(self) -> None:
        """Delete expired files."""
        for job_id in self.store.old(self.settings.keep_s):
            shutil.rmtree(self.settings.job_folder(job_id), ignore_errors=True)
            self.store.delete(job_id)
        for folder in (self.settings.data_dir / "jobs").glob("*"):  # uploads and streams that never became a job
            if time.time() - folder.stat().st_mtime > self.settings.keep_s and not self.store.exists(folder.name):
                shutil.rmtree(folder, ignore_errors=True)
