"""The image of a scan that is still being measured: quick, and replaced by a whole reconstruction at the end."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_ray import workflow
from ptycho_ray.config.reading import Reading
from ptycho_ray.data import RawData, group_indices
from ptycho_ray.data.patterns import Domain, PatternStack
from ptycho_ray.reconstruction import inference
from ptycho_ray.service.engine import LoadedModel
from ptycho_ray.service.spool import SETTINGS_FILE, StreamSettings, write_spooled

#: Pixels kept free around a live image when it has to grow, so that it need not grow with every pattern.
MARGIN = 64
#: A patch keeps its own phase if it overlaps what is there with less than this share of its energy.
SURE_OVERLAP = 0.2
#: Streams whose physics a replica keeps.
STREAMS_IN_MEMORY = 8
#: Largest side of a picture that is sent; larger images are sent with every second, third ... pixel.
SIDE_SENT = 512


@dataclass(frozen=True)
class _Groups:
    """Patterns that are no scan yet (``inference.Groups``): photons [n, N, N] and the members of each group [B, C]."""

    photons: NDArray[np.float32]
    members: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.members)

    def batch(self, group_indices: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        members = self.members[group_indices]
        return self.photons[members], np.zeros((*members.shape, 2), np.float32)  # no position enters


@dataclass(frozen=True)
class ScanPhysics:
    """A model in the physics of the scan that is measured.

    Attributes:
        model: with the probe of the scan if its network sees the probe, else as it was trained.
        photon_scale: photons per unit of the patterns' intensity.
        bad_pixels: bool [N, N], True where the detector measured nothing; None if it did everywhere.
        rows: groups in a batch.
        neighbour_count: of which the members of a group are drawn.
    """

    model: Any
    photon_scale: float
    bad_pixels: NDArray[np.bool_] | None
    rows: int
    neighbour_count: int

    @classmethod
    def of(cls, loaded: LoadedModel, first: RawData) -> ScanPhysics:
        """What the first patterns of a scan tell, with their probe: that of the sender, or one estimated from them."""
        config = loaded.bundle.config
        container = workflow.groups_to_reconstruct(loaded.model, first, config)
        model = workflow.model_for_groups(loaded.model, container)
        scale = container.normalisation.photon_scale
        return cls(model, scale, first.bad_pixels, loaded.rows, config.neighbor_count)


def physics_of_stream(loaded: LoadedModel, folder: Path, count: int) -> ScanPhysics:
    """The physics of a stream by its first ``count`` patterns, read as the whole scan is read at the end."""
    settings = StreamSettings(**json.loads((folder / SETTINGS_FILE).read_text()))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = write_spooled(folder, settings, count, Path(place) / "first.h5")
        return ScanPhysics.of(loaded, workflow.load_data(path, reading=Reading(keys_only=True), in_memory=True))


def predict(
    physics: ScanPhysics, frames: NDArray, positions: NDArray[np.float64], domain: Domain
) -> tuple[NDArray[np.complex64], NDArray[np.float64], NDArray[np.float32]]:
    """The model's predictions for some patterns.

    Args:
        frames: patterns [n, N, N] in the units of the scan.
        positions: [n, 2] (row, column), pixels.

    Returns:
        Patches complex64 [m, N, N], their positions [m, 2] and the weight of each pixel [N, N]. With a model of groups a
        pattern may occur several times.

    Raises:
        InputError: a pattern holds something that is no intensity.
    """
    model = physics.model
    if physics.bad_pixels is not None:
        frames = np.where(physics.bad_pixels, frames.dtype.type(0), frames)
    photons = PatternStack(frames, domain).intensity() * np.float32(physics.photon_scale)
    size = model.config.gridsize**2
    members = np.arange(len(frames))[:, None]
    if size > 1:
        members = group_indices(
            positions,
            model.config.gridsize,
            math.ceil(len(frames) / size),
            neighbor_count=min(physics.neighbour_count, len(frames) - 1),
            generator=np.random.default_rng(0),
        )
    predicted = inference.predict(model, _Groups(photons, members), physics.rows)
    patches = torch.cat([piece for _, piece in predicted]).cpu().numpy()
    places = (
        positions[members] if patches.shape[1] == members.shape[1] else positions[members].mean(axis=1, keepdims=True)
    )
    n = frames.shape[-1]
    return patches.reshape(-1, n, n), places.reshape(-1, 2), model.overlap_weight().cpu().numpy()


class LiveImage:
    """A weighted mean of patches at whole pixels, on a canvas that grows.

    The global phase of each patch, which diffraction leaves undetermined, is aligned with what it overlaps. The final
    reconstruction solves for all phases at once and places patches at sub-pixel positions; this does neither.
    """

    def __init__(self, n: int, most_pixels: int) -> None:
        self.n, self.most_pixels = n, most_pixels
        self.patterns = 0
        self._corner = np.zeros(2, dtype=int)
        self._sums: NDArray[np.complex64] = np.zeros((0, 0), dtype=np.complex64)
        self._weights: NDArray[np.float32] = np.zeros((0, 0), dtype=np.float32)

    def add(self, patches: NDArray[np.complex64], positions: NDArray[np.float64], weight: NDArray[np.float32]) -> None:
        """Add patches [m, n, n] at positions [m, 2]; what would make the canvas too large is left out."""
        corners = np.rint(positions).astype(int) - self.n // 2
        self._reach(corners)
        for patch, (row, column) in zip(patches, corners - self._corner, strict=True):
            if not (0 <= row <= self._sums.shape[0] - self.n and 0 <= column <= self._sums.shape[1] - self.n):
                continue
            window = np.s_[row : row + self.n, column : column + self.n]
            weighted = patch * weight
            turn = np.vdot(weighted, self._sums[window])
            if abs(turn) > SURE_OVERLAP * np.vdot(weighted, weighted).real:
                weighted *= np.complex64(turn / abs(turn))
            self._sums[window] += weighted
            self._weights[window] += weight
            self.patterns += 1

    def picture(self) -> tuple[NDArray[np.complex64], tuple[int, int], int]:
        """The image cropped to what is covered, the position of its first pixel, and the step between its pixels."""
        touched = self._weights > 0
        if not touched.any():
            return np.zeros((1, 1), dtype=np.complex64), (0, 0), 1
        level = 0.3 * float(np.median(self._weights[touched]))
        covered = self._weights > level
        rows, columns = (np.flatnonzero(covered.any(axis=axis)) for axis in (1, 0))
        step = max(1, math.ceil(max(np.ptp(rows) + 1, np.ptp(columns) + 1) / SIDE_SENT))
        window = np.s_[rows[0] : rows[-1] + 1 : step, columns[0] : columns[-1] + 1 : step]
        image = np.where(covered[window], self._sums[window] / np.maximum(self._weights[window], 1e-30), 0)
        mean = image.sum()
        if abs(mean) > 0:
            image = image * (np.conj(mean) / abs(mean))
        origin = (int(self._corner[0] + rows[0]), int(self._corner[1] + columns[0]))
        return image.astype(np.complex64), origin, step

    def _reach(self, corners: NDArray[np.int64]) -> None:
        """Grow the canvas to hold patches at ``corners``, if it may become so large."""
        low, high = corners.min(axis=0), corners.max(axis=0) + self.n
        if self._sums.size:
            end = self._corner + self._sums.shape
            if (low >= self._corner).all() and (high <= end).all():
                return
            low, high = np.minimum(low - MARGIN, self._corner), np.maximum(high + MARGIN, end)
        else:
            low, high = low - MARGIN, high + MARGIN
        shape = tuple(int(side) for side in high - low)
        if shape[0] * shape[1] > self.most_pixels:
            return
        sums, weights = np.zeros(shape, np.complex64), np.zeros(shape, np.float32)
        if self._sums.size:
            row, column = self._corner - low
            window = np.s_[row : row + self._sums.shape[0], column : column + self._sums.shape[1]]
            sums[window], weights[window] = self._sums, self._weights
        self._corner, self._sums, self._weights = low, sums, weights
