"""Calibration of standard deviations against errors.

C. Guo et al., arXiv:1706.04599, and V. Kuleshov et al., arXiv:1807.00263 (calibration of a regression).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, erfinv

from ptycho_ray.errors import InputError

FloatArray = NDArray[np.float64]
#: Shares of the pixels at which the curve is read.
LEVELS = np.arange(1, 20) / 20
#: Pixels that the rank correlation is computed from, at most.
MOST_RANKED = 50_000


@dataclass(frozen=True)
class Calibration:
    """Calibration of a map of standard deviations.

    Attributes:
        z: how many standard deviations, [k].
        expected: fraction of a normal distribution within z standard deviations, [k].
        observed: fraction of the pixels whose error is within z standard deviations, [k].
        expected_calibration_error: mean of abs(observed - expected), 0 to 1/2.
        scale: factor by which the deviations must be multiplied for half of the errors to lie within the quartile range
            of a normal distribution; above 1 for an overconfident ensemble.
        rank_correlation: Spearman's, between deviation and magnitude of the error: whether errors occur where they are
            expected.
        median_std: median of the deviations, in the unit of the image.
    """

    z: FloatArray
    expected: FloatArray
    observed: FloatArray
    expected_calibration_error: float
    scale: float
    rank_correlation: float
    median_std: float

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}


def calibration_of(error: NDArray[Any], std: NDArray[Any]) -> Calibration:
    """Compare errors with the standard deviations stated for them, pixel by pixel; any shape.

    Raises:
        InputError: the shapes differ, there is no pixel, or a value is negative or not finite.
    """
    error, std = (np.asarray(values, dtype=np.float64).ravel() for values in (error, std))
    if error.shape != std.shape or not error.size:
        raise InputError(field="std", found=f"{std.size} values", expected=f"{error.size or 'some'}, one an error")
    if not (np.isfinite(error).all() and np.isfinite(std).all() and (std >= 0).all()):
        raise InputError(field="std", found="a negative or non-finite value", expected="finite numbers, 0 or more")
    size = np.abs(error)
    distance = np.divide(size, std, out=np.where(size > 0, np.inf, 0.0), where=std > 0)
    z = np.sqrt(2) * erfinv(LEVELS)
    observed = np.searchsorted(np.sort(distance), z, side="right") / distance.size
    thin = slice(None, None, -(-size.size // MOST_RANKED))
    varies = np.ptp(size[thin]) > 0 and np.ptp(std[thin]) > 0
    from scipy.stats import spearmanr  # half a second, which few commands need

    return Calibration(
        z=z,
        expected=erf(z / np.sqrt(2)),
        observed=observed,
        expected_calibration_error=float(np.abs(observed - LEVELS).mean()),
        scale=float(np.median(distance) / (np.sqrt(2) * erfinv(0.5))),
        rank_correlation=float(spearmanr(size[thin], std[thin]).statistic) if varies else 0.0,
        median_std=float(np.median(std)),
    )
