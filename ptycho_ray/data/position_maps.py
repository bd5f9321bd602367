"""Linear maps of positions [n, 2] (row, column): scale, rotation, shear, order and signs of the axes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def position_matrix(scale: float = 1.0, rotation_rad: float = 0.0, shear: float = 0.0) -> Matrix:
    """``scale * rotation @ shear``, [2, 2], for positions as columns (row, column).

    A positive rotation turns rows towards columns; the shear adds ``shear`` times the column to the row.
    """
    cosine, sine = math.cos(rotation_rad), math.sin(rotation_rad)
    return scale * np.array([[cosine, -sine], [sine, cosine]]) @ np.array([[1.0, shear], [0.0, 1.0]])


def axes_matrix(axes: str) -> Matrix:
    """Positions as columns (row, column) with other signs and order of the axes, [2, 2]; ``axes`` as ``position_axes``."""
    signs = np.diag([-1.0 if "flip_y" in axes else 1.0, -1.0 if "flip_x" in axes else 1.0])
    return signs[::-1].copy() if "swap_xy" in axes else signs


def transformed_positions(positions: Matrix, matrix: Matrix) -> Matrix:
    """``matrix`` applied to positions [n, 2] about their mean, which stays where it is, so that transforms compose.

    Positions that are NaN stay so and do not count.
    """
    centre = np.nanmean(positions, axis=0)
    return centre + (positions - centre) @ matrix.T
