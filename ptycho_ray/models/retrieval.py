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


#: Amplitudes that count as nothing, relative to a pattern's brightest pixel.
SMALLEST = 1e-6
#: Steps after a network's correction, whose details its pattern then decides.
SETTLING_STEPS = 5


class _Descent:
    """Steps towards the objects that explain single patterns; everything here has zero frequency and middle at the corner.

    Args:
        photons, probe, level: as for :func:`single_shot_retrieval`.
        pace: by which part of a step's number dim pixels are released.
    """

    def __init__(self, photons: Tensor, probe: Tensor, level: float, pace: float) -> None:
        self.probe = torch.fft.ifftshift(probe, dim=(-2, -1))
        self.level, self.pace = level, pace
        self.towards_level, self.towards_smooth = (
            1 / (2 * (deviation * level) ** 2) for deviation in (SPREAD, ROUGHNESS)
        )
        self.light = self.probe.abs().square().sum(dim=0)
        self.amplitudes = torch.fft.ifftshift(photons, dim=(-2, -1)).sqrt()[..., None, :, :]
        brightest = self.amplitudes.amax(dim=(-2, -1), keepdim=True)
        self.smallest = (SMALLEST * brightest).clamp_min(SMALLEST**2)  # a pattern without photons has one, too

    def misfit(self, patches: Tensor) -> Tensor:
        """Squared difference of amplitudes, summed over each pattern."""
        predicted = measure(far_field(illuminate(patches, self.probe))).sqrt()
        return (predicted - self.amplitudes[..., 0, :, :]).square().sum(dim=(-2, -1))

    def step(self, patches: Tensor, number: int) -> Tensor:
        """The change of ``patches`` in the step of this number."""
        waves = far_field(illuminate(patches, self.probe))
        predicted = (measure(waves)[..., None, :, :] + self.smallest**2).sqrt()
        waves = waves * (self.amplitudes / predicted - 1)
        change = (torch.fft.ifft2(waves, norm="ortho") * self.probe.conj()).sum(dim=-3)
        change -= self.towards_level * (patches - self.level)
        for axis in (-2, -1):
            change += self.towards_smooth * (patches.roll(1, axis) + patches.roll(-1, axis) - 2 * patches)
        bright = self.light.clamp_min(DECAY ** (self.pace * number) * self.light.max())
        return change / (bright + self.towards_level + 8 * self.towards_smooth)

    def descend(self, patches: Tensor, numbers: range, project: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """``patches`` after the steps of these numbers, with momentum from the first on."""
        previous = current = patches
        for passed, number in enumerate(numbers):
            ahead = torch.lerp(previous, current, 1 + passed / (passed + 3))
            previous, current = current, ahead + self.step(ahead, number)
            current = current if project is None else project(current)
        return current


def _pace(steps: int) -> float:
    return min(1.0, STEPS_OF_DECAY / max(steps, 1))


def _further(steps: int) -> range:
    """Numbers of the steps after a correction: those in which details settle, long after the first."""
    return range(steps // 2, steps // 2 + SETTLING_STEPS)


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
    descent = _Descent(photons, probe, level, _pace(steps))
    flat = torch.full(photons.shape, level, dtype=torch.complex64, device=photons.device)
    found = descent.descend(flat, range(steps), project)
    return torch.fft.fftshift(found, dim=(-2, -1)), torch.fft.fftshift(descent.step(found, steps), dim=(-2, -1))


def settled(photons: Tensor, probe: Tensor, level: float, steps: int, patches: Tensor) -> Tensor:
    """``patches`` [..., N, N] after a few more steps, which a network can be trained through.

    Args:
        photons, probe, level, steps: as for :func:`single_shot_retrieval`.
        patches: objects near those that were retrieved.
    """
    descent = _Descent(photons, probe, level, _pace(steps))
    found = descent.descend(torch.fft.ifftshift(patches, dim=(-2, -1)), _further(steps))
    return torch.fft.fftshift(found, dim=(-2, -1))


@torch.no_grad()
def better_explained(
    photons: Tensor, probe: Tensor, level: float, steps: int, retrieved: Tensor, improved: Tensor
) -> Tensor:
    """Of two objects for each pattern, both after a few more steps, the one that explains it better, [..., N, N].

    So what a network makes of a retrieved object is taken only where the pattern agrees.

    Args:
        photons, probe, level, steps: as for :func:`single_shot_retrieval`.
        retrieved, improved: the objects, complex [..., N, N].
    """
    descent = _Descent(photons, probe, level, _pace(steps))
    without, with_it = (
        descent.descend(torch.fft.ifftshift(patches, dim=(-2, -1)), _further(steps))
        for patches in (retrieved, improved)
    )
    worse = descent.misfit(with_it) > descent.misfit(without)
    return torch.fft.fftshift(torch.where(worse[..., None, None], without, with_it), dim=(-2, -1))
