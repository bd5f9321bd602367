"""Placing patches at sub-pixel positions on one canvas and averaging where they overlap.

The cost is linear in the pixels of the patches and of the canvas, for any scan geometry, and patches can be added in
parts, so that a scan of any size needs memory for its canvas only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.data.batches import sent
from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path
from ptycho_ray.physics.translation import centre_crop

#: Patches that are interpolated at a time: few enough for the processor's cache.
CHUNK = 128


@dataclass(frozen=True)
class StitchedObject:
    """An image on a canvas.

    Attributes:
        image: complex64 [H, W]; zero where nothing was measured.
        weight: sum of the weights that reached each pixel, float32 [H, W].
        origin_px: position (row, column) of canvas pixel (0, 0) in the coordinates of the scan positions.
        amplitude_std, phase_std: how much the members of an ensemble differ, float32 [H, W], the phase in radians; None
            for the image of one network.
    """

    image: np.ndarray
    weight: np.ndarray
    origin_px: tuple[float, float]
    amplitude_std: np.ndarray | None = None
    phase_std: np.ndarray | None = None

    def with_zero_mean_phase(self) -> StitchedObject:
        """The same image times a complex number of modulus one, so that its weighted mean is real and positive."""
        mean = np.sum(self.image * self.weight)
        return replace(self, image=(self.image * np.exp(-1j * np.angle(mean))).astype(np.complex64))

    def transposed(self) -> StitchedObject:
        """The same image with rows and columns swapped."""
        row, column = self.origin_px
        return replace(self, image=self.image.T.copy(), weight=self.weight.T.copy(), origin_px=(column, row))

    def save(self, path: Path, pixel_size_m: float | None = None) -> None:
        """Write image, weight, origin, the pixel size if it is known and, for an ensemble, the standard deviations as a
        compressed NPZ, atomically."""
        arrays: dict[str, Any] = {"object": self.image, "weight": self.weight, "origin_px": np.array(self.origin_px)}
        arrays |= {} if pixel_size_m is None else {"pixel_size_m": np.array(pixel_size_m)}
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **(arrays | self.deviations()))

    def deviations(self) -> dict[str, np.ndarray]:
        """The standard deviations by name; nothing for the image of one network."""
        both = {"amplitude_std": self.amplitude_std, "phase_std": self.phase_std}
        return {name: values for name, values in both.items() if values is not None}

    def covered(self, share: float = 0.3) -> np.ndarray:
        """Where the weight is at least ``share`` of its median over the touched pixels, bool [H, W]."""
        touched = self.weight[self.weight > 0]
        level = share * float(np.median(touched)) if touched.size else 0.0
        return self.weight > level


class StitchAccumulator:
    """Sums of weighted patches and of weights on a canvas that spans the given positions.

    Args:
        positions_px: all positions that will be added, float64 [n, 2] (row, column); they only set the canvas.
        n: side of a patch.
        weight: weight of each pixel of a patch, float32 [n, n]; ones if None.
    """

    def __init__(
        self, positions_px: np.ndarray, n: int, weight: Tensor | None = None, device: torch.device | None = None
    ):
        positions_px = np.asarray(positions_px, dtype=np.float64)
        if positions_px.size == 0 or not np.isfinite(positions_px).all():
            raise InputError(field="positions_px", found="none, or not finite", expected="at least one finite position")
        corner = np.floor(positions_px.min(axis=0)) - n // 2
        height, width = (np.floor(positions_px.max(axis=0)) - np.floor(positions_px.min(axis=0))).astype(int) + n + 1
        self.n = n
        self.corner = corner
        self.weight = torch.ones(n, n, device=device) if weight is None else weight.to(device)
        self._sums = torch.zeros(3, height, width, device=device)

    def add(self, patches: Tensor, positions_px: np.ndarray) -> None:
        """Add complex patches [b, n, n] at positions [b, 2]; patch pixel n//2 is placed on the position."""
        offsets = np.asarray(positions_px, dtype=np.float64) - self.n // 2 - self.corner
        whole = np.floor(offsets)
        fraction = sent(torch.as_tensor(offsets - whole, dtype=torch.float32), self._sums.device)
        if self._sums.device.type != "cpu":
            self._add_at_once(patches * self.weight, whole.astype(np.int64), fraction)
            return
        corners = whole.astype(int).tolist()
        reach = self.n + 1
        for start in range(0, len(patches), CHUNK):
            chunk = slice(start, start + CHUNK)
            weighted = patches[chunk] * self.weight
            layers = torch.stack([weighted.real, weighted.imag, self.weight.expand_as(weighted.real)])
            spread = _spread(layers, fraction[chunk])
            for i, (row, column) in enumerate(corners[chunk]):
                self._sums[:, row : row + reach, column : column + reach] += spread[:, i]

    def _add_at_once(self, weighted: Tensor, corners: NDArray[np.int64], fraction: Tensor) -> None:
        """One call for all patches, where a call costs more than its numbers."""
        spread = _spread(torch.stack([weighted.real, weighted.imag, self.weight.expand_as(weighted.real)]), fraction)
        _, height, width = self._sums.shape
        along = torch.arange(self.n + 1, device=fraction.device)
        first = sent(torch.from_numpy(corners @ np.array([width, 1])), fraction.device)
        pixels = first[:, None, None] + along[:, None] * width + along
        self._sums.view(3, height * width).index_add_(1, pixels.flatten(), spread.flatten(1))

    def result(self) -> StitchedObject:
        """Weighted mean of what was added so far."""
        weight = self._sums[2]
        image = torch.complex(self._sums[0], self._sums[1]) / weight.clamp_min(torch.finfo(weight.dtype).tiny)
        return StitchedObject(image.cpu().numpy(), weight.cpu().numpy(), (float(self.corner[0]), float(self.corner[1])))


