"""Many independent tasks on a Ray cluster, some of them at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import ray

from ptycho_ray.cluster.failures import TrainingLost, last_line
from ptycho_ray.cluster.preflight import Workers
from ptycho_ray.config import ExecutionConfig


def finished(starts: Sequence[Callable[[], Any]], at_once: int) -> Iterator[tuple[int, Any]]:
    """Start tasks, at most ``at_once`` at a time, and yield the number and the result of each as it ends.

    Raises:
        TrainingLost: a worker was lost more often than the task allows.
        Exception: what a task raised. The other tasks are cancelled then, and when the caller stops.
    """
    waiting = list(enumerate(starts))[::-1]
    running: dict[Any, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, start = waiting.pop()
                running[start()] = number
            done, _ = ray.wait(list(running))
            number = running.pop(done[0])
            yield number, _result(done[0])
    finally:
        for task in running:
            ray.cancel(task, force=True)


def of_one_worker(execution: ExecutionConfig, workers: Workers) -> ExecutionConfig:
    """The settings of a training that one task does alone."""
    accelerator: Literal["gpu", "cpu"] = "gpu" if "GPU" in workers.resources else "cpu"
    return replace(execution, accelerator=accelerator, devices=1, min_devices=None)


def results_of(starts: Sequence[Callable[[], Any]], at_once: int) -> list[Any]:
    """The results of tasks in the order of ``starts``; see :func:`finished`."""
    found = dict(finished(starts, at_once))
    return [found[number] for number in range(len(starts))]


def _result(task: Any) -> Any:
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise TrainingLost(f"a worker was lost too often; the last time: {last_line(error)}") from error
