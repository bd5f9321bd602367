"""What happens between the start of a run on a cluster and its first step: it waits for room, then its workers start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Self

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.util import placement_group, remove_placement_group

from ptycho_ray.cluster.preflight import Workers, free_of
from ptycho_ray.display.scans_progress import waiting_line

#: Seconds between two looks, and between two lines about the same state: one that ends soon, one that may take hours.
LOOK_S, STARTING_S, WAITING_S = 1.0, 5.0, 60.0
#: Starts of workers in a row that may fail before a run looks for room again, or ends.
START_FAILURES = 3

Tell = Callable[[str], None]
#: Called about every second while a cluster has no room, with a line about what is waited for; ends the run by an exception.
OnWait = Callable[[str], None]


def now_and_then(tell: Tell) -> OnWait:
    """Tells what is waited for at once, and then once a minute."""
    last: list[float] = []

    def on_wait(line: str) -> None:
        now = time.monotonic()
        if not last or now - last[0] > WAITING_S:
            last[:] = [now]
            tell(line)

    return on_wait


def wait_for_room(workers: Workers, on_wait: OnWait) -> None:
    """Return when the fewest of the workers have room at the same time; raises what ``on_wait`` raises."""
    group = placement_group([dict(workers.resources)] * workers.fewest)
    try:
        while not group.wait(timeout_seconds=LOOK_S):
            needed = waiting_line(workers.resources, free_of(workers.resources), workers.fewest)
            on_wait(needed or f"waiting for room for {workers.fewest} workers on the machines of the cluster")
    finally:
        remove_placement_group(group)


def wait_for_tasks(tasks: list[Any], on_wait: OnWait) -> list[Any]:
    """Results of tasks that need a processor each; while none is free, ``on_wait`` is called. What it raises ends the tasks."""
    pending = tasks
    try:
        while pending:
            done, pending = ray.wait(pending, num_returns=len(pending), timeout=LOOK_S, fetch_local=False)
            free = free_of({"CPU": 1})
            if pending and not done and (line := waiting_line({"CPU": 1}, free)):
                on_wait(line)
    except BaseException:
        for task in pending:
            ray.cancel(task)
        raise
    return ray.get(tasks)


class StartWatch(threading.Thread):
    """Starts a run when there is room for its workers, and tells what happens until they are up.

    A context manager around the run; :meth:`up` is called when the workers are up.
    """

    def __init__(self, workers: Workers, tell: Tell) -> None:
        super().__init__(daemon=True)
        self.workers, self.tell = workers, tell
        self._began: float | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def fit(self, trainer: TorchTrainer, on_wait: OnWait) -> Any:
        """``trainer.fit()`` once there is room for its workers, and again if others took it, or if it went with a machine."""
        while True:
            wait_for_room(self.workers, on_wait)
            self._began = time.monotonic()
            self.tell(self._starting())
            try:
                return trainer.fit()
            except ray.train.ControllerError as error:
                # By its name, since Ray does not publish the class.
                if type(error.controller_failure).__name__ != "WorkerGroupStartupTimeoutError":
                    raise
                self._began = None

    def up(self, workers: int) -> None:
        """The workers are up."""
        if not self._ended.is_set():
            self._ended.set()
            self.tell(f"{workers} worker{'' if workers == 1 else 's'} up, preparing the first step")

    def run(self) -> None:
        while not self._ended.wait(STARTING_S):
            if (began := self._began) is not None:
                self.tell(f"still starting, {time.monotonic() - began:.0f} s")

    def _starting(self) -> str:
        few, most = self.workers.fewest, self.workers.most
        number = f"{most}" if few == most else f"{few} to {most}"
        return f"starting {number} worker{'' if most == 1 else 's'}"
