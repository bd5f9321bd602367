"""Apertures."""

from __future__ import annotations

import torch
from torch import Tensor


def distance_from_centre(n: int, device: torch.device | None = None) -> Tensor:
    """Distance in pixels of each pixel of an n x n array from the point between the four central ones, float32 [n, n]."""
    axis = torch.arange(n, device=device, dtype=torch.float32) - n / 2 + 0.5
    return torch.hypot(axis[:, None], axis[None, :])


def soft_disc_mask(n: int, diameter_px: float, sigma_px: float, device: torch.device | None = None) -> Tensor:
    """A disc whose edge falls off like the integral of a Gaussian of width ``sigma_px``, float32 [n, n]."""
    beyond_edge = distance_from_centre(n, device) - diameter_px / 2
    if sigma_px == 0:
        return (beyond_edge < 0).float()
    return 0.5 * torch.erfc(beyond_edge / (sigma_px * 2**0.5))
