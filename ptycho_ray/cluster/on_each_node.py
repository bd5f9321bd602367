"""What each machine of a cluster is asked before anything starts. The process that answers imports no torch unless it is asked
for GPUs: a run waits for the answers."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

#: Packages whose versions must be the same on all machines, since they decide the numbers or the exchange of data.
PACKAGES = ("ptycho-ray", "torch", "numpy", "ray")
ANSWER_TIMEOUT_S = 120.0


def here(node: str) -> NodeAffinitySchedulingStrategy:
    """That a question is asked on the machine of this id."""
    return NodeAffinitySchedulingStrategy(node, soft=False)


def versions() -> dict[str, str]:
    """Versions that must agree on all machines."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in PACKAGES:
        try:
            # without the build: 2.13.0+cpu of a head without a GPU goes with the CUDA build of 2.13.0 of a worker
            found[package] = importlib.metadata.version(package).split("+")[0]
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


@ray.remote(num_cpus=0, max_retries=0)
def examine(files: Sequence[str]) -> dict[str, Any]:
    """Its versions, and which files it does not see."""
    return {"versions": versions(), "missing": [file for file in files if not Path(file).exists()]}


def gpu_memory_bytes() -> int | None:
    """Memory of the smallest GPU of the cluster; None if no machine has one that torch there can use."""
    with_gpu = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    answers = [_gpu_memory.options(scheduling_strategy=here(node)).remote() for node in with_gpu]
    found = []
    for answer in answers:
        with contextlib.suppress(ray.exceptions.RayError):  # check_nodes says what is wrong with a machine
            found.append(ray.get(answer, timeout=ANSWER_TIMEOUT_S))
    return min((memory for memory in found if memory is not None), default=None)


@ray.remote(num_cpus=0, max_calls=1, max_retries=0)
def _gpu_memory() -> int | None:
    """Run on a machine with GPUs, which it asks without reserving any; its process is not used for anything else."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    import torch

    if not torch.cuda.is_available():
        return None
    return min(torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count()))
