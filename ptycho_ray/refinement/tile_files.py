"""The files in which workers keep the tiles of a scan, and one image from them.

Beside the checkpoint ``name.safetensors`` lies a folder ``name.tiles`` with a folder for each kept iteration; a set is complete
when the file of each tile is there. Files are read one at a time: whoever puts them together holds the image and one tile.

Legend: n patterns, S slices, K eigenmodes, [H, W] canvas of the whole scan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.errors import InputError
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.checkpoint import SCHEMA
from ptycho_ray.refinement.result import Progress, RefinementResult
from ptycho_ray.refinement.slab import Slab
from ptycho_ray.refinement.tiles import DARK_SHARE
from ptycho_ray.training.checkpoint import read_checkpoint
from ptycho_ray.training.parallel import DataParallel

#: Parts of the estimate that all patterns share, and those with a row for each pattern.
SHARED, OWN = ("probe_spectrum", "eigen_spectrum", "background"), ("eigen_weight", "scale")
COMPLEX = ("probe_spectrum", "eigen_spectrum", "object", "probe")


def folder_of_tiles(checkpoint: Path) -> Path:
    """The folder of the tiles of a run whose checkpoint would be that file."""
    return checkpoint.with_suffix(".tiles")


def tile_file(checkpoint: Path, iteration: int, place: DataParallel) -> Path:
    """The file of one tile after so many iterations."""
    folder = folder_of_tiles(checkpoint) / f"{iteration:06d}"
    return folder / f"tile_{place.rank:04d}_of_{place.size:04d}.safetensors"


def complete_sets(checkpoint: Path) -> list[list[Path]]:
    """The files of every iteration of which all tiles were written, the latest first."""
    sets = []
    for folder in sorted(folder_of_tiles(checkpoint).glob("[0-9]*"), reverse=True):
        by_size: dict[int, list[Path]] = {}
        for file in sorted(folder.glob("tile_*_of_*.safetensors")):
            by_size.setdefault(int(file.stem.rpartition("_")[2]), []).append(file)
        sets += [files for size, files in sorted(by_size.items()) if len(files) == size]
    return sets


def is_begun(checkpoint: Path) -> bool:
    """Whether there is something to resume, of one worker or of tiles."""
    return checkpoint.exists() or bool(complete_sets(checkpoint))


@dataclass(frozen=True)
class TiledState:
    """The state of a refinement put together from its tiles.

    Attributes:
        object: complex [S, H, W]; one where no tile lies.
        light: photons that fell on each pixel, float32 [H, W].
        origin_px: position of canvas pixel (0, 0).
        shared: tensors of the estimate that all patterns share, by name.
        own: tensors of the estimate with a row for each pattern, by name.
        positions_px: float64 [n, 2].
        probe: orthogonal modes in the units of the scan, complex64 [P, N, N].
        background: in the units of the scan, float32 [N, N]; None for none.
        header: numbers of the run.
    """

    object: NDArray[np.complex64]
    light: NDArray[np.float32]
    origin_px: tuple[float, float]
    shared: dict[str, Tensor]
    own: dict[str, Tensor]
    positions_px: NDArray[np.float64]
    probe: NDArray[np.complex64]
    background: NDArray[np.float32] | None
    header: dict[str, Any]

    def stitched(self) -> StitchedObject:
        """The product of all slices with the illumination as weight; its mean phase is zero."""
        image = self.object.prod(axis=0)
        return StitchedObject(image, self.light, self.origin_px).with_zero_mean_phase()

    def result(self, slab: Slab | None = None) -> RefinementResult:
        """As of a refinement in one process."""
        return RefinementResult(
            stitched=self.stitched(),
            slices=self.object,
            probe=self.probe,
            positions_px=self.positions_px,
            intensity=self.own["scale"].square().numpy().astype(np.float32),
            background=self.background,
            slab=slab,
            history=[Progress(**item) for item in self.header["history"]],
            stopped=self.header["stopped"],
        )


def read_tiles(files: Sequence[Path]) -> TiledState:
    """Put the files of one complete set together.

    Raises:
        InputError: a file is damaged, or tiles do not make up a scan.
    """
    boxes, patterns = [], 0
    for file in files:
        tensors, _ = _tile(file)
        corner = tensors["tile/origin_px"].numpy()
        boxes.append((corner, corner + np.array(tensors["state/object"].shape[1:3])))
        patterns += len(tensors["tile/numbers"])
    low = np.min([corner for corner, _ in boxes], axis=0)
    height, width = (int(side) for side in np.max([end for _, end in boxes], axis=0) - low)
    positions, seen = np.zeros((patterns, 2)), np.zeros(patterns, dtype=bool)
    own: dict[str, Tensor] = {}
    total = np.zeros((0, height, width), np.complex64)
    light = np.zeros((height, width), np.float32)
    for file, (corner, end) in zip(files, boxes, strict=True):
        tensors, header = _tile(file)
        image, numbers = _complex(tensors["state/object"]), tensors["tile/numbers"].numpy()
        if not total.size:
            total = np.zeros((len(image), height, width), np.complex64)  # as many slices as a tile has
        top, left = (int(value) for value in corner - low)
        bottom, right = (int(value) for value in end - low)
        own_light = tensors["tile/light"].numpy()
        total[:, top:bottom, left:right] += image.numpy() * own_light
        light[top:bottom, left:right] += own_light
        if numbers.max(initial=0) >= patterns or seen[numbers].any():
            raise InputError(file=file, field="tile/numbers", found="patterns of another tile", expected="its own")
        positions[numbers], seen[numbers] = tensors["positions_px"].numpy(), True
        for name in OWN:
            values = tensors[f"state/{name}"]
            rows = own.setdefault(name, torch.zeros(patterns, *values.shape[1:], dtype=values.dtype))
            rows[torch.from_numpy(numbers)] = values
    lit = light > DARK_SHARE * light.max()
    np.divide(total, light, out=total, where=lit)
    total[:, ~lit] = 1
    background = tensors.get("tile/background")
    return TiledState(
        object=total,
        light=light,
        origin_px=(float(low[0]), float(low[1])),
        shared={
            name: _complex(tensors[f"state/{name}"]) if name in COMPLEX else tensors[f"state/{name}"]
            for name in SHARED
            if f"state/{name}" in tensors
        },
        own=own,
        positions_px=positions,
        probe=_complex(tensors["tile/probe"]).numpy().astype(np.complex64),
        background=None if background is None else background.numpy().astype(np.float32),
        header=header,
    )


def _tile(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return read_checkpoint(file, SCHEMA)


def _complex(pairs: Tensor) -> Tensor:
    return torch.view_as_complex(pairs.contiguous())


def stitch_images(images: Sequence[StitchedObject]) -> StitchedObject:
    """The mean by weight of the images of all tiles, as they are after an exchange: with a common phase."""
    ends = [np.array(one.origin_px) + one.image.shape for one in images]
    low = np.min([one.origin_px for one in images], axis=0)
    height, width = (math.ceil(side) for side in np.max(ends, axis=0) - low)
    total, weight = np.zeros((height, width), np.complex64), np.zeros((height, width), np.float32)
    for one in images:
        top, left = (round(float(value)) for value in np.array(one.origin_px) - low)
        there = (slice(top, top + one.image.shape[0]), slice(left, left + one.image.shape[1]))
        total[there] += one.image * one.weight
        weight[there] += one.weight
    np.divide(total, weight, out=total, where=weight > 0)
    return StitchedObject(total, weight, (float(low[0]), float(low[1]))).with_zero_mean_phase()
