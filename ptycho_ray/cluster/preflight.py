"""Checks before anything starts on a cluster: does the run fit, do package versions agree, can all machines read the files."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.fs
import ray
from ray.autoscaler.sdk import request_resources
from ray.train import ScalingConfig

from ptycho_ray.cluster.on_each_node import ANSWER_TIMEOUT_S, examine, gpu_memory_bytes, here, versions
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import ConfigurationError, InputError, MissingFileError
from ptycho_ray.training.device import resolve_device

#: How often an elastic run looks whether it can have more workers.
GROW_INTERVAL_S = 10.0


@dataclass(frozen=True)
class Workers:
    """How many workers a run asks for, what each of them needs, and the device on which it computes."""

    fewest: int
    most: int
    resources: Mapping[str, float]
    device: str = "cpu"


def workers_for(execution: ExecutionConfig, tell: Callable[[str], None] = lambda line: None) -> Workers:
    """The workers that the settings ask for on the cluster that is connected; ``tell`` is told if nodes are waited for.

    Raises:
        ConfigurationError: the cluster has not enough processors or GPUs, and does not get them within
            ``execution.wait_for_nodes_s``.
    """
    resources, device = worker_resources(execution)
    most = max(1, room_for(resources)) if execution.devices == "auto" else execution.devices
    fewest = most if execution.min_devices is None else execution.min_devices
    if fewest > most:
        raise ConfigurationError(field="execution.min_devices", found=fewest, expected=f"at most {most} (devices)")
    _wait_for_room(fewest, resources, execution.wait_for_nodes_s, tell)
    return Workers(fewest, most, resources, device)


def scaling_of(workers: Workers) -> ScalingConfig:
    """The same for Ray Train; between the fewest and the most the run shrinks and grows with the cluster."""
    return ScalingConfig(
        num_workers=workers.most if workers.fewest == workers.most else (workers.fewest, workers.most),
        use_gpu="GPU" in workers.resources,
        resources_per_worker=dict(workers.resources),
        elastic_resize_monitor_interval_s=GROW_INTERVAL_S,
    )


def worker_resources(execution: ExecutionConfig) -> tuple[dict[str, float], str]:
    """What a worker reserves, and the device on which it computes: a GPU is reserved by those alone that use it.

    With 'auto' that is the case where torch on the machines with GPUs can use them.

    Raises:
        ConfigurationError: a GPU is named by its number, which on a cluster Ray assigns, or there is no 'mps' here.
    """
    resources, wanted = {"CPU": float(execution.cpus_per_device)}, execution.accelerator
    if wanted.startswith("cuda:"):
        raise ConfigurationError(
            "on a cluster Ray assigns the GPUs",
            field="execution.accelerator",
            found=repr(wanted),
            expected="'cuda'",
            hint=f"CUDA_VISIBLE_DEVICES={wanted.removeprefix('cuda:')} before the command leaves it one GPU of this machine",
        )
    if wanted in ("gpu", "cuda") or (wanted == "auto" and gpu_memory_bytes() is not None):
        return resources | {"GPU": execution.gpu_share}, "cuda"
    return resources, resolve_device(execution).type if wanted == "mps" else "cpu"


def free_of(resources: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """How much of these resources is free, and how much there is: ``{"CPU": (0, 2)}``."""
    free, there = ray.available_resources(), ray.cluster_resources()
    return {name: (free.get(name, 0.0), there.get(name, 0.0)) for name in resources}


def room_for(resources: Mapping[str, float]) -> int:
    """How many workers the machines of the cluster hold when nothing else runs on them."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(math.floor(min(node.get(name, 0) / amount for name, amount in resources.items())) for node in alive)


def _wait_for_room(
    workers: int, resources: Mapping[str, float], patience_s: float, tell: Callable[[str], None]
) -> None:
    if room_for(resources) >= workers:
        return
    deadline = time.monotonic() + patience_s
    if patience_s:
        tell(
            f"waiting at most {patience_s:g} s for nodes: the cluster has room for {room_for(resources)} of {workers} workers"
        )
        request_resources(bundles=[dict(resources)] * workers)
        try:
            while room_for(resources) < workers and time.monotonic() < deadline:
                time.sleep(1)
        finally:
            request_resources(bundles=[])
    room = room_for(resources)
    grows = "An autoscaling cluster grows if it is given time (wait_for_nodes_s)"
    if "GPU" in resources and not ray.cluster_resources().get("GPU"):
        raise ConfigurationError(
            "no machine of the cluster has a GPU",
            field="execution.accelerator",
            expected="'cpu' or 'auto'",
            hint=grows,
        )
    if room < workers:
        each = " and ".join(f"{amount:g} {name}" for name, amount in resources.items())
        have = ", ".join(f"{name} {ray.cluster_resources().get(name, 0):g}" for name in ("CPU", "GPU"))
        raise ConfigurationError(
            f"the cluster has no room for as many workers with {each} each",
            field="execution.devices",
            found=workers,
            expected=f"at most {room} ({have})",
            hint=grows,
        )


def storage(storage_path: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """The file system and the path in it of a folder or URI.

    Raises:
        ConfigurationError: there is no such file system, or it cannot be written to.
    """
    try:
        if "://" in storage_path:
            system, path = pyarrow.fs.FileSystem.from_uri(storage_path)
        else:
            system, path = pyarrow.fs.LocalFileSystem(), str(Path(storage_path).absolute())
        system.create_dir(path, recursive=True)
        probe = f"{path}/.writable-{uuid.uuid4().hex}"
        system.open_output_stream(probe).close()
        system.delete_file(probe)
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"cannot be written to: {error}",
            field="execution.storage_path",
            found=storage_path,
            expected="a folder or URI that can be written to",
        ) from None
    return system, path


def check_nodes(files: Sequence[str] = (), expected: Mapping[str, str] | None = None) -> None:
    """Ask every machine of the cluster for its package versions and whether it sees ``files``.

    Raises:
        InputError: a machine cannot import the package, or has other versions than ``expected`` (those of this process).
        MissingFileError: a machine does not see a file.
    """
    expected = versions() if expected is None else expected
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]}
    answers = {node: examine.options(scheduling_strategy=here(node)).remote(list(files)) for node in nodes}
    for node, answer in answers.items():
        place = f"node {nodes[node]} ({node[:8]})"
        try:
            found = ray.get(answer, timeout=ANSWER_TIMEOUT_S)
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise InputError(
                f"cannot run ptycho_ray: {reason}", file=place, expected="the packages of the machine that started this"
            ) from None
        for package, version in expected.items():
            if found["versions"].get(package) != version:
                raise InputError(
                    file=place, field=package, found=found["versions"].get(package), expected=f"{version} as here"
                )
        if found["missing"]:
            raise MissingFileError(
                file=found["missing"][0], field=place, found="nothing there", expected="a path that all nodes see"
            )
