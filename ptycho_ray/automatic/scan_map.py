"""Step, angle and drift of a scan, decided by its patterns.

A refinement does not find them: the object follows positions that are too far apart, and shows it only where it is thick. So
longer trials are made with the scan a little larger, smaller, turned to either side, and, of an electron microscope, stretched
and sheared: what a slow drift does to a raster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm

from ptycho_ray.automatic.parabola import lowest, misfit, vertex
from ptycho_ray.automatic.trials import Assumption, Gain, Part, Trial

#: What a step along each direction does to positions (row, column), as the logarithm of a matrix.
DIRECTIONS = {
    "scale": np.eye(2),
    "turn": np.array([[0.0, -1.0], [1.0, 0.0]]),
    "stretch": np.diag([1.0, -1.0]),
    "shear": np.array([[0.0, 1.0], [1.0, 0.0]]),
}
#: The directions of a scan of photons, whose stages have encoders.
WITHOUT_DRIFT = 2
#: Step along each direction (an angle in radians); so many of them at the most, and the share of one in the second round.
STEP, MOST_STEPS, SECOND_ROUND = 0.03, 3, 0.5
#: Share of the misfit beyond noise that a step must gain to be followed.
PROMISING = 0.06
#: By how much the lowest point of such trials differs by the chance of the solver.
CHANCE = 0.002


@dataclass(frozen=True)
class ScanMap:
    """The linear map of the positions that explains most.

    Attributes:
        values: of each direction that was asked thoroughly, the logarithm by which the scan changes and its standard error;
            the error is nan where the patterns do not tell it.
        trial: the trial with that map; None if the scan is right as it is.
        gain: of that trial.
    """

    values: dict[str, tuple[float, float]]
    trial: Trial | None = None
    gain: Gain | None = None


class Mapped:
    """Long trials on a part under one assumption, with the scan changed; none is made twice."""

    def __init__(self, part: Part, assumption: Assumption) -> None:
        self.part, self.assumption = part, assumption
        self._made: dict[tuple[float, ...], Trial] = {}

    def at(self, steps: NDArray[np.float64]) -> Trial:
        """The trial with the scan changed by so many steps along each direction."""
        key = tuple(np.round(steps, 6).tolist())
        if key not in self._made:
            parts = STEP * steps
            matrix = expm(sum(part * each for part, each in zip(parts, DIRECTIONS.values(), strict=True)))
            name = f"scan {100 * parts[0]:+.1f} % in size, turned by {np.degrees(parts[1]):+.1f} degrees"
            if parts[2:].any():
                sheared = np.degrees(2 * parts[3])
                name += f", rows {200 * parts[2]:+.1f} % longer than columns, sheared by {sheared:+.1f} degrees"
            self._made[key] = self.part.run_long(
                replace(self.assumption, name=name, matrix=matrix @ self.assumption.matrix)
            )
        return self._made[key]

    def along(self, steps: NDArray[np.float64], direction: NDArray[np.float64]) -> Callable[[float], Trial]:
        """The trials along a direction from ``steps``."""
        return lambda place: self.at(steps + place * direction)


def scan_map(part: Part, large: Part, best: Trial, *, thoroughly: bool = False) -> ScanMap:
    """The linear map by which the scan explains more.

    Args:
        thoroughly: ask every direction by trials on the large part; otherwise those alone that promise something, asked on the
            small part with the brightest mode.
    """
    whole = replace(best.assumption, probe=best.probe)
    settings = whole.settings | ({"probe_modes": 1} if whole.settings.get("probe_modes") else {})
    simple = Mapped(part, replace(whole, probe=best.probe[:1], settings=settings))
    thorough, none = Mapped(large, whole), np.zeros(len(DIRECTIONS))
    steps, errors = none, {}
    asked = list(zip(DIRECTIONS, np.eye(len(DIRECTIONS)), strict=True))
    asked = asked if part.whole.electrons else asked[:WITHOUT_DRIFT]
    for share in (1.0, SECOND_ROUND):  # what one direction changed, the others see in the second round
        for name, axis in asked:
            if not (thoroughly or name in errors or (share == 1 and _promises(simple, steps, axis))):
                continue
            found = lowest(thorough.along(steps, share * axis), MOST_STEPS)
            steps = steps + (found.place * share * axis if found.between else none)
            errors[name] = float(np.hypot(STEP * share * found.error, CHANCE)) if found.between else np.nan
    values = {name: (float(STEP * steps[axis.argmax()]), errors[name]) for name, axis in asked if name in errors}
    if not steps.any():
        return ScanMap(values)
    first, last = thorough.at(none), thorough.at(steps)
    if not last.beats(first):
        return ScanMap(values)
    return ScanMap(values, last, last.gain_over(first))


def _promises(trials: Mapped, steps: NDArray[np.float64], direction: NDArray[np.float64]) -> bool:
    """Whether a step to a side, or the lowest point of the parabola, explains clearly more."""
    now = trials.at(steps)
    for sign in (-1.0, 1.0):
        aside = trials.at(steps + sign * direction)
        if aside.beats(now, as_simple=True) and aside.gain_over(now).share > PROMISING:
            return True
    away, least = vertex(*(misfit(trials.along(steps, direction)(place)) for place in (-1.0, 0.0, 1.0)))
    figures = now.figures
    if figures is None or not figures.noise_is_known or not abs(away) < 1:
        return False
    return misfit(now) - least > PROMISING * (misfit(now) - float(figures.noise.sum()))
