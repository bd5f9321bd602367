"""Blurring of exit waves, as PtychoPINN offers it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def reflect(x: Tensor, width: int) -> Tensor:
    """Mirror ``width`` pixels at each edge. Made of slices: torch's own has no deterministic gradient on a GPU."""
    for axis in (-1, -2):
        n = x.shape[axis]
        before = x.narrow(axis, 1, width).flip(axis)
        after = x.narrow(axis, n - 1 - width, width).flip(axis)
        x = torch.cat([before, x, after], dim=axis)
    return x


def smooth_exit_wave(exit_waves: Tensor, sigma_px: float) -> Tensor:
    """Blur exit waves [..., N, N] with a 3 x 3 Gaussian of width ``sigma_px``; the border is reflected.

    Real and imaginary part are blurred separately. The kernel is normalised to sum one.
    """
    offsets = torch.arange(-1.0, 2.0, device=exit_waves.device)
    line = torch.softmax(-offsets.square() / (2 * sigma_px**2), dim=0)
    kernel = torch.outer(line, line)[None, None]

    def blur(part: Tensor) -> Tensor:
        flat = part.reshape(-1, 1, *part.shape[-2:])
        return functional.conv2d(reflect(flat, 1), kernel).reshape(part.shape)

    return torch.complex(blur(exit_waves.real), blur(exit_waves.imag))
