"""Defocus, astigmatism and the turn of the scan at once, from how the images of the bright-field pixels differ.

Each detector pixel sees the sample along its own direction, so out of focus its image is displaced: by the gradient of the
aberration function there (the parallax). Which frequencies a pixel sees, and with which sign, is told by where the apertures
of the direct and the diffracted beams overlap. Both are in the first-order image of a phase object (Rodenburg, McCallum,
Nellist, Ultramicroscopy 48 (1993) 304)

    F_f(q) = i phi(q) K_f(q),   K_f(q) = P*(f) P(f - q) - P(f) P*(f + q),   P = A exp(-i chi)

with the image F_f of the pixel at f and the phase phi of the sample. For given aberrations and a given turn the phase follows
by least squares, one frequency q after the other; what it explains is largest for the right ones.

A scan turned by half a turn with the other sign of chi gives the same images of a phase of the other sign, exactly: this is the
twin of ptychography. Angles are therefore sought within half a turn; the sign is decided by :func:`brightness` or by who knows
the defocus.

Legend: Q frequencies of the scan, A groups of detector pixels, n positions. Lengths along the beam are in px**2: wavelength *
length / object pixel**2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.calibration.deflection import turn_matrix
from ptycho_ray.calibration.scan_spectra import ScanSpectra

#: Defocus is sought up to where the beam is so many times as wide as the window of the patterns is.
WIDEST = 0.6
#: The search looks at so many of the frequencies, the strongest below this share of the highest, and follows so many places.
SEARCHED, MOST_SEARCHED, FOLLOWED = 0.5, 100, 4
#: Standard errors that decide.
DECIDES = 3.0
#: As many between lenses of one handedness, the best of a few thousand: among patterns in random order they reach 4. Both must
#: be reached, since what tells a lens tells the handedness, too.
DECIDES_LENS = 4.0
#: Share of the largest transfer below which phases are damped; blocks of the scan along either axis.
DAMPING, BLOCKS = 0.1, 4


@dataclass(frozen=True)
class Lens:
    """Turn of the scan and the aberrations of second order.

    Attributes:
        mirrored: see :func:`.deflection.turn_matrix`.
        numbers: the angle in radian, and C10 (overfocus above zero), C12 cos 2 phi12, C12 sin 2 phi12 in px**2.
    """

    mirrored: bool
    numbers: tuple[float, float, float, float]

    @property
    def angle_rad(self) -> float:
        return self.numbers[0]

    @property
    def c10_px2(self) -> float:
        return self.numbers[1]

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The map [2, 2] of stored positions, as columns (row, column), to the axes of the detector."""
        return turn_matrix(self.angle_rad, self.mirrored)

    @property
    def twin(self) -> Lens:
        """The scan turned by half a turn and the other sign of the aberrations, which give the same patterns."""
        half = self.angle_rad - np.pi if self.angle_rad > 0 else self.angle_rad + np.pi
        return Lens(self.mirrored, (half, -self.numbers[1], -self.numbers[2], -self.numbers[3]))

    def moved(self, by: NDArray[np.float64]) -> Lens:
        """The lens with its numbers changed."""
        angle, focus, cos, sin = (np.array(self.numbers) + by).tolist()
        return Lens(self.mirrored, (angle, focus, cos, sin))

    def shifts_px(self, angles: NDArray[np.float64]) -> NDArray[np.float64]:
        """By how much the image of a detector pixel at spatial frequency ``angles`` [A, 2] is displaced in the positions as
        they are stored, (row, column) [A, 2]: what the mean image shows at x shows in it at x + shift."""
        focus, cos, sin = self.numbers[1:]
        curvature = np.array([[focus - cos, sin], [sin, focus + cos]])
        displaced: NDArray[np.float64] = -(angles @ curvature) @ np.linalg.inv(self.matrix).T
        return displaced


@dataclass(frozen=True)
class Parallax:
    """The lens that explains the images best, of the two twins the one turned by less than a quarter turn.

    Attributes:
        lens: the best one, of the handedness that explains more; of that of the positions where this is not significant.
        errors: standard errors of its angle (radian), C10, C12 cos, C12 sin (px**2), by how much the frequencies agree.
        mirror_significance: standard errors by which the handedness of ``lens`` explains more than the other.
        rival: the best lens of the same handedness elsewhere.
        significance: standard errors by which it explains less.
    """

    lens: Lens
    errors: NDArray[np.float64]
    mirror_significance: float
    rival: Lens
    significance: float

    @property
    def decided(self) -> bool:
        """Whether no other defocus or turn, and no other handedness, explains about as much."""
        significant = self.significance > DECIDES_LENS and self.mirror_significance > DECIDES
        return significant and bool(np.isfinite(self.errors).all())


