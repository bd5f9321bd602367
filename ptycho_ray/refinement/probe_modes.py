"""Probe modes to begin with, and the modes by which a probe varies over the scan."""

from __future__ import annotations

import torch
from torch import Tensor


def first_modes(probe: Tensor, count: int) -> Tensor:
    """``count`` modes [P, N, N] with the photons of ``probe``: its own, and Hermite-like ones made from its first.

    A new mode is the first one times a polynomial in row and column, made orthogonal to those before; each takes a tenth of
    the photons, so that the first still leads.
    """
    modes = list(probe[:count])
    photons = probe.abs().square().sum()
    side = probe.shape[-1]
    axis = (torch.arange(side, dtype=probe.real.dtype, device=probe.device) - side // 2) / side
    degree = 1
    while len(modes) < count:
        for power in range(degree + 1):
            if len(modes) == count:
                break
            mode = modes[0] * axis[:, None] ** (degree - power) * axis[None, :] ** power
            for other in modes:
                mode = mode - other * torch.vdot(other.flatten(), mode.flatten()) / other.abs().square().sum()
            modes.append(mode * (0.1 * photons / mode.abs().square().sum()).sqrt())
        degree += 1
    made = torch.stack(modes)
    return made * (photons / made.abs().square().sum()).sqrt()


def first_eigenmodes(probe_spectrum: Tensor, count: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Eigenmodes [K, N, N] to begin with, and their weights [n, K], which are zero: the probe under random smooth factors."""
    probe = torch.fft.ifft2(probe_spectrum[0], norm="ortho")
    side = probe.shape[-1]
    if count == 0:
        return probe_spectrum[:0].clone(), torch.zeros(n, 0, dtype=probe.real.dtype, device=probe.device)
    noise = torch.randn(count, 4, 4, generator=generator, dtype=torch.float64).to(probe.real.dtype)
    factors = torch.nn.functional.interpolate(noise[:, None], size=(side, side), mode="bicubic")[:, 0].to(probe.device)
    eigen = orthonormalised((probe * factors).flatten(1), float(probe.abs().square().sum().sqrt()))
    weights = torch.zeros(n, count, dtype=probe.real.dtype, device=probe.device)
    return torch.fft.fft2(eigen.view(count, side, side), norm="ortho"), weights


def orthonormalised(flat: Tensor, norm: float | Tensor) -> Tensor:
    """Rows made orthogonal to each other, each of the given norm."""
    q, _ = torch.linalg.qr(flat.T)
    return (q.T * norm).contiguous()
