"""Preconditioning of low spatial frequencies of the phase (``physics/smooth_phase.py``), once per iteration, so that they
converge as fast as the rest."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptycho_ray.physics.smooth_phase import over_relaxed, trusted


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
        change = torch.angle(image * self.last.conj()).mean(dim=0) * trusted(illumination())
        further = over_relaxed(change, self._gain, probe_diameter_px)
        self.last.copy_(image)
        image.mul_(torch.polar(torch.ones_like(further), further))
