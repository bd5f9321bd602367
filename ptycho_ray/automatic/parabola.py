"""The lowest point of a parabola through the misfits of trials, and the walk to where it has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ptycho_ray.automatic.trials import Trial

#: A lowest point nearer to a trial than that share of a step is that trial's.
SAME_STEP = 0.1


class Lowest(NamedTuple):
    """Where trials along a line explain most.

    Attributes:
        place: in steps from where the walk began.
        trial: the one made there.
        error: standard error of the place over the judges, in steps; nan where there is no lowest point.
        between: whether trials on both sides explain less: if not, the walk ended on its way down.
    """

    place: float
    trial: Trial
    error: float
    between: bool


def lowest(at: Callable[[float], Trial], most: int) -> Lowest:
    """Walk down by whole steps, ``most`` of them at the most, then to the lowest point of the parabola through three.

    Args:
        at: makes the trial at a place in steps; it is asked for none twice.
    """
    place, left, here, right = 0.0, at(-1.0), at(0.0), at(1.0)
    for _ in range(most):
        if misfit(here) <= min(misfit(left), misfit(right)):
            break
        if misfit(left) < misfit(right):
            place, left, here, right = place - 1, at(place - 2), left, here
        else:
            place, left, here, right = place + 1, here, right, at(place + 2)
    between = misfit(here) <= min(misfit(left), misfit(right))
    away, error = vertex_of_judges(left, here, right)
    if between and abs(away) > SAME_STEP:
        aside = at(place + away)
        if misfit(aside) < misfit(here):
            place, here = place + away, aside
    return Lowest(place, here, error, between)


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
    """The sum over the judges; infinite if the trial diverged."""
    return np.inf if trial.figures is None else float(trial.figures.misfit.sum())
