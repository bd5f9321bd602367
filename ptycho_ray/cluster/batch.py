"""Inference for a set of scans, or for one very large scan: shards of patterns through a pool of actors, partial images summed.

A shard is a compact piece of a scan. An actor holds the model, reads the patterns of its shard only, stitches them and writes
the partial image; its memory does not depend on the scan. A shard whose partial image is already in the output folder
is not repeated, so the same command resumes after any loss. This process sums the partial images, one at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from ptycho_ray.bundle import bundle_path
from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.preflight import check_nodes
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.config.reading import Reading
from ptycho_ray.data import load_data
from ptycho_ray.data.contents import default_max_bytes
from ptycho_ray.data.npz import NpzFile
from ptycho_ray.files import sha256_of, write_json
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.batching import compact_pieces
from ptycho_ray.training.scan_training import distinct_names

#: Patterns of a shard unless something else is said.
SHARD_PATTERNS = 2048
SHARDS, IMAGE = "shards", "reconstruction.npz"


def reconstruct_on_cluster(
    scans: Sequence[Path],
    model_path: Path,
    output_dir: Path,
    execution: ExecutionConfig,
    *,
    shard_patterns: int = SHARD_PATTERNS,
    reading: Reading | None = None,
) -> list[dict[str, Any]]:
    """Reconstruct every scan into a folder of its own in ``output_dir``; a line about each.

    ``execution.devices`` is the number of actors ('auto': one for each processor core of the cluster divided by
    ``execution.cpus_per_device``). Shards overlap at their borders: the global phase of a shard, which diffraction
    leaves undetermined, is aligned with its neighbours before it is added.

    Raises:
        InputError: a scan or the model cannot be used, or a machine of the cluster does not see it.
    """
    bundle_file, output_dir = bundle_path(model_path).absolute(), output_dir.absolute()
    model_print = sha256_of(bundle_file)
    todo: list[dict[str, Any]] = []
    plans = []
    for name, path in zip(distinct_names([str(scan) for scan in scans]), scans, strict=True):
        scan = load_data(path, reading=reading)
        folder = output_dir / name
        shards = []
        for rows in compact_pieces(np.arange(len(scan)), scan.positions_px, shard_patterns):
            partial = folder / SHARDS / f"{_print_of(path, model_print, rows, reading)}.npz"
            shards.append(partial)
            if not partial.exists():
                todo.append({"scan": str(path.absolute()), "rows": rows, "partial": str(partial)})
        plans.append((path, folder, shards))
    if todo:
        with connected(execution):
            check_nodes(files=[str(path.absolute()) for path in scans] + [str(bundle_file)])
            _run_shards(todo, bundle_file, execution, reading)
    lines = []
    for path, folder, shards in plans:
        stitched = add_partial_images(shards)
        stitched.save(folder / IMAGE)
        done = sum(item["partial"] in {str(shard) for shard in shards} for item in todo)
        line = {"scan": str(path), "image": str(folder / IMAGE), "shards": len(shards), "shards_done_now": done}
        write_json(folder / "result.json", line)
        lines.append(line)
    return lines


def _print_of(path: Path, model_print: str, rows: NDArray[np.int64], reading: Reading | None) -> str:
    """A name that changes with scan, the way it is read, model and patterns."""
    facts, how = path.stat(), [] if reading is None else reading.words()
    text = json.dumps([str(path.absolute()), facts.st_size, facts.st_mtime_ns, model_print, *how])
    return hashlib.sha256(text.encode() + rows.astype(np.int64).tobytes()).hexdigest()[:24]


def _run_shards(
    todo: list[dict[str, Any]], model_path: Path, execution: ExecutionConfig, reading: Reading | None
) -> None:
    resources = ray.cluster_resources()
    gpus = 1 if resources.get("GPU") else 0
    most = max(1, int(resources.get("GPU" if gpus else "CPU", 1) / (1 if gpus else execution.cpus_per_device)))
    wanted = most if execution.devices == "auto" else min(execution.devices, most)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    items = ray.data.from_items(todo, override_num_blocks=len(todo))
    items.map_batches(
        ShardReconstructor,
        fn_constructor_kwargs={
            "model_path": str(model_path),
            "batch_size": execution.inference_batch_size,
            "reading": reading,
        },
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(wanted, len(todo))),
        num_cpus=execution.cpus_per_device,
        num_gpus=gpus,
    ).materialize()


class ShardReconstructor:
    """What an actor of the pool does: it keeps the model and the scan that it opened last."""

    def __init__(self, model_path: str, batch_size: int | None, reading: Reading | None = None) -> None:
        import torch

        from ptycho_ray.bundle import load_bundle

        torch.set_num_threads(1)
        self.bundle = load_bundle(Path(model_path))
        if torch.cuda.is_available():
            for model in self.bundle.models:
                model.to("cuda")
        self.execution = ExecutionConfig(inference_batch_size=batch_size)
        self.open = functools.lru_cache(maxsize=1)(functools.partial(load_data, reading=reading))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        from ptycho_ray import workflow

        for scan, rows, partial in zip(batch["scan"], batch["rows"], batch["partial"], strict=True):
            shard = self.open(str(scan)).select(np.asarray(rows, dtype=np.int64))
            config = dataclasses.replace(self.bundle.config, refinement_iterations=0)
            _, _, results = workflow.reassemble_cdi_image(
                shard, config, model=self.bundle.models, execution=self.execution, keep_patches=False
            )
            results["stitched"].save(Path(str(partial)))
        return {"partial": batch["partial"]}


def read_partial(path: Path) -> StitchedObject:
    """A partial image that a shard left."""
    with NpzFile(path, default_max_bytes()) as npz:
        row, column = (float(value) for value in npz.read("origin_px"))
        return StitchedObject(npz.read("object"), npz.read("weight"), (row, column))


def add_partial_images(files: Sequence[Path]) -> StitchedObject:
    """The weighted mean of partial images, each first turned to the phase of its neighbours."""
    boxes = []
    for file in files:
        partial = read_partial(file)
        corner = np.round(partial.origin_px).astype(int)
        boxes.append((corner, corner + partial.image.shape))
    low = np.min([corner for corner, _ in boxes], axis=0)
    shape = tuple(np.max([end for _, end in boxes], axis=0) - low)
    total, weight = np.zeros(shape, np.complex64), np.zeros(shape, np.float32)
    for file, (corner, end), turn in zip(files, boxes, _turns(files, boxes), strict=True):
        partial = read_partial(file)
        there = _between(corner - low, end - low)
        total[there] += partial.image * (partial.weight * np.complex64(turn))
        weight[there] += partial.weight
    image = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return StitchedObject(image, weight, (float(low[0]), float(low[1]))).with_zero_mean_phase()


def _between(corner: NDArray[np.int64], end: NDArray[np.int64]) -> tuple[slice, slice]:
    return slice(corner[0], end[0]), slice(corner[1], end[1])


def _turns(
    files: Sequence[Path], boxes: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> NDArray[np.complex128]:
    """The phase factor of each partial image [k] that makes neighbours agree where they have most in common.

    Phases are propagated along the spanning tree with the strongest overlaps; of the images two lie in memory at a time.
    """
    common: dict[tuple[int, int], complex] = {}
    for i, (corner, end) in enumerate(boxes):
        own = read_partial(files[i])
        for j in range(i + 1, len(boxes)):
            first, last = np.maximum(corner, boxes[j][0]), np.minimum(end, boxes[j][1])
            if (first < last).all():
                other = read_partial(files[j])
                a, b = _between(first - corner, last - corner), _between(first - boxes[j][0], last - boxes[j][0])
                product = np.vdot(own.image[a] * own.weight[a], other.image[b] * other.weight[b])
                if product:
                    common[i, j] = complex(product)
    turns = np.ones(len(boxes), dtype=np.complex128)
    if not common:
        return turns
    rows, columns = np.array(list(common)).T
    costs = 1 / np.abs(list(common.values()))
    tree = minimum_spanning_tree(coo_array((costs, (rows, columns)), shape=(len(boxes), len(boxes))))
    done: set[int] = set()
    for root in range(len(boxes)):
        if root in done:
            continue
        order, parents = breadth_first_order(tree, root, directed=False)
        done.update(int(node) for node in order)
        for node in order[1:]:
            parent = int(parents[node])
            overlap = common[parent, node] if (parent, node) in common else common[node, parent].conjugate()
            turns[node] = turns[parent] * overlap.conjugate() / abs(overlap)
    return turns
