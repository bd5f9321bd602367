"""How well a predicted diffraction pattern explains the measured one.

All functions take the predicted photons first (``rate``), the measured ones second (``counts``), tensors of one shape, and
return the value of each pixel; averaging is left to the caller.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

#: Smallest rate in photons per pixel that the logarithm sees.
RATE_EPSILON = 1e-12
#: Added under the square root, in photons: below any count, but it keeps the gradient of the amplitude finite at zero.
AMPLITUDE_EPSILON = 1e-12


def amplitude(intensity: Tensor) -> Tensor:
    """Square root of an intensity with a finite gradient at zero."""
    return torch.sqrt(intensity + AMPLITUDE_EPSILON)


def poisson_negative_log_likelihood(rate: Tensor, counts: Tensor) -> Tensor:
    """``rate - counts * log(rate)``: the Poisson negative log-likelihood without its constant, as the reference uses it."""
    return rate - counts * torch.log(rate + RATE_EPSILON)


def poisson_deviance(rate: Tensor, counts: Tensor) -> Tensor:
    """``2 * (rate - counts + counts * log(counts / rate))``: twice the log-likelihood ratio to a perfect prediction.

    It is never negative, zero where the prediction equals the measurement, and about one per pixel at the noise limit,
    whatever the dose; its gradient is twice that of the negative log-likelihood. Near the measurement the logarithm is
    taken of the difference, which keeps its precision at high counts; far below it, of the ratio, which stays finite at
    rate zero.
    """
    rate = rate + RATE_EPSILON
    seen = counts > 0
    some_counts = torch.where(seen, counts, 1.0)
    near = rate > 0.5 * some_counts
    by_difference = torch.log1p(torch.where(near, (rate - some_counts) / some_counts, 0.0))
    by_ratio = torch.log(torch.where(near, 1.0, rate / some_counts))
    return 2.0 * (rate - counts - counts * torch.where(near, by_difference, by_ratio))


def gaussian_amplitude_misfit(rate: Tensor, counts: Tensor) -> Tensor:
    """``2 * (sqrt(rate) - sqrt(counts))**2``: half the squared error of the amplitude over its variance.

    The square root of Poisson counts has the variance 1/4 whatever the counts are, so this is half the deviance to second order
    (Thibault and Guizar-Sicairos, New J. Phys. 14, 063004, 2012); unlike it, it stays bounded where nothing is predicted.
    """
    return 2.0 * (amplitude(rate) - amplitude(counts)).square()


def gaussian_intensity_misfit(rate: Tensor, counts: Tensor, variance_floor: float) -> Tensor:
    """``(rate - counts)**2 / (2 * (counts + variance_floor))``: half the squared error over the measured variance.

    Args:
        variance_floor: photons, above 0: what is added to the counts' own variance, or a pixel without counts would be
            believed to be exactly dark.
    """
    return (rate - counts).square() / (2.0 * (counts + variance_floor))


def negative_log_density(rate: Tensor, counts: Tensor, photon_scale: float = 1.0) -> Tensor:
    """Negative logarithm of the probability density of each pixel's value in file units.

    ``counts`` = ``photon_scale`` * file value. The Poisson probability is that of the counts, with the gamma function between
    whole numbers; the density of the file value is ``photon_scale`` times that, except for the value zero, whose probability
    is not spread over anything. Its mean over pixels with more than a few photons is smallest for the photon scale that
    makes the scatter of the data that of photons, so unlike the deviance it can compare photon counts.
    """
    rate = rate.clamp_min(1e-12)
    of_counts = rate - torch.xlogy(counts, rate) + torch.lgamma(counts + 1)
    return of_counts - math.log(photon_scale) * (counts > 0)


def apply_pixel_mask(intensity: Tensor, good_pixels: Tensor | None) -> Tensor:
    """What a detector of which only ``good_pixels`` [N, N] (1 = good, 0 = bad) work sees of intensities [..., N, N].

    The patterns of a scan are zero in its bad pixels. With the prediction zero there too, those pixels add nothing to
    any of the figures above and have no gradient; means are taken over the good ones (:func:`good_pixel_fraction`).
    """
    return intensity if good_pixels is None else intensity * good_pixels


def good_pixel_fraction(good_pixels: Tensor | None) -> float:
    """Share of the detector pixels that work: means over all pixels are divided by it."""
    return 1.0 if good_pixels is None else float(good_pixels.mean())


def good_pixels_of(bad_pixels: Any, device: torch.device | None = None) -> Tensor | None:
    """``bad_pixels`` (bool [N, N], True = bad, or None) as float32 [N, N] with 1 where a pixel is good."""
    if bad_pixels is None:
        return None
    return torch.as_tensor(~bad_pixels, dtype=torch.float32, device=device)


def amplitude_absolute_error(intensity: Tensor, measured_amplitude: Tensor) -> Tensor:
    """``|sqrt(intensity) - measured amplitude|``."""
    return (amplitude(intensity) - measured_amplitude).abs()


def total_variation(image: Tensor) -> Tensor:
    """Sum of squared differences of neighbouring pixels of images [..., H, W], real or complex: a scalar."""
    vertical = image[..., 1:, :] - image[..., :-1, :]
    horizontal = image[..., :, 1:] - image[..., :, :-1]
    return vertical.abs().square().sum() + horizontal.abs().square().sum()


def isotropic_variation(image: Tensor, smallest: float = 1e-3) -> Tensor:
    """Sum of the lengths of the gradient of images [..., H, W], real or complex: a scalar.

    Steps up to ``smallest`` count as their square, which keeps the gradient finite; larger ones in proportion, so that an
    edge costs no more than a slope of the same height (Rudin, Osher and Fatemi, Physica D 60, 259, 1992).
    """
    vertical = image[..., 1:, :-1] - image[..., :-1, :-1]
    horizontal = image[..., :-1, 1:] - image[..., :-1, :-1]
    steps = torch.view_as_real(torch.stack([vertical, horizontal])) if image.is_complex() else None
    squares = vertical.square() + horizontal.square() if steps is None else steps.square().sum(dim=(0, -1))
    return (torch.sqrt(squares + smallest**2) - smallest).sum()


def r_factor(intensity: Tensor, counts: Tensor) -> Tensor:
    """``sum |sqrt(intensity) - sqrt(counts)| / sum sqrt(counts)`` over the last two axes: the diffraction R-factor."""
    measured = counts.sqrt()
    return (intensity.sqrt() - measured).abs().sum(dim=(-2, -1)) / measured.sum(dim=(-2, -1))
