"""Whether frames have their rows and columns exchanged against the scan, from the deflection of the beam.

The light of a frame is deflected by the slope of the sample's phase. Slopes are a gradient, which has no curl: measured with
exchanged axes they have one. Flips change signs that this does not see; 'ptycho-ray orient' decides among all eight.
It is asked of every file, with positions of any kind; ``calibration/deflection.py`` finds any angle, of electrons.

Legend: n frames, H and W the detector's rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho_ray.data.mended import clear_invalid
from ptycho_ray.data.patterns import FrameSource

MOST, MOST_BYTES = 1500, 2**29
AT_ONCE_BYTES = 8 * 2**20
NEIGHBOURS = 8
CLEARLY = 1.5
"""Ratio of the medians of the two curls, and standard errors of the sign test, that decide."""
STANDARD_ERRORS = 3.0
DECISIVELY = {"clearly": 3.0, "errors": 5.0}
"""The same where frames are turned although their format gives no reason to."""


@dataclass(frozen=True)
class Curls:
    """Curl of the deflections at n positions, with frames as stored and with exchanged axes: the ratio of the medians, and by
    how many standard errors more than half of the positions have the smaller one with the axes as stored."""

    exchanged_to_stored: float
    errors: float

    def exchanged(self, *, clearly: float = CLEARLY, errors: float = STANDARD_ERRORS) -> bool | None:
        """Whether the axes are exchanged; None if the curls do not tell."""
        if self.exchanged_to_stored > clearly and self.errors > errors:
            return False
        return True if 1 / self.exchanged_to_stored > clearly and -self.errors > errors else None


def curls_of(source: FrameSource, bad: NDArray[np.bool_] | None, positions: NDArray[np.float64]) -> Curls | None:
    """The two curls of frames [n, H, W] at positions [n, 2]; None if there are too few, or too large ones."""
    if len(positions) != source.shape[0] or len(positions) < 32 or not np.isfinite(positions).all():
        return None
    most = min(MOST, MOST_BYTES // (source.shape[1] * source.shape[2] * source.dtype.itemsize))
    if most < 32:
        return None  # too much to read for a hint
    middle = np.median(positions, axis=0)
    rows = np.sort(np.argsort(np.linalg.norm(positions - middle, axis=1), kind="stable")[:most])
    places = positions[rows] - middle
    unit = float(np.abs(places).max())
    if unit == 0:
        return None
    deflections = _deflections(source, bad, rows)
    if deflections is None:
        return None
    slopes = _slopes(places / unit, deflections)
    if slopes is None:
        return None
    slopes = slopes - np.median(slopes, axis=0)  # a beam that moves with the stage says nothing of the sample
    stored = np.abs(slopes[:, 0, 1] - slopes[:, 1, 0])
    exchanged = np.abs(slopes[:, 0, 0] - slopes[:, 1, 1])
    smaller = (float((stored < exchanged).mean()) - float((exchanged < stored).mean())) * np.sqrt(len(slopes) / 2)
    ratio = max(float(np.median(exchanged)), 1e-300) / max(float(np.median(stored)), 1e-300)
    return Curls(ratio, float(smaller))


def _deflections(source: FrameSource, bad: NDArray[np.bool_] | None, rows: NDArray[np.int64]) -> NDArray | None:
    """Centre of mass (row, column) [k, 2] of frames."""
    _, height, width = source.shape
    made = np.empty((len(rows), 2))
    step = max(1, AT_ONCE_BYTES // (4 * height * width))
    down, across = np.arange(height), np.arange(width)
    for start in range(0, len(rows), step):
        frames = source.read(rows[start : start + step])
        clear_invalid(frames)
        values = frames.astype(np.float32, copy=False)
        if bad is not None:
            values[:, bad] = 0
        if values.min() < 0:
            values = np.maximum(values, 0, out=values)
        in_rows = np.matmul(values, np.ones(width, np.float32)).astype(np.float64)
        in_columns = np.matmul(np.ones(height, np.float32), values).astype(np.float64)
        total = in_rows.sum(axis=1)
        total[total <= 0] = np.inf
        made[start : start + len(frames)] = np.stack([in_rows @ down, in_columns @ across], axis=1) / total[:, None]
    return made if np.ptp(made, axis=0).min() > 0 else None


def _slopes(places: NDArray[np.float64], deflections: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Derivatives of the deflections [m, 2, 2] at the positions, by least squares over the nearest ones."""
    others = cKDTree(places).query(places, k=NEIGHBOURS + 1)[1][:, 1:]
    steps, changes = places[others] - places[:, None], deflections[others] - deflections[:, None]
    normal = np.einsum("nka,nkb->nab", steps, steps)
    right = np.einsum("nka,nkb->nab", steps, changes)
    size = np.linalg.eigvalsh(normal)
    solvable = size[:, 0] > 1e-3 * size[:, 1]  # neighbours that do not lie on one line
    if solvable.sum() < 32:
        return None
    found: NDArray[np.float64] = np.linalg.solve(normal[solvable], right[solvable])
    return found
