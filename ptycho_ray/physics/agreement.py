"""How well objects agree: two predictions of one region, or a prediction and the truth.

Diffraction leaves the global phase of an object open, so all of these first turn one object to the phase of the other.
Weights say how well each pixel is illuminated; only their ratios matter. Images are complex [..., H, W].
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Least squared modulus at which a pixel has a phase.
SMALLEST_SQUARE = 1e-8


def disagreement(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Squared difference of two objects after the best common phase, as a part of their squares; [...], 0 to 1.

    ``min over phi of sum w |a - exp(i phi) b|**2 / sum w (|a|**2 + |b|**2)``. Zero where the weight is zero throughout.
    """
    overlap = (weight * first * second.conj()).sum(dim=(-2, -1)).abs()
    energy = (weight * (_square(first) + _square(second))).sum(dim=(-2, -1))
    seen = energy > 0
    return torch.where(seen, 1.0 - 2.0 * overlap / torch.where(seen, energy, 1.0), 0.0)


def in_phase(image: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """``image`` times the number of modulus one that brings it nearest to ``truth``."""
    overlap = (weight * truth * image.conj()).sum(dim=(-2, -1), keepdim=True)
    size = overlap.abs()
    return image * torch.where(size > 0, overlap / torch.where(size > 0, size, 1.0), torch.ones_like(overlap))


def object_error(image: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of ``|image - truth|`` [...], in units of the transmission; ``image`` is in phase already."""
    return _mean(torch.sqrt(_square(image - truth) + SMALLEST_SQUARE), weight)


def amplitude_error(image: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of ``||image| - |truth||`` [...], in units of the transmission."""
    return _mean((torch.sqrt(_square(image) + SMALLEST_SQUARE) - truth.abs()).abs(), weight)


def phase_error(image: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean of the absolute phase difference [...], radians, 0 to pi; ``image`` is in phase already.

    The difference is taken on the circle, so a phase that wraps costs nothing. Pixels without a phase do not count.
    """
    product = image * truth.conj()
    has_phase = (_square(product) > SMALLEST_SQUARE) & (weight > 0)
    angle = torch.angle(torch.where(has_phase, product, torch.ones_like(product)))
    return _mean(angle.abs(), weight * has_phase)


def _square(image: Tensor) -> Tensor:
    return image.real.square() + image.imag.square()


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    total = (weight * torch.ones_like(values)).sum(dim=(-2, -1))
    return (weight * values).sum(dim=(-2, -1)) / total.clamp_min(torch.finfo(values.dtype).tiny)
