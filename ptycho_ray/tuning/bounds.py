"""Bounds of a search space at which the best trial lies: they are widened, a limited number of times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ptycho_ray.errors import ConfigurationError
from ptycho_ray.tuning.parameter import Parameter, check_value
from ptycho_ray.tuning.space import Space

#: Nearer to a bound than this share of the range, a value lies on it.
ON_BOUND = 0.03
#: How often the range of a sweep is widened, each time by its own width on that side.
MOST_WIDENINGS = 2


def on_bounds(space: Space, best: Mapping[str, Any]) -> dict[str, int]:
    """The continuous parameters whose best value lies on a bound of their range: -1 the lower, 1 the upper one."""
    shares = {p.name: p.share_of(float(best[p.name])) for p in space.parameters if p.continuous and p.name in best}
    return {name: -1 if x < ON_BOUND else 1 for name, x in shares.items() if not ON_BOUND <= x <= 1 - ON_BOUND}


def widened(space: Space, best: Mapping[str, Any]) -> Space:
    """The space with wider ranges where the best values lie on a bound; the same if there are none, or none that may be."""
    sides = on_bounds(space, best)
    return replace(
        space, parameters=tuple(_widened(p, sides[p.name]) if p.name in sides else p for p in space.parameters)
    )


def holding(space: Space, trials: Sequence[Mapping[str, Any]]) -> tuple[Space, int]:
    """The space as a sweep that is resumed had widened it, so that it holds the parameters of its trials, and how often."""
    times = 0
    while times < MOST_WIDENINGS:
        outside = {
            p.name: values[p.name]
            for p in space.parameters
            for values in trials
            if p.continuous and p.name in values and not p.holds(values[p.name])
        }
        if not outside:
            break
        space, times = widened(space, outside), times + 1
    return space, times


def _widened(parameter: Parameter, side: int) -> Parameter:
    low, high = parameter.values
    value = parameter.at_share(-1.0 if side < 0 else 2.0)
    try:
        check_value(parameter.name, value)
    except ConfigurationError:  # as a scale below zero
        return parameter
    return replace(parameter, values=(value, high) if side < 0 else (low, value))
