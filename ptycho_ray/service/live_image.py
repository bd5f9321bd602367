"""The image of a scan that is still being measured: quick, and replaced by a whole reconstruction at the end."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_ray.data import group_indices
from ptycho_ray.data.patterns import Domain, PatternStack
from ptycho_ray.service.engine import LoadedModel

#: Pixels kept free around a live image when it has to grow, so that it need not grow with every pattern.
MARGIN = 64
#: A patch keeps its own phase if it overlaps what is there with less than this share of its energy.
SURE_OVERLAP = 0.2
#: Largest side of a picture that is sent; larger images are sent with every second, third ... pixel.
SIDE_SENT = 512


def predict(
    loaded: LoadedModel, frames: NDArray, positions: NDArray[np.float64], domain: Domain
) -> tuple[NDArray[np.complex64], NDArray[np.float64], NDArray[np.float32]]:
    """The model's predictions for some patterns.

    Args:
        frames: patterns [n, N, N] in the units of the model's training file.
        positions: [n, 2] (row, column), pixels.

    Returns:
        Patches complex64 [m, N, N], their positions [m, 2] and the weight of each pixel [N, N]. With a model of groups a
        pattern may occur several times.

    Raises:
        InputError: a pattern holds something that is no intensity.
    """
    model = loaded.model
    photons = PatternStack(frames, domain).intensity() * np.float32(model.normalisation.photon_scale)
    size = model.config.gridsize**2
    members = np.arange(len(frames))[:, None]
    if size > 1:
        nearest = min(loaded.bundle.config.neighbor_count, len(frames) - 1)
        members = group_indices(
            positions,
            model.config.gridsize,
            math.ceil(len(frames) / size),
            neighbor_count=nearest,
            generator=np.random.default_rng(0),
        )
    groups = torch.from_numpy(photons[members]).to(model.probe_parts.device)
    pieces = [
        model.transmission_patches(groups[start : start + loaded.rows]) for start in range(0, len(groups), loaded.rows)
    ]
    patches = torch.cat(pieces).cpu().numpy()
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
