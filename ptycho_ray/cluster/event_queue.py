"""How the workers of a training tell the program that started it what happens.

The board is an actor beside that program. The first worker posts steps, epochs and pictures; the program takes them off and
calls the same callbacks that a training in one process calls. Nothing is lost between two looks.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ptycho_ray.cluster.event_board import EventQueue
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.training.loop import Callback, Progress

POST_INTERVAL_S = 0.2


def start_event_queue() -> Any:
    """A board on this machine; it lives as long as the handle that is returned."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0)(EventQueue).options(scheduling_strategy=here).remote()


def raise_failure(board: Any) -> None:
    """Raise the error that a worker has left on the board, if there is one."""
    failure = ray.get(board.failure.remote())
    if failure is not None:
        raise failure


class WorkerReporter:
    """Posts what a training reports (a ``Callback`` of the training loop), a few times a second."""

    def __init__(self, board: Any, workers: int) -> None:
        self.board, self.posted = board, 0.0
        self.notes: list[tuple[str, Any]] = [("workers", workers)]

    def on_step(self, progress: Progress, figures: dict[str, float], steps_in_epoch: int) -> None:
        self.notes.append(("step", (progress.epoch, progress.batch, figures, steps_in_epoch)))
        if time.monotonic() - self.posted > POST_INTERVAL_S:
            self._post()

    def on_epoch(self, progress: Progress, figures: dict[str, float], model: Any) -> None:
        self.notes.append(("epoch", (asdict(progress), figures)))
        self._post()

    def on_image(self, progress: Progress, stitched: StitchedObject) -> None:
        self.notes.append(("image", stitched))
        self._post()

    def _post(self) -> None:
        self.board.post.remote(self.notes)
        self.notes, self.posted = [], time.monotonic()


class DriverRelay(threading.Thread):
    """Takes notes off a board and tells ``callbacks``, until it is closed; an error of a callback is kept for then."""

    def __init__(
        self,
        board: Any,
        callbacks: Sequence[Callback],
        on_workers: Callable[[int, int], None],
        on_up: Callable[[int], None] = lambda workers: None,
    ) -> None:
        super().__init__(daemon=True)
        self.board, self.callbacks, self.on_workers, self.on_up = board, callbacks, on_workers, on_up
        self.progress = Progress()
        self.error: BaseException | None = None
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(POST_INTERVAL_S) and self.error is None:
            self._tell()

    def close(self) -> None:
        """Tell what is left and end; raises what a callback raised."""
        self._ended.set()
        self.join()
        if self.error is None:
            self._tell()
        if self.error is not None:
            raise self.error

    def _tell(self) -> None:
        try:
            for kind, content in ray.get(self.board.take.remote()):
                self._tell_one(kind, content)
        except Exception as error:
            self.error = error
            self.board.fail.remote(error)  # so that the workers end, too

    def _tell_one(self, kind: str, content: Any) -> None:
        if kind == "up":
            self.on_up(content)
        elif kind == "workers":
            self.on_workers(content, self.progress.epoch)
        elif kind == "step":
            self.progress.epoch, self.progress.batch, figures, steps_in_epoch = content
            for callback in self.callbacks:
                callback.on_step(self.progress, figures, steps_in_epoch)
        elif kind == "epoch":
            self.progress = Progress(**content[0])
            for callback in self.callbacks:
                callback.on_epoch(self.progress, content[1], None)
        elif kind == "image":
            for callback in self.callbacks:
                if hasattr(callback, "on_image"):
                    callback.on_image(self.progress, content)
        else:
            for callback in self.callbacks:
                if hasattr(callback, "on_refinement"):
                    callback.on_refinement(*content)