def _spread(images: Tensor, fraction: Tensor) -> Tensor:
    """Move images [..., b, n, n] by fractions [b, 2] of a pixel, bilinearly, onto [..., b, n + 1, n + 1]; sums are kept."""
    for axis, part in ((-2, fraction[:, 0]), (-1, fraction[:, 1])):
        part = part[:, None, None]
        shape = list(images.shape)
        shape[axis] += 1
        moved = images.new_empty(shape)
        n = images.shape[axis]
        torch.mul(images, 1 - part, out=moved.narrow(axis, 0, n))
        moved.narrow(axis, n, 1).zero_()
        moved.narrow(axis, 1, n).addcmul_(images, part)
        images = moved
    return images


def reassemble_position(obj_tensor: np.ndarray, global_offsets: np.ndarray, M: int = 10) -> np.ndarray:
    """PtychoPINN's stitch: the mean of the central M x M pixels of each object, on a canvas about the mean position.

    Args:
        obj_tensor: complex [B, N, N] or [B, N, N, 1].
        global_offsets: positions of the objects, [B, 1, 2, 1] as [x, y] (column, row), pixels.
        M: side of the piece that is kept, even and at most N.

    Returns:
        complex64 [S, S, 1] with S = M + 2 * pad, pad = the largest distance from the mean along an axis, rounded up to an
        even number; canvas pixel S/2 lies on the mean position. Zero outside the coverage.

    Raises:
        InputError: if M is odd, not positive or larger than N, or the lengths differ.
    """
    obj_tensor = np.asarray(obj_tensor)
    objects = obj_tensor[..., 0] if obj_tensor.ndim == 4 else obj_tensor
    offsets_xy = np.asarray(global_offsets, dtype=np.float64).reshape(-1, 2)
    n = objects.shape[-1]
    if M % 2 or not 0 < M <= n:
        raise InputError(field="M", found=M, expected=f"an even number from 2 to {n}")
    if len(objects) != len(offsets_xy):
        raise InputError(
            field="global_offsets", found=f"{len(offsets_xy)} positions", expected=f"{len(objects)}, one an object"
        )
    relative = (offsets_xy - offsets_xy.mean(axis=0))[:, ::-1]
    padding = math.ceil(np.abs(relative).max())
    padding += padding % 2
    side = M + 2 * padding

    accumulator = StitchAccumulator(relative, M)
    accumulator.add(centre_crop(torch.as_tensor(objects), M), relative)
    stitched = accumulator.result()
    canvas = np.zeros((side + 2, side + 2), np.complex64)  # one pixel more for the second tap of the interpolation
    top, left = (int(corner) + side // 2 for corner in stitched.origin_px)
    height, width = stitched.image.shape
    canvas[top : top + height, left : left + width] = stitched.image
    return canvas[:side, :side, None]
