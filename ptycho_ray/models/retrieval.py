"""Phase retrieval of a single pattern, which a network improves with ``probe_conditioning: retrieval``.

With a known, structured probe, a single pattern almost determines the object in the illuminated area. A few steps of
accelerated gradient descent (Nesterov) solve for it. They minimise the negative log-posterior: diffraction amplitudes
have the variance 1/4 whatever their size, and the prior expects a smooth transmission near its mean, so that at low
dose the noise is not fitted. The illumination of a pixel bounds the curvature of the misfit there, so each pixel has
its own step length. In the first steps dim pixels are damped: their gradient is then dominated by the remaining error
of the bright ones. The network deals with the rest (ambiguities, strong phases, dark pixels, edges).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptycho_ray.physics.diffraction import far_field, illuminate, measure

#: Pixels with less light than this part of the brightest's, to the power of the step's number, are held back; of a descent of
#: more than so many steps the number counts in proportion, or dim pixels would be free before bright ones have settled.
DECAY, STEPS_OF_DECAY = 0.85, 60
#: What is expected before anything is measured: standard deviations, relative to the mean amplitude, of the transmission about
#: its mean and of its steps from pixel to pixel.
SPREAD, ROUGHNESS = 0.3, 0.1


@torch.no_grad()
def single_shot_retrieval(
    photons: Tensor, probe: Tensor, level: float, steps: int, project: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """The object retrieved from each single pattern, and the next step, which shows where the pattern is not yet fitted.

    Both are complex transmissions, complex64 of the shape of ``photons``.

    Args:
        photons: measured photons, float32 [..., N, N], zero frequency at N//2.
        probe: modes in sqrt(photons), complex [P, N, N].
        level: mean amplitude of the transmission; the descent starts from it, and stays there in dark pixels.
        steps: number of steps, each two Fourier transforms a mode.
        project: puts transmissions, complex [..., N, N], where objects are known to be, such as on the real axis; after every
            step. A pattern has half as many pixels as a complex object has unknowns, so such knowledge decides much.
    """
    probe = torch.fft.ifftshift(probe, dim=(-2, -1))
    towards_level, towards_smooth = (1 / (2 * (deviation * level) ** 2) for deviation in (SPREAD, ROUGHNESS))
    light = probe.abs().square().sum(dim=0)
    amplitudes = torch.fft.ifftshift(photons, dim=(-2, -1)).sqrt()[..., None, :, :]
    smallest = 1e-6 * amplitudes.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    pace = min(1.0, STEPS_OF_DECAY / max(steps, 1))
    previous = current = torch.full(photons.shape, level, dtype=torch.complex64, device=photons.device)

    def descent(patches: Tensor, step: int) -> Tensor:
        waves = far_field(illuminate(patches, probe))
        predicted = measure(waves).sqrt()[..., None, :, :]
        waves *= amplitudes / (predicted + smallest) - 1
        change = (torch.fft.ifft2(waves, norm="ortho") * probe.conj()).sum(dim=-3) - towards_level * (patches - level)
        for axis in (-2, -1):
            change += towards_smooth * (patches.roll(1, axis) + patches.roll(-1, axis) - 2 * patches)
        return change / (light.clamp_min(DECAY ** (pace * step) * light.max()) + towards_level + 8 * towards_smooth)

    for step in range(steps):
        ahead = torch.lerp(previous, current, 1 + step / (step + 3))
        previous, current = current, ahead + descent(ahead, step)
        current = current if project is None else project(current)
    return torch.fft.fftshift(current, dim=(-2, -1)), torch.fft.fftshift(descent(current, steps), dim=(-2, -1))
