"""Where each pattern lies on the canvas: whole pixels as rows of a flat index, the rest as phase ramps.

Legend: n patterns, b patterns of a batch, N pattern side, [H, W] canvas.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.data.batches import sent
from ptycho_ray.errors import InputError


class Geometry:
    """Scan positions on a canvas, split into a corner in whole pixels and a remainder of at most half a pixel or so.

    The remainder moves the probe inside its window by a phase ramp in Fourier space, which is separable: two lines of N
    complex numbers a pattern, made anew for each batch.

    Args:
        positions_px: float64 [n, 2] (row, column); patch pixel N//2 lies on the position.
        side: N.
        margin_px: whole pixels added around the canvas, so that positions may move that far.
        canvas: (origin row, origin column, H, W) of a canvas that is given; it must hold every window.
    """

    def __init__(
        self,
        positions_px: NDArray[np.float64],
        side: int,
        *,
        margin_px: int = 0,
        canvas: tuple[float, float, int, int] | None = None,
        dtype: torch.dtype = torch.complex64,
        device: torch.device | None = None,
    ) -> None:
        positions = np.asarray(positions_px, dtype=np.float64)
        if positions.ndim != 2 or positions.shape[1:] != (2,) or not len(positions) or not np.isfinite(positions).all():
            raise InputError(field="positions_px", found=f"shape {positions.shape}", expected="finite numbers [n, 2]")
        self.side, self.dtype, self.device = side, dtype, device or torch.device("cpu")
        self.first = positions.copy()
        if canvas is None:
            corners = np.floor(positions + 0.5) - side // 2
            low = corners.min(axis=0) - margin_px
            height, width = (corners.max(axis=0) - low + side + margin_px).astype(int)
            canvas = (float(low[0]), float(low[1]), int(height), int(width))
        self.origin_px, self.height, self.width = (canvas[0], canvas[1]), canvas[2], canvas[3]
        real = torch.float64 if dtype == torch.complex128 else torch.float32
        self.frequency = torch.fft.fftfreq(side, device=self.device, dtype=real)
        self._turn = -2j * math.pi * self.frequency.to(dtype)
        self._lines = torch.arange(side, device=self.device) * self.width
        self.fraction: Tensor
        self._read_version = 0
        self._low = np.zeros(2)
        self._high = np.array([self.height - side, self.width - side], dtype=np.float64)
        self.place(positions)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def positions_px(self) -> NDArray[np.float64]:
        """The present positions, float64 [n, 2]."""
        if self.fraction._version != self._read_version:  # it was changed, by whomever
            self._remainder, self._read_version = self.fraction.cpu().numpy().copy(), self.fraction._version
        return np.asarray(self.corners + self._remainder + self.origin_px + self.side // 2)

    def place(self, positions_px: NDArray[np.float64]) -> None:
        """Split positions into corner and remainder anew; what would leave the canvas stays at its edge."""
        corner = np.asarray(positions_px) - np.array(self.origin_px) - self.side // 2
        whole = np.clip(np.floor(corner + 0.5), self._low, self._high)
        self.corners = whole.astype(np.int64)
        real = self.frequency.dtype
        remainder = torch.as_tensor(corner - whole).to(real)
        self.fraction = sent(remainder, self.device)
        #: What the host knows of ``fraction``, and the version that it has read: a device is not asked without need.
        self._remainder, self._read_version = remainder.numpy().copy(), self.fraction._version
        self._starts = sent(torch.as_tensor(self.corners @ np.array([self.width, 1])), self.device)
        self._column = torch.arange(self.side, device=self.device)

    def shift(self, rows: Tensor, step_px: Tensor) -> None:
        """Move the positions of ``rows`` by [b, 2] pixels; the window stays until :meth:`place` is called again."""
        self.fraction.index_copy_(0, rows, self.fraction.index_select(0, rows) + step_px)

    def settle(self) -> None:
        """Let windows follow the positions that have moved by more than half a pixel."""
        self.place(self.positions_px)

    def lines(self, rows: Tensor) -> Tensor:
        """Flat index of the first pixel of every line of every window, int64 [b * N]."""
        return (self._starts.index_select(0, rows)[:, None] + self._lines).reshape(-1)

    def ramps(self, rows: Tensor) -> Tensor:
        """The two lines of phase ramps of each window, complex [b, 2, N]. Of all patterns they would take more memory than the
        patterns of a counting detector."""
        return torch.exp(self._turn * self.fraction.index_select(0, rows)[..., None])

    def pixels(self, lines: Tensor) -> Tensor:
        """Flat index of every pixel of the lines, int64 [len(lines) * N]."""
        return (lines[:, None] + self._column).reshape(-1)

    def box(self, rows: NDArray[np.int64]) -> tuple[slice, slice]:
        """The smallest rectangle of the canvas that holds the windows of ``rows``."""
        corners = self.corners[rows]
        (top, left), (bottom, right) = corners.min(axis=0), corners.max(axis=0) + self.side
        return slice(int(top), int(bottom)), slice(int(left), int(right))
