"""The angle between the axes of scan and detector, and whether one is mirrored, from the deflection of the beam.

A thin sample deflects the beam by the gradient of its phase, and a gradient has no curl. Whatever the aberrations are, the
angle under which the measured deflections have least curl is right, up to half a turn: that only changes the sign of the phase.

Legend: Q frequencies of the scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.calibration.scan_spectra import ScanSpectra
from ptycho_ray.data.position_maps import position_matrix


@dataclass(frozen=True)
class Turn:
    """How the scan, as its positions are stored, lies against the detector: by :func:`turn_matrix` of angle and mirror.

    Attributes:
        angle_rad: of the positions, rows towards columns, from -90 to 90 degrees: half a turn is left open.
        error_rad: its standard error, by how much the frequencies of the scan agree about it.
        mirrored: whether the sign of the columns is changed before.
        significance: standard errors by which the other handedness has more curl.
        curl: share of the deflections that is curl, 0.5 where they mean nothing.
    """

    angle_rad: float
    error_rad: float
    mirrored: bool
    significance: float
    curl: float


def turn_matrix(angle_rad: float, mirrored: bool) -> NDArray[np.float64]:
    """Map [2, 2] of stored positions as columns (row, column): columns change their sign if mirrored, then all are turned."""
    return position_matrix(rotation_rad=angle_rad) @ np.diag([1.0, -1.0 if mirrored else 1.0])


def turn_by_curl(spectra: ScanSpectra, mirrored: bool | None = None) -> Turn:
    """The turn of the scan that leaves the deflections least curl; of a handedness that is known, or of the better one."""
    found = [_least_curl(spectra, mirrored) for mirrored in (False, True)]
    if mirrored is None:
        mirrored = bool(found[1][2].sum() < found[0][2].sum())
    best, other = found[mirrored], found[not mirrored]
    difference = other[2] - best[2]
    significance = float(difference.sum() / max(np.sqrt(np.sum(difference**2)), 1e-300))
    power = float(np.sum(np.abs(spectra.deflection) ** 2))
    return Turn(best[0], best[1], mirrored, significance, float(best[2].sum()) / max(power, 1e-300))


def _least_curl(spectra: ScanSpectra, mirrored: bool) -> tuple[float, float, NDArray[np.float64]]:
    """Angle, its standard error, and the power of the curl [Q] that is left."""
    q = spectra.frequencies @ turn_matrix(0.0, mirrored)
    down, across = (q / np.linalg.norm(q, axis=1, keepdims=True)).T
    d_row, d_column = spectra.deflection
    curl, divergence = down * d_column - across * d_row, down * d_row + across * d_column
    # Positions turned by an angle, frequencies with them: the curl becomes cos * curl - sin * divergence.
    more = np.abs(divergence) ** 2 - np.abs(curl) ** 2
    mixed = 2 * np.real(curl * np.conj(divergence))
    angle = 0.5 * np.arctan2(mixed.sum(), more.sum())
    cos, sin = np.cos(angle), np.sin(angle)
    slopes = np.sin(2 * angle) * more - np.cos(2 * angle) * mixed
    curvature = 2 * np.hypot(more.sum(), mixed.sum())
    error = float(np.sqrt(np.sum(slopes**2)) / max(curvature, 1e-300))
    return float(angle), error, np.abs(cos * curl - sin * divergence) ** 2
