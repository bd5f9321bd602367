"""What the physics alone makes of one pattern: the object that a network improves, with ``probe_conditioning: retrieval``.

A known probe leaves one pattern's object almost determined where the light is. A few steps of accelerated gradient descent
on the diffraction amplitudes (the single-pattern step of ePIE, Maiden and Rodenburg, Ultramicroscopy 109, 2009, with the
momentum of Nesterov) cost less than one layer of a network and bring the pattern to where the object is; what they leave
open (strong phases, dark pixels, noise) is the network's part.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOMENTUM = 0.9


@torch.no_grad()
def single_shot_retrieval(photons: Tensor, probe: Tensor, level: float, steps: int) -> tuple[Tensor, Tensor]:
    """The object of each pattern by itself, and the step that would come next: where the pattern is still unexplained.

    Both are complex transmissions, complex64 of the shape of ``photons``.

    Args:
        photons: measured photons, float32 [..., N, N], zero frequency at N//2.
        probe: modes in sqrt(photons), complex [P, N, N].
        level: amplitude of the flat object that the descent starts from, and keeps where there is no light.
        steps: number of steps, each two Fourier transforms a mode.
    """
    probe = torch.fft.ifftshift(probe, dim=(-2, -1))
    conjugate = probe.conj() / probe.abs().square().sum(dim=0).max()
    amplitudes = torch.fft.ifftshift(photons, dim=(-2, -1)).sqrt()[..., None, :, :]
    smallest = 1e-6 * amplitudes.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    previous = current = torch.full(photons.shape, level, dtype=torch.complex64, device=photons.device)

    def descent(patches: Tensor) -> Tensor:
        waves = torch.fft.fft2(patches[..., None, :, :] * probe, norm="ortho")
        predicted = waves.abs() if len(probe) == 1 else waves.abs().square().sum(dim=-3, keepdim=True).sqrt()
        waves *= amplitudes / (predicted + smallest) - 1
        return (torch.fft.ifft2(waves, norm="ortho") * conjugate).sum(dim=-3)

    for step in range(steps):
        ahead = torch.lerp(previous, current, 1 + MOMENTUM * step / (step + 3))
        previous, current = current, ahead + descent(ahead)
    return torch.fft.fftshift(current, dim=(-2, -1)), torch.fft.fftshift(descent(current), dim=(-2, -1))
