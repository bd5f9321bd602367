"""Scale and angle of a scan, decided by its patterns.

A refinement does not find them: the object follows positions that are too far apart, and shows it only where it is thick. So
longer trials are made with the scan a little larger, smaller, and turned to either side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.automatic.parabola import lowest, misfit, vertex
from ptycho_ray.automatic.trials import Assumption, Gain, Part, Trial
from ptycho_ray.data.position_maps import position_matrix

#: Step of the scale of the scan, and of its angle in radians; so many of them at the most.
STEP, MOST_STEPS = 0.03, 3
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

    def along(self, steps: NDArray[np.float64], direction: NDArray[np.float64]) -> Callable[[float], Trial]:
        """The trials along a direction from ``steps``."""
        return lambda place: self.at(steps + place * direction)


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
            found = lowest(thorough.along(steps, direction), MOST_STEPS)
            steps = steps + (found.place * direction if found.between else none)
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
    away, least = vertex(*(misfit(trials.along(steps, direction)(place)) for place in (-1.0, 0.0, 1.0)))
    figures = now.figures
    if figures is None or not figures.noise_is_known or not abs(away) < 1:
        return False
    return misfit(now) - least > PROMISING * (misfit(now) - float(figures.noise.sum()))
