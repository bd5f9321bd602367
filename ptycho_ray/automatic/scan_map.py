"""Scale and angle of a scan, decided by its patterns.

A refinement does not find them: the object follows positions that are too far apart, and shows it only where it is thick. So
longer trials are made with the scan a little larger, smaller, and turned to either side.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.automatic.trials import Assumption, Gain, Part, Trial
from ptycho_ray.data.position_maps import position_matrix

#: Step of the scale of the scan, and of its angle in radians; so many of them at the most; the share of one that is not told.
STEP, MOST_STEPS, SAME_STEP = 0.03, 3, 0.1
#: Share of the misfit beyond noise that a step must gain to be followed.
PROMISING = 0.06


class Mapped:
    """Long trials on a part under one assumption, with the scan scaled and turned; none is made twice."""

    def __init__(self, part: Part, assumption: Assumption) -> None:
        self.part, self.assumption = part, assumption
        self._made: dict[tuple[float, ...], Trial] = {}

    def at(self, steps: NDArray[np.float64]) -> Trial:
        """The trial with the scan larger and turned by so many steps."""
        key = tuple(np.round(steps, 6).tolist())
        if key not in self._made:
            scale, angle = STEP * steps
            matrix = position_matrix(1 + scale, angle) @ self.assumption.matrix
            name = f"scan {100 * scale:+.1f} % in size, turned by {np.degrees(angle):+.1f} degrees"
            self._made[key] = self.part.run_long(replace(self.assumption, name=name, matrix=matrix))
        return self._made[key]

    def along(
        self, steps: NDArray[np.float64], direction: NDArray[np.float64], places: tuple[float, ...]
    ) -> list[float]:
        """Misfits at some places along a direction from ``steps``."""
        return [misfit(self.at(steps + place * direction)) for place in places]


def linear_map(part: Part, large: Part, best: Trial) -> tuple[Trial, Gain] | None:
    """The trial with the map by which the scan explains more, and its gain; None if the scan is right as it is.

    Whether there is one to be found is asked on the small part with the brightest mode alone.
    """
    whole = replace(best.assumption, probe=best.probe)
    settings = whole.settings | ({"probe_modes": 1} if whole.settings.get("probe_modes") else {})
    simple = Mapped(part, replace(whole, probe=best.probe[:1], settings=settings))
    thorough, none = Mapped(large, whole), np.zeros(2)
    steps = none
    for direction in np.eye(2):
        if _promises(simple, steps, direction):
            steps = steps + _lowest(thorough, steps, direction) * direction
    if not steps.any():
        return None
    first, last = thorough.at(none), thorough.at(steps)
    if not last.beats(first):
        return None
    return last, last.gain_over(first)


def _promises(trials: Mapped, steps: NDArray[np.float64], direction: NDArray[np.float64]) -> bool:
    """Whether a step to a side, or the lowest point of the parabola, explains clearly more."""
    now = trials.at(steps)
    for sign in (-1.0, 1.0):
        aside = trials.at(steps + sign * direction)
        if aside.beats(now, as_simple=True) and aside.gain_over(now).share > PROMISING:
            return True
    away, lowest = vertex(*trials.along(steps, direction, (-1.0, 0.0, 1.0)))
    figures = now.figures
    if figures is None or not figures.noise_is_known or not abs(away) < 1:
        return False
    return misfit(now) - lowest > PROMISING * (misfit(now) - float(figures.noise.sum()))


def _lowest(trials: Mapped, steps: NDArray[np.float64], direction: NDArray[np.float64]) -> float:
    """Steps along a direction that explain most; none if that lies at the end of what may be tried."""
    lowest = 0.0
    while abs(lowest) <= MOST_STEPS:
        left, here, right = trials.along(steps, direction, (lowest - 1, lowest, lowest + 1))
        if here <= min(left, right):
            aside = vertex(left, here, right)[0]
            better = abs(aside) > SAME_STEP and trials.along(steps, direction, (lowest + aside,))[0] < here
            return lowest + aside if better else lowest
        lowest += -1.0 if left < right else 1.0
    return 0.0


def vertex(left: float, here: float, right: float) -> tuple[float, float]:
    """Place and value of the lowest point of the parabola through three values a step apart; nan if it has none."""
    curvature = left - 2 * here + right
    if not curvature > 0 or not np.isfinite(curvature):
        return np.nan, np.nan
    away = (left - right) / (2 * curvature)
    return float(away), float(here - curvature * away**2 / 2)


def vertex_of_judges(left: Trial, here: Trial, right: Trial) -> tuple[float, float]:
    """Place of the lowest point of the parabola through the misfits of three trials a step apart, and its standard error, by
    leaving out one judge after the other; nan where there is none."""
    if left.figures is None or here.figures is None or right.figures is None:
        return np.nan, np.nan
    each = np.stack([trial.figures.misfit for trial in (left, here, right) if trial.figures is not None])
    place = vertex(*each.sum(axis=1).tolist())[0]
    without = np.array([vertex(*column.tolist())[0] for column in (each.sum(axis=1)[:, None] - each).T])
    count = len(without)
    return place, float(np.sqrt((count - 1) / count * np.sum((without - without.mean()) ** 2)))


def misfit(trial: Trial) -> float:
    return np.inf if trial.figures is None else float(trial.figures.misfit.sum())
