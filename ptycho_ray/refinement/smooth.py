"""Preconditioning of low spatial frequencies of the phase, so that they converge as fast as the rest.

A phase that varies slowly over the probe shifts the pattern in proportion to its slope: the curvature of
the loss falls with the square of the spatial frequency below ``1 / probe diameter``. Any gradient method therefore
converges slowest there. Once per iteration, the low frequencies of the change of the phase are over-relaxed by the
missing curvature factor, ``k0**2 / k**2``, up to a limit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Share of the brightest illumination from which a pixel's phase change counts in full.
LIT_SHARE = 0.3
#: k0 times the probe's diameter.
SHARE_OF_DIAMETER = 0.7


class SmoothAcceleration:
    """Over-relaxes the low-frequency phase change that all slices have in common: how they share it, the patterns hardly tell,
    and a change to and fro between them would grow.

    Args:
        image: the object, complex [S, H, W].
        gain: largest factor.
    """

    def __init__(self, image: Tensor, gain: float) -> None:
        self._gain = gain
        self.last = image.clone()

    def apply(self, image: Tensor, illumination: Callable[[], Tensor], probe_diameter_px: Tensor) -> None:
        """Over-relax the change of ``image`` since ``last``, in place; ``last`` is then the image before."""
        light = illumination()
        weight = (light / (LIT_SHARE * light.max())).clamp_max(1)
        change = torch.angle(image * self.last.conj()).mean(dim=0) * weight
        further = over_relaxed(change, self._gain, probe_diameter_px)
        self.last.copy_(image)
        image.mul_(torch.polar(torch.ones_like(further), further))


def over_relaxed(change: Tensor, gain: float, probe_diameter_px: Tensor) -> Tensor:
    """What a change of the phase, real [H, W], is to be carried on by: its low frequencies times their missing curvature."""
    rows = torch.fft.fftfreq(change.shape[-2], device=change.device)
    columns = torch.fft.rfftfreq(change.shape[-1], device=change.device)
    squared = (rows[:, None].square() + columns.square()).to(change.dtype)
    turning = (torch.full_like(probe_diameter_px, SHARE_OF_DIAMETER) / probe_diameter_px).square()
    factor = (squared + turning / gain).reciprocal() * turning
    return torch.fft.irfft2(torch.fft.rfft2(change) * factor, change.shape[-2:])