class FirstOrder:
    """How much the first-order image of a phase object explains of the spectra under a lens.

    Args:
        most: frequencies that are looked at, the strongest of those below ``SEARCHED``; all if None.
    """

    def __init__(self, spectra: ScanSpectra, most: int | None = None) -> None:
        radius = np.linalg.norm(spectra.frequencies, axis=1)
        chosen = np.arange(len(radius))
        if most is not None:
            chosen = np.flatnonzero(radius <= SEARCHED * radius.max())
            power = np.sum(np.abs(spectra.images[:, chosen]) ** 2, axis=0)
            chosen = chosen[np.argsort(-power, kind="stable")[:most]]
        self.q, self.f = spectra.frequencies[chosen], spectra.angles
        self.q_max = float(radius[chosen].max())
        self.images, self.radius = spectra.images[:, chosen].astype(np.complex64), spectra.aperture
        self.edge = np.sqrt(np.pi * spectra.aperture**2 / len(spectra.angles))
        self._turned: tuple[bytes, tuple[NDArray, ...]] | None = None

    def explained(self, lens: Lens) -> NDArray[np.float64]:
        """The power [Q] of the images that one phase for each frequency explains."""
        overlap, size = self._overlap(lens)
        return (overlap.real**2 + overlap.imag**2) / np.maximum(size, 1e-3 * len(self.f))

    def phase(self, lens: Lens) -> NDArray[np.complex128]:
        """The phase of the sample at the frequencies, by least squares, damped where the images hardly show it, complex [Q]."""
        overlap, size = self._overlap(lens)
        return -1j * overlap / (size + DAMPING * size.max())

    def scales(self, lens: Lens) -> NDArray[np.float64]:
        """By how much each number [4] of a lens changes the phases of the images by about one radian at the rim."""
        focus = 1 / (2 * np.pi * self.radius * self.q_max)
        turn = min(focus / max(abs(lens.c10_px2), 1e-9), 0.1)
        return np.array([turn, focus, focus, focus])

    def _overlap(self, lens: Lens) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
        minus, plus, of_minus, of_plus = self._geometry(lens.matrix)
        coefficients = (np.pi * np.array(lens.numbers[1:])).astype(np.float32)
        one, other = of_minus @ coefficients, of_plus @ coefficients
        real, imaginary = minus * np.cos(one) - plus * np.cos(other), minus * np.sin(one) + plus * np.sin(other)
        overlap = np.sum((real - 1j * imaginary) * self.images, axis=0)
        return overlap, np.sum(real**2 + imaginary**2, axis=0)

    def _geometry(self, matrix: NDArray[np.float64]) -> tuple[NDArray, ...]:
        """Apertures at f - q and f + q [A, Q], and differences of the three aberrations of second order to them [A, Q, 3]; the
        last ones are kept."""
        if self._turned is None or self._turned[0] != matrix.tobytes():
            q = self.q @ np.linalg.inv(matrix)
            places = self.f[:, None] - q, self.f[:, None] + q
            here = _second_order(self.f)[:, None]
            edges = (  # the share of a group whose beams lie in the aperture
                np.clip((self.radius - np.hypot(*np.moveaxis(at, -1, 0))) / self.edge + 0.5, 0, 1) for at in places
            )
            made = (*edges, *(here - _second_order(at) for at in places))
            self._turned = matrix.tobytes(), tuple(each.astype(np.float32) for each in made)
        return self._turned[1]


def _second_order(f: NDArray[np.float64]) -> NDArray[np.float64]:
    """The aberrations C10, C12 cos and C12 sin at frequencies [..., 2], without pi, [..., 3]."""
    row, column = f[..., 0], f[..., 1]
    return np.stack([row**2 + column**2, column**2 - row**2, 2 * row * column], axis=-1)


def parallax(spectra: ScanSpectra, window_px: int) -> Parallax:
    """The lens that explains the images of the bright-field pixels best; ``window_px`` is the side of the patterns."""
    full, coarse = FirstOrder(spectra), FirstOrder(spectra, MOST_SEARCHED)
    stored, mirrored = (_tops(full, coarse, handedness, window_px) for handedness in (False, True))
    power = [full.explained(tops[0]) for tops in (stored, mirrored)]
    gain = _significance(power[1], power[0])
    tops, other = (mirrored, stored) if gain > DECIDES else (stored, mirrored)
    lens, rival = tops[0], tops[1]
    explained = full.explained(lens)
    mirror = _significance(explained, full.explained(other[0]))
    significance = _significance(explained, full.explained(rival))
    if abs(lens.angle_rad) > np.pi / 2:
        lens = lens.twin
    return Parallax(lens, standard_errors(full, lens), mirror, rival, significance)


