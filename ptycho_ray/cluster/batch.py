"""Scans reconstructed by one model, a very large one in shards of patterns whose partial images are summed.

A shard is a compact piece of a scan. A worker holds the model, reads the patterns of its shard only, stitches them and writes
the partial image; its memory does not depend on the scan. A shard whose partial image is already in the output folder is not
repeated. The last step of a scan sums the partial images, one at a time, and removes them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from ptycho_ray.bundle import Bundle, bundle_path, load_bundle
from ptycho_ray.cluster.each_alone import Line, Say, ScanToDo, Treatment
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.config.reading import Reading
from ptycho_ray.data import RawData, load_data
from ptycho_ray.data.contents import default_max_bytes
from ptycho_ray.data.npz import NpzFile
from ptycho_ray.display.progress import TimeLeft
from ptycho_ray.errors import OK
from ptycho_ray.files import sha256_of, write_json
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.batching import compact_pieces

#: Patterns of a shard unless something else is said.
SHARD_PATTERNS = 2048
SHARDS, IMAGE = "shards", "reconstruction.npz"


class ByModel(Treatment):
    """The treatment of scans with one trained model.

    Shards overlap at their borders: the global phase of a shard, which diffraction leaves undetermined, is aligned with its
    neighbours before it is added.

    Raises:
        BundleError: the model cannot be used; so is said before any scan is read.
    """

    def __init__(
        self,
        model_path: Path,
        execution: ExecutionConfig,
        *,
        shard_patterns: int = SHARD_PATTERNS,
        reading: Reading | None = None,
    ) -> None:
        self.model_file = bundle_path(model_path).absolute()
        load_bundle(self.model_file)
        self.model_print = sha256_of(self.model_file)
        self.execution, self.shard_patterns, self.reading = execution, shard_patterns, reading

    def begin(self, scan: ScanToDo, device: str, say: Say) -> Line | int:
        shards = len(self._shards(scan))
        if shards > 1:
            return shards
        self.part(scan, 0, device, say)
        return self.finish(scan, say)

    def part(self, scan: ScanToDo, number: int, device: str, say: Say) -> None:
        from ptycho_ray import workflow

        shards = self._shards(scan)
        rows, partial = shards[number]
        if partial.exists():
            return
        bundle, left = self._bundle(device), TimeLeft()
        shard = f"shard {number + 1} of {len(shards)}, " if len(shards) > 1 else ""
        _, _, results = workflow.reassemble_cdi_image(
            self._open(scan.path).select(rows),
            dataclasses.replace(bundle.config, refinement_iterations=0),
            model=bundle.models,
            execution=self.execution,
            keep_patches=False,
            on_batch=lambda done, total: say(f"{shard}{done} of {total} groups, {left.words(done, total)}"),
        )
        results["stitched"].save(partial)

    def finish(self, scan: ScanToDo, say: Say) -> Line:
        say("adding the shards")
        shards = self._shards(scan)
        stitched = add_partial_images([partial for _, partial in shards])
        stitched.save(scan.folder / IMAGE, self._open(scan.path).pixel_size_m)
        line = {
            "image": str(scan.folder / IMAGE),
            "patterns": sum(len(rows) for rows, _ in shards),
            "shards": len(shards),
        }
        write_json(scan.folder / "result.json", {"scan": str(scan.path), **line, "model": str(self.model_file)})
        shutil.rmtree(scan.folder / SHARDS)
        return {"exit_code": OK, **line}

    @functools.lru_cache(maxsize=1)  # noqa: B019 - a worker has one treatment, for as long as it lives
    def _bundle(self, device: str) -> Bundle:
        bundle = load_bundle(self.model_file)
        for model in bundle.models:
            model.to(device)
        return bundle

    @functools.lru_cache(maxsize=1)  # noqa: B019 - and the scan that it opened last
    def _open(self, path: Path) -> RawData:
        return load_data(path, reading=self.reading)

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def _shards(self, scan: ScanToDo) -> list[tuple[NDArray[np.int64], Path]]:
        """The patterns of each shard, and the file of its partial image, whose name changes with scan, the way it is read,
        model and patterns."""
        opened, facts = self._open(scan.path), scan.path.stat()
        how = [] if self.reading is None else self.reading.words()
        text = json.dumps([str(scan.path), facts.st_size, facts.st_mtime_ns, self.model_print, *how]).encode()
        pieces = compact_pieces(np.arange(len(opened)), opened.positions_px, self.shard_patterns)
        prints = [hashlib.sha256(text + rows.astype(np.int64).tobytes()).hexdigest()[:24] for rows in pieces]
        return [(rows, scan.folder / SHARDS / f"{name}.npz") for rows, name in zip(pieces, prints, strict=True)]


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
