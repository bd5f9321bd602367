"""The curvature that a misfit of patterns lacks for a phase which varies slowly, and what makes up for it.

A phase that varies slowly over the probe shifts the pattern in proportion to its slope: the curvature of the loss falls with
the square of the spatial frequency below ``k0``, about ``1 / probe diameter``. Any gradient method therefore converges slowest
there, unless the low frequencies of its change of the phase are multiplied by the missing factor, ``k0**2 / k**2``.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Share of the brightest illumination from which a pixel's phase change counts in full.
LIT_SHARE = 0.3
#: k0 times the probe's diameter.
SHARE_OF_DIAMETER = 0.7


def trusted(light: Tensor) -> Tensor:
    """How much the change of the phase of a pixel counts, 0 to 1, from the light [..., H, W] that fell on it."""
    return (light / (LIT_SHARE * light.amax(dim=(-2, -1), keepdim=True))).clamp_max(1)


def over_relaxed(change: Tensor, gain: float, probe_diameter_px: Tensor) -> Tensor:
    """What a change of the phase, real [..., H, W], is to be carried on by: its low frequencies times their missing curvature,
    at most ``gain`` times."""
    rows = torch.fft.fftfreq(change.shape[-2], device=change.device)
    columns = torch.fft.rfftfreq(change.shape[-1], device=change.device)
    squared = (rows[:, None].square() + columns.square()).to(change.dtype)
    turning = (torch.full_like(probe_diameter_px, SHARE_OF_DIAMETER) / probe_diameter_px).square()
    factor = (squared + turning / gain).reciprocal() * turning
    return torch.fft.irfft2(torch.fft.rfft2(change) * factor, change.shape[-2:])
