"""What has to be read of a whole scan, by all machines of a cluster at once: the program that started a run reads a sample."""

from __future__ import annotations

import math

import numpy as np
import ray
from numpy.typing import NDArray

from ptycho_ray.cluster.start_watch import OnWait, wait_for_tasks
from ptycho_ray.data import RawData

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