def _tops(full: FirstOrder, coarse: FirstOrder, mirrored: bool, window_px: int) -> tuple[Lens, Lens]:
    """The lens that explains most, and the best one elsewhere."""
    most = WIDEST * window_px / (2 * coarse.radius)
    step = 1 / (4 * coarse.radius * coarse.q_max)
    turn = np.arctan(1 / (2 * coarse.q_max * WIDEST * window_px))
    count, turns = int(np.ceil(most / step)), int(np.ceil(np.pi / turn))
    places = [
        Lens(mirrored, (np.pi * (i / turns - 0.5), j * step, 0.0, 0.0))
        for i in range(turns)
        for j in range(-count, count + 1)
    ]
    value = np.array([coarse.explained(place).sum() for place in places])
    tops: list[Lens] = []
    for k in np.argsort(-value, kind="stable"):
        if all(_apart(places[k], top, coarse) for top in tops):
            tops.append(places[k])
        if len(tops) == FOLLOWED:
            break

    def power(lens: Lens) -> float:
        return float(full.explained(lens).sum())

    best, *others = sorted((climb(coarse, top) for top in tops), key=power, reverse=True)
    best, second = (climb(full, each) for each in (best, others[0]))
    if power(second) > power(best):
        best, second = second, best
    return best, max((each for each in (second, *others, *tops) if _apart(each, best, full)), key=power)


def _apart(one: Lens, other: Lens, order: FirstOrder) -> bool:
    """Whether two lenses, or one and the twin of the other, are more than small changes of each other."""
    limits = 3 * order.scales(other)[:2]
    for each in (one, one.twin):
        turn = (each.angle_rad - other.angle_rad + np.pi) % (2 * np.pi) - np.pi
        if abs(turn) < limits[0] and abs(each.c10_px2 - other.c10_px2) < limits[1]:
            return False
    return True


def climb(order: FirstOrder, start: Lens) -> Lens:
    """The lens at the top of what is explained."""
    scales = order.scales(start)
    size = max(float(order.explained(start).sum()), 1e-300)

    def lost(u: NDArray[np.float64]) -> float:
        return -float(order.explained(start.moved(scales * u)).sum()) / size

    from scipy.optimize import minimize

    found = minimize(lost, np.zeros(4), method="BFGS", options={"gtol": 1e-3, "eps": 1e-2, "maxiter": 30})
    return start.moved(scales * found.x)


def standard_errors(order: FirstOrder, lens: Lens) -> NDArray[np.float64]:
    """Standard errors [4] of the numbers, from how much single frequencies pull to either side (the sandwich estimator), which
    needs neither the photons nor that the first-order image is all there is; infinite where there is no top."""
    h = 0.2 * order.scales(lens)
    unit = np.diag(h)

    def at(by: NDArray[np.float64]) -> NDArray[np.float64]:
        return order.explained(lens.moved(by))

    sides = [(at(move), at(-move)) for move in unit]
    slopes = np.stack([(up - down) / 2 for up, down in sides])
    curvature = np.diag([-np.sum(up + down - 2 * at(0 * h)) for up, down in sides])
    for k in range(len(h)):
        for m in range(k):
            both, opposite = unit[k] + unit[m], unit[k] - unit[m]
            mixed = -np.sum(at(both) - at(opposite) - at(-opposite) + at(-both)) / 4
            curvature[k, m] = curvature[m, k] = mixed
    if np.linalg.eigvalsh(curvature)[0] <= 0:
        return np.full(len(h), np.inf)
    inverse = np.linalg.inv(curvature)
    return np.asarray(h * np.sqrt(np.diag(inverse @ (slopes @ slopes.T) @ inverse)))


def _significance(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Standard errors by which more is explained, by how much the frequencies agree about it."""
    difference = ours - theirs
    return float(difference.sum() / max(np.sqrt(np.sum(difference**2)), 1e-300))


def brightness(spectra: ScanSpectra, lens: Lens) -> tuple[float, float]:
    """Skewness of the phase of the sample at the positions, and its standard error over blocks of the scan.

    Atoms delay the wave, and are few and strong: the skewness of the phase is above zero under the right one of two twins.
    """
    order = FirstOrder(spectra)
    phase = order.phase(lens)
    at = spectra.positions_px
    values = np.real(np.exp(2j * np.pi * at @ spectra.frequencies.T) @ phase)
    along = [np.argsort(np.argsort(column, kind="stable")) * BLOCKS // len(at) for column in at.T]
    block = along[0] * BLOCKS + along[1]
    skew = _skewness(values)
    left_out = np.array([_skewness(values[block != k]) for k in np.unique(block)])
    count = len(left_out)
    return skew, float(np.sqrt((count - 1) / count * np.sum((left_out - left_out.mean()) ** 2)))


def _skewness(values: NDArray[np.float64]) -> float:
    away = values - values.mean()
    return float(np.mean(away**3) / np.mean(away**2) ** 1.5)
