"""The bright-field disc of a microscope's mean pattern: its centre, and its radius, by which the semi-angle tells the angle of
a detector pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.marks import dead_pixels
from ptycho_ray.data.mended import invalid_in
from ptycho_ray.data.patterns import PatternStack, evenly_spread

SMALLEST_PX = 1.5
#: A mean pattern whose bright pixels are known as well as by this many counts is smooth enough, or one of as many frames as
#: these bytes hold.
ENOUGH_COUNTS, MOST_BYTES, AT_ONCE = 100.0, 256 * 2**20, 64
#: The disc is that of a beam only if it is so much brighter than what surrounds it, if it explains so many times more of the
#: light's variation than as many free numbers explain of noise (the F ratio), and if its radius is known to this part.
CONTRAST, MEANINGFUL, WELL_KNOWN = 1.5, 10.0, 0.1
#: In frames smaller than this nothing tells a disc from anything else.
SMALLEST_SIDE = 16
STIFF = 0.02
"""How little the light within and around a disc varies across it, as a part of the weight of the measurement, so that a slope
is not taken for a soft edge."""
WIDEST_EDGE = 0.35
"""An edge wider than this part of the radius is none."""


@dataclass(frozen=True)
class Disc:
    """Centre (row, column) and radius of the disc in detector pixels, where its edge has fallen to half, the width of the edge
    (standard deviation of its blur) and the standard error of the radius."""

    centre_px: tuple[float, float]
    radius_px: float
    edge_px: float
    radius_error_px: float


class Frames(Protocol):
    """What frames [n, H, W] are asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self, rows: NDArray[np.int64]) -> NDArray: ...


class Intensities:
    """Those of the patterns of a scan."""

    def __init__(self, patterns: PatternStack) -> None:
        self.shape, self.read = patterns.shape, patterns.intensity


def disc_of_patterns(patterns: PatternStack) -> Disc | None:
    """The disc of the patterns of a scan, as many of them as their counts need; None where there is none."""
    return bright_field_disc(*mean_pattern(Intensities(patterns), patterns.bad_pixels))


