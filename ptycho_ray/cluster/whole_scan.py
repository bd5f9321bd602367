"""What has to be read of a whole scan, by all machines of a cluster at once: the program that started a run reads a sample."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray

from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.start_watch import OnWait, now_and_then, wait_for_tasks
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.data import RawData
from ptycho_ray.files import PART_BYTES, Part, digest_of_part, digests_in_threads

#: Patterns that a task reads at least, and tasks for each processor: those that are done early take what is left.
LEAST_PATTERNS, TASKS_EACH = 256, 4


def read_energies(scan: RawData, on_wait: OnWait) -> None:
    """Make a scan remember the intensity of each of its patterns, read in parts where it is on disk.

    ``on_wait`` is told while no processor of the cluster is free for that.
    """
    if scan.patterns.in_memory or scan.knows_energies:
        scan.pattern_energies()
        return
    most = TASKS_EACH * math.ceil(ray.cluster_resources().get("CPU", 1))
    count = max(1, min(most, len(scan) // LEAST_PATTERNS))
    whole = ray.put(scan.patterns)
    parts = np.array_split(np.arange(len(scan)), count)
    energies = wait_for_tasks([_energies.remote(whole, part) for part in parts], on_wait)
    scan.remember_energies(np.concatenate(energies))


@ray.remote(num_cpus=1)
def _energies(patterns: object, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = patterns.take(rows).energies()  # type: ignore[attr-defined] # of a task, Ray says nothing
    return found


def digests_on_cluster(execution: ExecutionConfig, tell: Callable[[str], None], parts: Sequence[Part]) -> list[bytes]:
    """:func:`ptycho_ray.files.digests_in_threads` by all machines of the cluster that the settings name. This one reads what is
    little, what the others do not see, and everything if there are no others."""
    elsewhere = ray.is_initialized() or execution.address or "RAY_ADDRESS" in os.environ
    if not elsewhere or sum(path.stat().st_size for path in {path for path, _ in parts}) <= PART_BYTES:
        return digests_in_threads(parts)
    with connected(execution, tell):
        try:
            return wait_for_tasks(
                [_digest.remote(path.absolute(), number) for path, number in parts], now_and_then(tell)
            )
        except OSError:
            return digests_in_threads(parts)


@ray.remote(num_cpus=1)
def _digest(path: Path, number: int) -> bytes:
    return digest_of_part(path, number)
