"""How well predicted patterns explain the measured ones: the one place where R-factor, deviance and likelihood are taken.

No truth is needed. Patterns are photons [..., N, N] with any order of the detector's pixels, the same for all arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import gammaln, xlogy
from torch import Tensor

from ptycho_ray.physics import likelihood
from ptycho_ray.physics.likelihood import apply_pixel_mask, gaussian_amplitude_misfit

#: Patterns whose squared difference to the empty beam is less than so many times the noise show nothing to be judged by.
LEAST_STRUCTURE = 1.3


@dataclass(frozen=True)
class Explained:
    """Predicted patterns beside the measured ones; each figure is one number per pattern [...].

    Attributes:
        rate: predicted photons, real [..., N, N].
        counts: measured photons, [..., N, N]; zero in bad pixels.
        good_pixels: one where a detector pixel works, zero where not, [N, N]; all work if None.
    """

    rate: Tensor
    counts: Tensor
    good_pixels: Tensor | None = None

    @property
    def seen(self) -> Tensor:
        """The predicted photons where the detector works, zero elsewhere."""
        return apply_pixel_mask(self.rate, self.good_pixels)

    def r_factor(self) -> Tensor:
        """Diffraction R-factor ``sum |sqrt(I) - sqrt(n)| / sum sqrt(n)`` of each pattern."""
        return likelihood.r_factor(self.seen, self.counts)

    def deviance(self) -> Tensor:
        """Poisson deviance per good pixel of each pattern; about one per well-lit pixel at the noise limit."""
        per_pixel = likelihood.poisson_deviance(self.seen, self.counts).mean(dim=(-2, -1))
        return per_pixel if self.good_pixels is None else per_pixel / self.good_pixels.mean()

    def negative_log_density(self, lit: Tensor | None = None, photon_scale: float = 1.0) -> Tensor:
        """Mean over the pixels ``lit`` (bool [N, N], all if None) of :func:`.likelihood.negative_log_density`.

        ``photon_scale``: photons per unit of the file's intensity.
        """
        density = likelihood.negative_log_density(self.seen, self.counts, photon_scale)
        if lit is None:
            return density.mean(dim=(-2, -1))
        return (lit * density).sum(dim=(-2, -1)) / lit.sum()


@dataclass(frozen=True)
class Figures:
    """How well patterns are explained, each figure a mean over them.

    Attributes:
        likelihood: negative logarithm of the probability density per lit pixel, in the units of the file.
        deviance: Poisson deviance per good pixel.
        r_factor: diffraction R-factor.
    """

    likelihood: float
    deviance: float
    r_factor: float


def mean_figures(pieces: Iterable[Explained], lit: Tensor | None = None, photon_scale: float = 1.0) -> Figures:
    """Means over all patterns of the pieces; arguments as for :meth:`Explained.negative_log_density`.

    Raises:
        ZeroDivisionError: there is no pattern.
    """
    return Figures(
        **{name: float(values.mean()) for name, values in figures_by_pattern(pieces, lit, photon_scale).items()}
    )


def figures_by_pattern(
    pieces: Iterable[Explained], lit: Tensor | None = None, photon_scale: float = 1.0
) -> dict[str, NDArray[np.float64]]:
    """The figures of :class:`Figures` by name, each with a value for every pattern [k]; arguments as for :func:`mean_figures`.

    Raises:
        ZeroDivisionError: there is no pattern.
    """
    rows = []
    for each in pieces:
        figures = each.negative_log_density(lit, photon_scale), each.deviance(), each.r_factor()
        rows.append(torch.stack([part.double().flatten() for part in figures]))
    if not sum(row.shape[1] for row in rows):
        raise ZeroDivisionError("no pattern to be judged by")
    return dict(zip(("likelihood", "deviance", "r_factor"), torch.cat(rows, dim=1).cpu().numpy(), strict=True))


def overall_r_factor(explained: Explained) -> float:
    """``sum |sqrt(I) - sqrt(n)| / sum sqrt(n)`` over all patterns together, in double precision: bright ones count more."""
    predicted, measured = (photons.double().sqrt() for photons in (explained.seen, explained.counts))
    if explained.good_pixels is not None:
        measured = measured * explained.good_pixels
    return float((predicted - measured).abs().sum() / measured.sum())


def flat_object_rate(empty_beam: Tensor, counts: Tensor) -> Tensor:
    """What an object without structure predicts [..., N, N]: the diffraction of the bare probe, ``empty_beam`` [N, N], scaled
    to the photons of each pattern. It is the score that a reconstruction has to beat."""
    return empty_beam * (counts.sum(dim=(-2, -1), keepdim=True) / empty_beam.sum())


def explained_share(explained: Explained, empty_beam: Tensor) -> float:
    """Of the squared error of amplitudes that an empty beam leaves beyond the photon noise, the part that is explained.

    1 is as good as the noise allows, 0 no better than an empty beam, and 1 where there is nothing to explain. The noise is that
    of the prediction or, if that fits the patterns worse, of the empty beam: a prediction that scatters light everywhere would
    excuse itself with its dim pixels.
    """
    flat = apply_pixel_mask(empty_beam, explained.good_pixels)
    predicted, photons, flat = (value.cpu().double() for value in (explained.seen, explained.counts, flat))
    counts = photons.sum(dim=(-2, -1), keepdim=True)
    beam = flat * (counts / flat.sum())
    scaled = predicted * (counts / predicted.sum(dim=(-2, -1), keepdim=True).clamp_min(1e-12))
    empty, reached = (float(gaussian_amplitude_misfit(rate, photons).mean()) for rate in (beam, scaled))
    noise = float(noise_misfit((scaled if reached < empty else beam).numpy()).mean())
    if empty < LEAST_STRUCTURE * noise:
        return 1.0
    return (empty - reached) / (empty - noise)


def noise_misfit(rate: NDArray[np.float64], stabiliser: float = 0.0) -> NDArray[np.float64]:
    """Mean of ``2 * (sqrt(rate + c) - sqrt(n + c))**2``, c the ``stabiliser``, for Poisson counts n of that rate: 1/2 where it
    is bright, 2 * rate where it is dark if c is 0; interpolated in a table of the exact sums."""
    rates, misfits, *_ = _noise_curves(stabiliser)
    return np.interp(rate, rates, misfits)


def noise_deviance(rate: NDArray[np.float64], constant: float) -> NDArray[np.float64]:
    """Mean of the Poisson deviance of ``n + c`` at ``rate + c``, c the ``constant``, over two, for counts n of that rate: 1/2
    where it is bright; from the same table."""
    rates, *_, deviances = _noise_curves(constant)
    return np.interp(rate, rates, deviances)


def noise_difference(rate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of ``|sqrt(rate) - sqrt(n)|`` for Poisson counts n of that rate: sqrt(rate) where it is dark, 0.4 where it is
    bright; from the same table."""
    rates, _, differences, _ = _noise_curves(0.0)
    return np.interp(rate, rates, differences)


@functools.cache
def _noise_curves(constant: float) -> tuple[NDArray[np.float64], ...]:
    """Rates from dark to bright, and at each of them what :func:`noise_misfit`, :func:`noise_difference` and
    :func:`noise_deviance` are."""
    rates, counts = np.concatenate([[0.0], np.geomspace(1e-4, 50.0, 500)]), np.arange(200)
    probabilities = np.exp(xlogy(counts, rates[:, None]) - rates[:, None] - gammaln(counts + 1))
    bright, counted = rates + constant, counts + constant
    amplitudes, roots = np.sqrt(bright), np.sqrt(counted)
    differences = (probabilities * np.abs(amplitudes[:, None] - roots)).sum(axis=1)
    deviances = probabilities @ xlogy(counted, counted) - xlogy(bright, bright)
    return rates, 4 * (bright - amplitudes * (probabilities @ roots)), differences, deviances