def mean_pattern(
    source: Frames, bad: NDArray[np.bool_] | None = None, *, amplitude: bool = False
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean intensity [H, W] of frames spread over a scan, and the pixels without a measurement: of as many frames as a smooth
    disc needs, few of a bright beam, thousands of a dose below a count a pixel."""
    n, height, width = source.shape
    most = max(AT_ONCE, MOST_BYTES // (8 * height * width))
    rows = evenly_spread(n, most)
    rows = rows[
        np.argsort(np.arange(len(rows)) % max(1, len(rows) // AT_ONCE), kind="stable")
    ]  # each part spans the scan
    total, squares, count = np.zeros((height, width)), np.zeros((height, width)), 0
    invalid = np.zeros((height, width), dtype=bool) if bad is None else bad.copy()
    for start in range(0, len(rows), AT_ONCE):
        frames = source.read(np.sort(rows[start : start + AT_ONCE]))
        wrong = invalid_in(frames)
        invalid |= wrong.any(axis=0)
        values = np.clip(np.where(wrong, 0, frames).astype(np.float64), 0, None)
        values = values**2 if amplitude else values
        total += values.sum(axis=0)
        squares += np.sum(values**2, axis=0)
        count += len(frames)
        bright = ~invalid & (total > 0) & (total >= 0.5 * np.quantile(total, 0.99))
        noise = squares[bright] - total[bright] ** 2 / count  # count times the variance of a frame
        if bright.any() and np.median(total[bright] ** 2 / np.maximum(noise, 1e-30)) > ENOUGH_COUNTS:
            break
    invalid |= dead_pixels(np.where(invalid, 0, total)[None])
    return total / max(count, 1), invalid


def bright_field_disc(mean: NDArray[np.float64], bad: NDArray[np.bool_] | None = None) -> Disc | None:
    """The disc of a mean pattern [H, W]; None where there is none.

    A first guess is the connected area above half of the typical brightness; then a blurred edge about a circle, with light
    that varies slowly within and around it, is fitted by least squares, so that neither scattered light nor dark or saturated
    parts within the disc (``bad``, or fewer than half of its pixels) move it.
    """
    if min(mean.shape) < SMALLEST_SIDE:
        return None
    good = np.ones(mean.shape, dtype=bool) if bad is None else ~bad
    if mean[good].any():  # gaps that nobody marked
        good = good & ~dead_pixels(
            np.where(good, mean, 0.0)[None], expected=0.25 * float(np.quantile(mean[good], 0.98))
        )
    guess = _guess(mean, good)
    if guess is None:
        return None
    found = _fitted(mean, good, guess)
    if found is None or not SMALLEST_PX < found.radius_px < max(mean.shape) / 2:
        return None
    return found


def _smoothed(mean: NDArray[np.float64], good: NDArray[np.bool_], sigma: float) -> NDArray[np.float64]:
    """A mean pattern smoothed over its good pixels; zero far from any."""
    from scipy.ndimage import gaussian_filter

    weight = gaussian_filter(good.astype(np.float64), sigma)
    return np.where(weight > 0.05, gaussian_filter(np.where(good, mean, 0.0), sigma) / np.maximum(weight, 0.05), 0.0)


def _guess(mean: NDArray[np.float64], good: NDArray[np.bool_]) -> tuple[float, float, float] | None:
    """Row, column and radius of the largest bright area, its holes filled."""
    from scipy.ndimage import binary_closing, binary_fill_holes, center_of_mass, label

    smooth = _smoothed(mean, good, 1.0)
    bright = np.sort(smooth, axis=None)
    if not bright.any():
        return None
    # the pixels that hold the upper half of the light
    above = bright[np.searchsorted(np.cumsum(bright), bright.sum() / 2) :]
    closed = binary_closing(np.pad(smooth > np.median(above) / 2, 4), iterations=3)[4:-4, 4:-4]
    areas, n = label(closed)
    if n == 0:
        return None
    largest = binary_fill_holes(areas == 1 + int(np.argmax(np.bincount(areas.ravel())[1:])))
    row, column = center_of_mass(largest)
    radius = float(np.sqrt(largest.sum() / np.pi))
    return (float(row), float(column), radius) if radius > 1 else None


def _fitted(mean: NDArray[np.float64], good: NDArray[np.bool_], guess: tuple[float, float, float]) -> Disc | None:
    """The circle whose blurred edge explains the light between half and 1.7 radii best; None where that is no edge."""
    from scipy.optimize import least_squares
    from scipy.special import erf

    smooth = _smoothed(mean, good, 2.0)
    grid = np.indices(mean.shape)
    rows, columns = grid[0], grid[1]
    place = np.array([*guess, 1.0])
    basis = np.empty(0)
    for _ in range(2):  # the ring of the second fit is that of the first radius
        start = place
        away = np.hypot(rows - start[0], columns - start[1])
        ring = good & (away > 0.5 * start[2] - 1) & (away < 1.7 * start[2] + 2)
        if ring.sum() < 20:
            return None
        y, x, light = rows[ring], columns[ring], mean[ring]
        # as of counts, of those around a pixel: its own would favour pixels that happen to be dark
        weight = 1 / np.sqrt(smooth[ring] + 0.1 * light.mean())

        def parts(p: NDArray, y: NDArray = y, x: NDArray = x) -> NDArray[np.float64]:
            dy, dx = (y - p[0]) / p[2], (x - p[1]) / p[2]
            out = np.hypot(dy, dx) - 1
            inside = 0.5 - 0.5 * erf(out * p[2] / (np.sqrt(2) * np.hypot(p[3], 0.3)))
            return np.stack([inside, inside * out, inside * dy, inside * dx, 1 - inside, (1 - inside) * out], axis=1)

        def levels(p: NDArray, light: NDArray = light, weight: NDArray = weight) -> tuple[NDArray, NDArray]:
            weighted = parts(p) * weight[:, None]
            normal = weighted.T @ weighted
            steep = STIFF * np.array([0.0, 1, 1, 1, 0, 1]) * normal[[0, 0, 0, 0, 4, 4], [0, 0, 0, 0, 4, 4]]
            found = np.linalg.lstsq(normal + np.diag(steep), weighted.T @ (light * weight), rcond=None)[0]
            return found, np.concatenate([weighted @ found - light * weight, np.sqrt(steep) * found])

        def misfit(p: NDArray) -> NDArray[np.float64]:
            return levels(p)[1]

        reach = np.array([start[2] / 2, start[2] / 2, start[2] / 2, 1.0])
        low, high = start - reach, start + reach
        low[3], high[3] = 0.0, max(2.0, start[2])
        found = least_squares(
            misfit, np.clip(start, low, high), bounds=(low, high), x_scale=[1, 1, 1, 1], diff_step=1e-3
        )
        place = found.x
        basis = levels(place)[0]
    inside, outside = float(basis[0]), float(basis[4])
    if inside <= 0 or inside < CONTRAST * outside or place[3] > max(1.5, WIDEST_EDGE * place[2]):
        return None
    curvature = np.linalg.pinv(found.jac.T @ found.jac)
    free, left = len(place) + len(basis), 2 * found.cost
    noise = left / max(1, len(found.fun) - free)
    flat = float(np.sum((weight * (light - np.average(light, weights=weight**2))) ** 2))
    error = float(np.sqrt(max(0.0, curvature[2, 2]) * noise))
    if flat - left < MEANINGFUL * free * noise or error > WELL_KNOWN * place[2]:
        return None
    return Disc((float(place[0]), float(place[1])), float(place[2]), float(place[3]), error)
