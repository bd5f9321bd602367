"""What is said between the start of a run on a cluster and its first step."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self

import ray
from ray.util import placement_group_table

from ptycho_ray.cluster.preflight import Workers, free_of
from ptycho_ray.display.scans_progress import waiting_line

#: Seconds between two looks, and between two lines about the same state: one that ends soon, one that may take hours.
LOOK_S, STARTING_S, WAITING_S = 1.0, 5.0, 60.0

Tell = Callable[[str], None]


class StartWatch(threading.Thread):
    """Tells what a run waits for, until its workers are up: room in the cluster, or the workers themselves.

    A context manager around the run; :meth:`up` is called when the workers are up.
    """

    def __init__(self, workers: Workers, tell: Tell) -> None:
        super().__init__(daemon=True)
        self.workers, self.tell = workers, tell
        self._ended = threading.Event()
        self._others = set(placement_group_table())

    def __enter__(self) -> Self:
        free = free_of(self.workers.resources)
        self._waiting = waiting_line(self.workers.resources, free, self.workers.fewest)
        self.tell(self._waiting or self._starting())
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def up(self, workers: int) -> None:
        """The workers are up."""
        if not self._ended.is_set():
            self._ended.set()
            self.tell(f"{workers} worker{'' if workers == 1 else 's'} up, preparing the first step")

    def run(self) -> None:
        began = told = time.monotonic()
        while not self._ended.wait(LOOK_S):
            try:
                waits = self._waits()
                free = free_of(self.workers.resources)
            except ray.exceptions.RayError:
                return  # the run itself will say so
            now = time.monotonic()
            if self._waiting and not waits:
                self._waiting, began, told = "", now, now
                self.tell(self._starting())
            elif waits and now - told > WAITING_S:
                told = now
                self.tell(waiting_line(self.workers.resources, free, self.workers.fewest) or self._starting())
            elif not waits and now - told > STARTING_S:
                told = now
                self.tell(f"still starting, {now - began:.0f} s")

    def _waits(self) -> bool:
        """Whether the cluster has not placed the workers. Their group is one that was not there before; until it is asked for,
        the run waits if it did before."""
        states = [group["state"] for number, group in placement_group_table().items() if number not in self._others]
        return "PENDING" in states if states else bool(self._waiting)

    def _starting(self) -> str:
        few, most = self.workers.fewest, self.workers.most
        number = f"{most}" if few == most else f"{few} to {most}"
        return f"starting {number} worker{'' if most == 1 else 's'}"
