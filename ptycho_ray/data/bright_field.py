"""The bright-field disc of a microscope's mean pattern: its centre, and its radius, by which the semi-angle tells the angle of
a detector pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Disc:
    """Centre (row, column) and radius of the disc in detector pixels."""

    centre_px: tuple[float, float]
    radius_px: float


def bright_field_disc(mean: NDArray[np.float64]) -> Disc | None:
    """The disc of a mean pattern [N, N]: the connected area above half of its typical brightness. None where there is none."""
    from scipy.ndimage import center_of_mass, label

    bright = np.sort(mean, axis=None)
    above = bright[
        np.searchsorted(np.cumsum(bright), bright.sum() / 2) :
    ]  # the pixels that hold the upper half of the light
    areas, n = label(mean > np.median(above) / 2)
    if n == 0:
        return None
    largest = areas == 1 + int(np.argmax(np.bincount(areas.ravel())[1:]))
    row, column = center_of_mass(largest)
    radius = float(np.sqrt(largest.sum() / np.pi))
    return Disc((float(row), float(column)), radius) if 1.5 < radius < max(mean.shape) / 2 else None
