"""Defocus, astigmatism and the turn of the scan at once, from how the images of the bright-field pixels differ.

Each detector pixel sees the sample along its own direction, so out of focus its image is displaced: by the gradient of the
aberration function there (the parallax). Which frequencies a pixel sees, and with which sign, is told by where the apertures
of the direct and the diffracted beams overlap. Both are in the first-order image of a phase object (Rodenburg, McCallum, Nellist,
Ultramicroscopy 48 (1993) 304)

    F_f(q) = i phi(q) K_f(q),   K_f(q) = P*(f) P(f - q) - P(f) P*(f + q),   P = A exp(-i chi)

with the image F_f of the pixel at f and the phase phi of the sample. For given aberrations and a given turn the phase follows by
least squares, one frequency q after the other; what it explains is largest for the right ones.

A scan turned by half a turn with the other sign of chi gives the same images of a phase of the other sign, exactly: this is the twin
of ptychography. Angles are therefore sought within half a turn, and the sign is decided elsewhere.

Legend: Q frequencies of the scan, A groups of detector pixels, n positions. Lengths along the beam are in px**2: wavelength *
length / object pixel**2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from ptycho_ray.calibration.deflection import turn_matrix
from ptycho_ray.calibration.scan_spectra import ScanSpectra

#: Defocus is sought up to where the beam is so many times as wide as the window of the patterns is.
WIDEST = 0.6
#: So many of the best places of the search are followed to their top.
FOLLOWED = 6
#: Share of the highest frequency that the search looks at: its steps are twice as wide as those of all would be.
SEARCHED = 0.5


@dataclass(frozen=True)
class Lens:
    """Turn of the scan and the aberrations of second order.

    Attributes:
        angle_rad, mirrored: see :func:`.deflection.turn_matrix`.
        c10_px2, c12a_px2, c12b_px2: C10 (overfocus above zero), C12 cos 2 phi12, C12 sin 2 phi12.
    """

    angle_rad: float
    mirrored: bool
    c10_px2: float
    c12a_px2: float = 0.0
    c12b_px2: float = 0.0

    @property
    def matrix(self) -> NDArray[np.float64]:
        return turn_matrix(self.angle_rad, self.mirrored)

    @property
    def twin(self) -> Lens:
        """The scan turned by half a turn and the other sign of the aberrations, which give the same patterns."""
        half = self.angle_rad - np.pi if self.angle_rad > 0 else self.angle_rad + np.pi
        return Lens(half, self.mirrored, -self.c10_px2, -self.c12a_px2, -self.c12b_px2)

    def numbers(self) -> NDArray[np.float64]:
        return np.array([self.angle_rad, self.c10_px2, self.c12a_px2, self.c12b_px2])

    def with_numbers(self, numbers: NDArray[np.float64]) -> Lens:
        return Lens(float(numbers[0]), self.mirrored, *(float(value) for value in numbers[1:]))

    def shifts_px(self, angles: NDArray[np.float64]) -> NDArray[np.float64]:
        """By how much the image of a detector pixel at spatial frequency ``angles`` [A, 2] is displaced in the positions as they
        are stored, (row, column) [A, 2]: an object point at x shows in it at x + shift."""
        plus = np.array([[self.c10_px2 - self.c12a_px2, self.c12b_px2], [self.c12b_px2, self.c10_px2 + self.c12a_px2]])
        displaced: NDArray[np.float64] = -(angles @ plus) @ np.linalg.inv(self.matrix).T
        return displaced


@dataclass(frozen=True)
class Parallax:
    """The lens that explains the images best, of the two twins the one turned by less than a quarter turn.

    Attributes:
        lens: the best one.
        errors: standard errors of angle (radian), C10, C12 cos, C12 sin (px**2), by how much the frequencies agree.
        mirror_significance: standard errors by which the other handedness explains less.
        rival: the best lens of the same handedness elsewhere; None if there is none.
        significance: standard errors by which it explains less.
        times_noise: power that is explained, in units of what noise alone would have there; where counts are photons.
    """

    lens: Lens
    errors: NDArray[np.float64]
    mirror_significance: float
    rival: Lens | None
    significance: float
    times_noise: float


class FirstOrder:
    """How much the first-order image of a phase object explains of the spectra under a lens."""

    def __init__(self, spectra: ScanSpectra, highest: float = 1.0) -> None:
        radius = np.linalg.norm(spectra.frequencies, axis=1)
        self.chosen = radius <= highest * radius.max()
        self.q, self.f = spectra.frequencies[self.chosen], spectra.angles
        self.images, self.radius = spectra.images[:, self.chosen], spectra.aperture
        self.edge = np.sqrt(np.pi * spectra.aperture**2 / len(spectra.angles))
        self._turned: tuple[tuple[float, bool], tuple[NDArray, ...]] | None = None

    def explained(self, lens: Lens) -> NDArray[np.float64]:
        """The power [Q] of the images that one phase for each frequency explains."""
        kernel = self.kernel(lens)
        overlap = np.einsum("aq,aq->q", kernel.conj(), self.images)
        size = np.sum(kernel.real**2 + kernel.imag**2, axis=0)
        return (overlap.real**2 + overlap.imag**2) / np.maximum(size, 1e-3 * len(self.f))

    def phase(self, lens: Lens) -> NDArray[np.complex128]:
        """The phase of the sample at the frequencies, by least squares, damped where the images hardly show it, complex [Q]."""
        kernel = self.kernel(lens)
        overlap = np.einsum("aq,aq->q", kernel.conj(), self.images)
        size = np.sum(kernel.real**2 + kernel.imag**2, axis=0)
        return -1j * overlap / np.sqrt(np.maximum(size, 1e-3 * len(self.f)) * size.max())

    def kernel(self, lens: Lens) -> NDArray[np.complex128]:
        """K at the groups and frequencies, complex [A, Q]."""
        minus, plus, of_minus, of_plus = self._geometry(lens.angle_rad, lens.mirrored)
        coefficients = np.pi * lens.numbers()[1:]
        made: NDArray[np.complex128] = minus * np.exp(1j * (of_minus @ coefficients))
        made -= plus * np.exp(-1j * (of_plus @ coefficients))
        return made

    def _geometry(self, angle: float, mirrored: bool) -> tuple[NDArray, ...]:
        """Apertures at f - q and f + q [A, Q], and differences of the three aberrations of second order to them [A, Q, 3]."""
        if self._turned is None or self._turned[0] != (angle, mirrored):
            q = self.q @ np.linalg.inv(turn_matrix(angle, mirrored))
            places = self.f[:, None] - q, self.f[:, None] + q
            here = _second_order(self.f)[:, None]
            edges = (np.clip((self.radius - np.linalg.norm(at, axis=-1)) / self.edge + 0.5, 0, 1) for at in places)
            self._turned = (angle, mirrored), (*map(np.sqrt, edges), *(here - _second_order(at) for at in places))
        return self._turned[1]


def _second_order(f: NDArray[np.float64]) -> NDArray[np.float64]:
    """The aberrations C10, C12 cos and C12 sin at frequencies [..., 2], without pi, [..., 3]."""
    row, column = f[..., 0], f[..., 1]
    return np.stack([row**2 + column**2, column**2 - row**2, 2 * row * column], axis=-1)


def parallax(spectra: ScanSpectra, window_px: int) -> Parallax:
    """The lens that explains the images of the bright-field pixels best; ``window_px`` is the side of the patterns."""
    full = FirstOrder(spectra)
    tops = [_tops(spectra, full, mirrored, window_px) for mirrored in (False, True)]
    best, other = sorted(tops, key=lambda found: -float(full.explained(found[0]).sum()))
    lens = best[0]
    errors = _errors(full, lens, spectra)
    explained = full.explained(lens)
    mirror = _significance(explained, full.explained(other[0]))
    apart = np.maximum(5 * errors, 0.5 * _scales(spectra, lens))
    others = [each for each in best[1:] if (np.abs(_differences(each, lens))[:2] > apart[:2]).any()]
    rival = others[0] if others else None
    significance = np.inf if rival is None else _significance(explained, full.explained(rival))
    if abs(lens.angle_rad) > np.pi / 2:
        lens = lens.twin
    return Parallax(lens, errors, mirror, rival, significance, float(explained.mean()))


def _tops(spectra: ScanSpectra, full: FirstOrder, mirrored: bool, window_px: int) -> list[Lens]:
    """Local maxima of what is explained, the highest first."""
    coarse = FirstOrder(spectra, SEARCHED)
    q_max = np.linalg.norm(coarse.q, axis=1).max()
    most = WIDEST * window_px / (2 * spectra.aperture)
    step = 1 / (4 * spectra.aperture * q_max)
    count = int(np.ceil(most / step))
    turns = int(np.ceil(np.pi / np.arctan(1 / (4 * q_max * WIDEST / 2 * window_px))))
    angles = np.pi * (np.arange(turns) / turns - 0.5)
    focus = step * np.arange(-count, count + 1)
    value = np.array([[coarse.explained(Lens(t, mirrored, z)).sum() for z in focus] for t in angles])
    around = np.concatenate([value[-1:, ::-1], value, value[:1, ::-1]])  # half a turn on, it is the twin
    around = np.pad(around, ((0, 0), (1, 1)), constant_values=-np.inf)
    neighbours = [
        around[1 + i : 1 + i + len(angles), 1 + j : 1 + j + len(focus)]
        for i in (-1, 0, 1)
        for j in (-1, 0, 1)
        if (i, j) != (0, 0)
    ]
    peaks = np.argwhere(value >= np.max(neighbours, axis=0))
    peaks = peaks[np.argsort(-value[tuple(peaks.T)], kind="stable")][:FOLLOWED]
    starts = [Lens(float(angles[i]), mirrored, float(focus[j])) for i, j in peaks]
    climbed = [_climb(full, _climb(coarse, start, spectra), spectra) for start in starts]
    return sorted(climbed, key=lambda each: -float(full.explained(each).sum()))


def _scales(spectra: ScanSpectra, lens: Lens) -> NDArray[np.float64]:
    """By how much angle and aberrations change the phase of the images by about one radian at the rim."""
    q_max = np.linalg.norm(spectra.frequencies, axis=1).max()
    focus = 1 / (2 * np.pi * spectra.aperture * q_max)
    return np.array([min(focus / max(abs(lens.c10_px2), 1e-9), 0.1), focus, focus, focus])


def _climb(order: FirstOrder, start: Lens, spectra: ScanSpectra) -> Lens:
    scales, begin = _scales(spectra, start), start.numbers()
    size = max(float(order.explained(start).sum()), 1e-300)

    def lost(u: NDArray[np.float64]) -> float:
        return -float(order.explained(start.with_numbers(begin + scales * u)).sum()) / size

    found = minimize(lost, np.zeros(4), method="BFGS", options={"gtol": 1e-4, "eps": 1e-3, "maxiter": 40})
    return start.with_numbers(begin + scales * found.x)


def _errors(order: FirstOrder, lens: Lens, spectra: ScanSpectra) -> NDArray[np.float64]:
    """Standard errors [4] from how much single frequencies pull to either side (the sandwich estimator), which needs neither the
    photons nor that the first-order image is all there is."""
    h, here = 0.1 * _scales(spectra, lens), lens.numbers()

    def at(*moves: tuple[int, float]) -> NDArray[np.float64]:
        numbers = here.copy()
        for k, by in moves:
            numbers[k] += by * h[k]
        return order.explained(lens.with_numbers(numbers))

    middle = at()
    sides = [(at((k, 1)), at((k, -1))) for k in range(4)]
    slopes = np.stack([(up - down) / 2 for up, down in sides])
    curvature = np.empty((4, 4))
    for k in range(4):
        curvature[k, k] = np.sum(2 * middle - sides[k][0] - sides[k][1])
        for m in range(k):
            mixed = at((k, 1), (m, 1)) - at((k, 1), (m, -1)) - at((k, -1), (m, 1)) + at((k, -1), (m, -1))
            curvature[k, m] = curvature[m, k] = -np.sum(mixed) / 4
    inverse = np.linalg.pinv(curvature)
    covariance = inverse @ (slopes @ slopes.T) @ inverse
    return np.asarray(h * np.sqrt(np.maximum(np.diag(covariance), 0)))


def _significance(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Standard errors by which more is explained, by how much the frequencies agree about it."""
    difference = ours - theirs
    return float(difference.sum() / max(np.sqrt(np.sum(difference**2)), 1e-300))


def _differences(one: Lens, other: Lens) -> NDArray[np.float64]:
    """Differences of the numbers of two lenses, of the nearer twin."""
    made = [candidate.numbers() - other.numbers() for candidate in (one, one.twin)]
    for each in made:
        each[0] = (each[0] + np.pi) % (2 * np.pi) - np.pi
    return min(made, key=lambda each: abs(float(each[0])))
