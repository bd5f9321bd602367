"""Blurring of exit waves, as PtychoPINN offers it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def smooth_exit_wave(exit_waves: Tensor, sigma_px: float) -> Tensor:
    """Blur exit waves [..., N, N] with a 3 x 3 Gaussian of width ``sigma_px``; the border is reflected.

    Real and imaginary part are blurred separately. The kernel is normalised to sum one.
    """
    offsets = torch.tensor([-1.0, 0.0, 1.0], device=exit_waves.device)
    line = torch.softmax(-offsets.square() / (2 * sigma_px**2), dim=0)
    kernel = torch.outer(line, line)[None, None]

    def blur(part: Tensor) -> Tensor:
        flat = part.reshape(-1, 1, *part.shape[-2:])
        padded = functional.pad(flat, (1, 1, 1, 1), mode="reflect")
        return functional.conv2d(padded, kernel).reshape(part.shape)

    return torch.complex(blur(exit_waves.real), blur(exit_waves.imag))
