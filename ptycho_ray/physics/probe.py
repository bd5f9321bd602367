"""Apertures and probe modes."""

from __future__ import annotations

import math

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


def orthogonal_modes(modes: Tensor) -> Tensor:
    """The same illumination in orthogonal modes, the strongest first: complex [P, N, N] to complex [P, N, N].

    Any unitary mixture of incoherent modes diffracts alike, so modes that were fitted come out mixed. The mixture whose
    modes are orthogonal is unique up to their phases (Thibault and Menzel, Nature 494, 68, 2013); it is found here from the
    P x P matrix of their overlaps. Each mode keeps a real, positive overlap with the given mode that it is most made of.
    """
    flat = modes.flatten(start_dim=1).to(torch.complex128)
    _, vectors = torch.linalg.eigh(flat @ flat.mH)
    mixing = vectors.flip(-1).mH
    largest = mixing.gather(1, mixing.abs().argmax(dim=1, keepdim=True))
    mixing = mixing * (largest.conj() / largest.abs())
    return (mixing @ flat).reshape(modes.shape).to(modes.dtype)


def effective_diameter_px(probe: Tensor) -> Tensor:
    """Diameter of the uniform disc that is as concentrated as the probe: ``sqrt(4/pi (sum I)^2 / sum I^2)`` (participation),
    float64 [].

    Not the probe diameter (:func:`ptycho_ray.physics.optics.probe_diameter_px`): faint tails hardly count.
    """
    intensity = probe.abs().square().sum(dim=0).double()
    return (4 / math.pi * intensity.sum().square() / intensity.square().sum()).sqrt()
