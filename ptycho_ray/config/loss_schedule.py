"""The terms of the training loss by name, and how their weights change over the epochs.

No torch here: the configuration checks itself with this module.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence

from ptycho_ray.config.types import did_you_mean
from ptycho_ray.errors import ConfigurationError

#: Terms that look at diffraction; 'supervised' training is without them.
DIFFRACTION_TERMS = ("nll", "gaussian_amplitude", "gaussian_intensity", "mae", "likelihood")
#: Terms that look at the true object of the scan.
LABEL_TERMS = ("object_mae", "label_amplitude", "label_phase")
#: Every term, in the order in which they are reported.
TERMS = (*DIFFRACTION_TERMS, "tv", "consistency", *LABEL_TERMS)
#: Knots (epoch, factor) of a piecewise linear curve.
Knots = tuple[tuple[float, float], ...]


def parse_schedules(lines: Sequence[str]) -> dict[str, Knots]:
    """``["tv=0:0/10:1"]``: for each term the knots of its factor, epoch:factor, linear between, constant outside.

    Raises:
        ConfigurationError: not of this form, an unknown term, a term given twice, epochs that do not increase, a
        negative factor.
    """
    schedules: dict[str, Knots] = {}
    for line in lines:
        name, _, curve = line.partition("=")
        if name not in TERMS:
            raise schedule_refusal(line, f"term=..., the term one of {', '.join(TERMS)}", did_you_mean(name, TERMS))
        if name in schedules:
            raise schedule_refusal(line, "one line for each term")
        try:
            knots = tuple((float(epoch), float(factor)) for epoch, factor in (k.split(":") for k in curve.split("/")))
        except ValueError:
            raise schedule_refusal(line, "term=epoch:factor/epoch:factor/..., as tv=0:0/10:1") from None
        epochs = [epoch for epoch, _ in knots]
        if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
            raise schedule_refusal(line, "epochs that increase from knot to knot")
        if not all(math.isfinite(epoch) and 0 <= factor < math.inf for epoch, factor in knots):
            raise schedule_refusal(line, "finite numbers, factors not below 0")
        schedules[name] = knots
    return schedules


def factor_at(knots: Knots, epoch: float) -> float:
    """The factor after ``epoch`` epochs: linear between the knots, constant before the first and after the last."""
    place = bisect.bisect_right([at for at, _ in knots], epoch)
    if place == 0 or place == len(knots):
        return knots[max(place - 1, 0)][1]
    (start, low), (end, high) = knots[place - 1 : place + 1]
    return low + (high - low) * (epoch - start) / (end - start)


def scheduled(weights: Mapping[str, float], schedules: Mapping[str, Knots], epoch: float) -> dict[str, float]:
    """``weights`` times their factors at ``epoch``."""
    return {name: w * (factor_at(schedules[name], epoch) if name in schedules else 1.0) for name, w in weights.items()}


def schedule_refusal(found: str, expected: str, hint: str | None = None) -> ConfigurationError:
    """The error for one line of ``loss_schedule``."""
    return ConfigurationError(field="loss_schedule", found=repr(found), expected=expected, hint=hint)
