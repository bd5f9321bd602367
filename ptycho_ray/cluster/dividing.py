"""Whether workers share every batch of a scan, or each has a tile of it: by what the smallest of them has room for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ray
import torch

from ptycho_ray.cluster.on_each_node import ANSWER_TIMEOUT_S, here
from ptycho_ray.cluster.preflight import Workers
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.data import RawData
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.patch_geometry import Geometry
from ptycho_ray.refinement.streamed import SHARE_OF_FREE, free_bytes
from ptycho_ray.refinement.tile_files import is_begun, stitch_images
from ptycho_ray.refinement.tiled_solver import can_be_tiled, check_tiles

#: Canvases that a worker has in memory: object, derivatives, two moments of each part, what it may go back to, light.
CANVASES = 10
#: Share of the memory of a machine, as it was when Ray started there, that workers find free whatever else has started since.
LITTLE = 0.05


def divides(
    scan: RawData,
    config: RefinementConfig,
    execution: ExecutionConfig,
    workers: Workers,
    checkpoint: Path,
) -> bool:
    """True for tiles, False for shared batches: as ``execution.split`` says; if that is 'auto', as the run was begun that is to
    be resumed, else tiles if the scan and its object outgrow a worker.

    Raises:
        ConfigurationError: tiles are asked for with settings that need the whole scan on every worker.
    """
    if execution.split != "auto":
        if execution.split == "tiles":
            check_tiles(config)
        return execution.split == "tiles"
    if is_begun(checkpoint):
        return not checkpoint.exists()
    if not can_be_tiled(config) or workers.most == 1:
        return False
    needed = bytes_needed(scan, config)
    return not _is_little(needed, config, workers) and needed > room_of_a_worker(config, workers)


def bytes_needed(scan: RawData, config: RefinementConfig) -> int:
    """What a worker needs that has the whole scan."""
    real = 8 if config.precision == "double" else 4
    moved = 0 if config.position_start is None else math.ceil(config.position_limit_px)
    canvas = Geometry(scan.positions_px, scan.N, margin_px=moved)
    return real * math.prod(scan.patterns.shape) + 2 * real * CANVASES * config.slices * canvas.height * canvas.width


def room_of_a_worker(config: RefinementConfig, workers: Workers) -> float:
    """Bytes that the smallest of the workers has for its part: ``memory_GB``, or the usual share of what is free."""
    if config.memory_GB is not None:
        return config.memory_GB * 1e9
    gpu = "GPU" in workers.resources
    free: dict[str, Any] = {}
    for node, most in _machines(workers):
        asked = _free.options(scheduling_strategy=here(node["NodeID"]), num_gpus=int(gpu)).remote(gpu)
        free[asked] = 1 if gpu else most
    return SHARE_OF_FREE * min(ray.get(asked, timeout=ANSWER_TIMEOUT_S) / sharing for asked, sharing in free.items())


def _machines(workers: Workers) -> Iterator[tuple[dict[str, Any], int]]:
    """The machines that can have workers, each with how many of them."""
    for node in (node for node in ray.nodes() if node["Alive"]):
        room = [node["Resources"].get(name, 0) / amount for name, amount in workers.resources.items()]
        if most := min(workers.most, math.floor(min(room))):
            yield node, most


def _is_little(needed: int, config: RefinementConfig, workers: Workers) -> bool:
    """Whether so many bytes are so little beside what Ray knows of the memory of each machine that none need be asked, which
    takes some seconds."""
    if config.memory_GB is not None or "GPU" in workers.resources:
        return False
    return all(needed < LITTLE * node["Resources"].get("memory", 0) / most for node, most in _machines(workers))


def with_room(config: RefinementConfig, workers: Workers) -> RefinementConfig:
    """The settings with the limit of the smallest worker: workers of one machine share what is free there."""
    return dataclasses.replace(config, memory_GB=max(room_of_a_worker(config, workers), 1.0) / 1e9)


@ray.remote(num_cpus=0, max_retries=0)
def _free(gpu: bool) -> int:
    """Run on each machine: bytes that are free where a worker keeps its patterns."""
    return free_bytes(torch.device("cuda" if gpu else "cpu"))


class ImagesOfTiles:
    """Collects what the workers report of an image until it is complete."""

    def __init__(self) -> None:
        self.iteration = 0
        self.parts: dict[int, StitchedObject] = {}

    def add(self, iteration: int, rank: int, size: int, part: StitchedObject) -> StitchedObject | None:
        """The whole image with the last of its ``size`` parts, else None; parts of an older iteration are forgotten."""
        if iteration != self.iteration:
            self.iteration, self.parts = iteration, {}
        self.parts[rank] = part
        return stitch_images(list(self.parts.values())) if len(self.parts) == size else None


def files_to_see(scan: RawData) -> Sequence[str]:
    """Files that every machine must see: none if the patterns are sent to them."""
    return [] if scan.patterns.in_memory else [str(Path(scan.source).absolute())]
