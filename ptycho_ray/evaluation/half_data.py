"""Agreement of two images of one object that were made from different halves of the patterns."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.evaluation.frc import RingCorrelation, fourier_ring_correlation
from ptycho_ray.evaluation.quality import largest_rectangle


def half_data_correlation(first: NDArray[Any], second: NDArray[Any], covered: NDArray[np.bool_]) -> RingCorrelation:
    """Fourier ring correlation of two complex images [H, W] of one canvas, after the best common phase.

    It is taken in the largest rectangle inside ``covered`` [H, W], where both are well lit.
    """
    window = largest_rectangle(covered)
    a, b = first[window], second[window]
    turn = np.vdot(b, a)
    return fourier_ring_correlation(a, b * (turn / abs(turn) if turn else 1.0))
