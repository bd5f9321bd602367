"""What a trial of a sweep reserves of the cluster, and how many have room at a time."""

from __future__ import annotations

import math

import ray

from ptycho_ray.cluster.on_each_node import gpu_memory_bytes
from ptycho_ray.cluster.preflight import room_for, worker_resources
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.data import RawData
from ptycho_ray.errors import ConfigurationError

#: What the process of a trial needs that leaves the computing to workers of its own.
DRIVER_RESOURCES = {"CPU": 0.0, "memory": 2.0**20}
#: Memory of a GPU that a direct trial takes: its process and libraries, and so many times the patterns as 32-bit numbers
#: (measured amplitudes, those of two halves, one batch on its way through the forward model).
PROCESS_BYTES, TIMES_PATTERNS = 2**30, 3


def trial_room(execution: ExecutionConfig, kind: str, scan: RawData) -> tuple[dict[str, float], str, int]:
    """Resources and device of one trial, and how many trials the cluster holds at a time.

    Trials without a network share a GPU: as many as its memory holds, but no more than there are processor cores for.

    Raises:
        ConfigurationError: there is room for none.
    """
    each, device = worker_resources(execution)
    if device == "cuda" and kind != "train" and execution.gpu_share == 1:
        each["GPU"] = _share_of_gpu(scan, execution.cpus_per_device)
    devices = 1 if execution.devices == "auto" else execution.devices
    room = room_for(each) // devices
    if room < 1:
        have = ray.cluster_resources()
        needs = " and ".join(f"{amount * devices:g} {name}" for name, amount in each.items())
        raise ConfigurationError(
            f"a trial needs {needs}",
            field="execution.devices",
            found=devices,
            expected=", ".join(f"at most {have.get(name, 0):g} {name}" for name in each),
        )
    return (dict(DRIVER_RESOURCES) if devices > 1 else each), device, room


def _share_of_gpu(scan: RawData, cores: int) -> float:
    memory, have = gpu_memory_bytes(), ray.cluster_resources()
    if memory is None or not have.get("GPU"):
        return 1.0
    in_memory = memory // (PROCESS_BYTES + TIMES_PATTERNS * 4 * len(scan) * scan.N**2)
    beside_cores = math.ceil(have.get("CPU", 0) / cores / have["GPU"])
    return 1 / max(1, min(in_memory, beside_cores))
