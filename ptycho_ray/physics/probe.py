"""Apertures and the reference's normalisation of a probe guess."""

from __future__ import annotations

import torch
from torch import Tensor


def distance_from_centre(n: int, device: torch.device | None = None) -> Tensor:
    """Distance in pixels of each pixel of an n x n array from the point between the four central ones, float32 [n, n]."""
    axis = torch.arange(n, device=device, dtype=torch.float32) - n / 2 + 0.5
    return torch.hypot(axis[:, None], axis[None, :])


def disc_mask(n: int, device: torch.device | None = None) -> Tensor:
    """One inside the disc of radius n//4, zero outside, float32 [n, n]."""
    return (distance_from_centre(n, device) < n // 4).float()


def soft_disc_mask(n: int, diameter_px: float, sigma_px: float, device: torch.device | None = None) -> Tensor:
    """A disc whose edge falls off like the integral of a Gaussian of width ``sigma_px``, float32 [n, n]."""
    beyond_edge = distance_from_centre(n, device) - diameter_px / 2
    if sigma_px == 0:
        return (beyond_edge < 0).float()
    return 0.5 * torch.erfc(beyond_edge / (sigma_px * 2**0.5))


def normalise_probe(probe: Tensor, probe_scale: float) -> Tensor:
    """Scale probe modes [..., N, N] so that the mean of ``|disc_mask * probe|`` over the window is ``1 / probe_scale``.

    Follows PtychoPINN's ``set_probe``. Phases are kept.
    """
    mask = disc_mask(probe.shape[-1], probe.device)
    return probe / (probe_scale * (mask * probe).abs().mean())
