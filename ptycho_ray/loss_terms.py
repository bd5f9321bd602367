"""The terms of the training loss by name, the settings that weigh them, and how the weights change over the epochs.

No torch here: the configuration checks itself with this module.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ptycho_ray.errors import ConfigurationError
from ptycho_ray.fields import did_you_mean

if TYPE_CHECKING:
    from ptycho_ray.config import TrainingConfig

#: Terms that look at diffraction; 'supervised' training is without them.
DIFFRACTION_TERMS = ("nll", "gaussian_amplitude", "gaussian_intensity", "mae")
#: Terms that look at the true object of the scan.
LABEL_TERMS = ("object_mae", "label_amplitude", "label_phase")
#: Every term, in the order in which they are reported.
TERMS = (*DIFFRACTION_TERMS, "tv", "consistency", *LABEL_TERMS)
#: Knots (epoch, factor) of a piecewise linear curve.
Knots = tuple[tuple[float, float], ...]


def term_weights(config: TrainingConfig) -> dict[str, float]:
    """The weight of every term that the configuration asks for, without those of weight zero."""
    supervised = config.model.model_type == "supervised"
    weights = {
        "nll": config.nll_weight,
        "gaussian_amplitude": config.gaussian_amplitude_weight,
        "gaussian_intensity": config.gaussian_intensity_weight,
        "mae": config.mae_weight,
        "tv": config.realspace_weight * config.tv_weight,
        "consistency": config.realspace_weight * config.consistency_weight,
        "object_mae": config.realspace_weight * config.realspace_mae_weight,
        "label_amplitude": config.label_amplitude_weight * supervised,
        "label_phase": config.label_phase_weight * supervised,
    }
    left_out = DIFFRACTION_TERMS if supervised else ()
    return {name: weight for name, weight in weights.items() if weight and name not in left_out}


def parse_schedules(lines: Sequence[str]) -> dict[str, Knots]:
    """``["tv=0:0/10:1"]``: for each term the knots of its factor, epoch:factor, linear between, constant outside.

    Raises:
        ConfigurationError: not of that form, an unknown term, a term twice, epochs that do not rise, a negative factor.
    """
    schedules: dict[str, Knots] = {}
    for line in lines:
        name, _, curve = line.partition("=")
        if name not in TERMS:
            raise _refusal(line, f"term=..., the term one of {', '.join(TERMS)}", did_you_mean(name, TERMS))
        if name in schedules:
            raise _refusal(line, "one line for each term")
        try:
            knots = tuple((float(epoch), float(factor)) for epoch, factor in (k.split(":") for k in curve.split("/")))
        except ValueError:
            raise _refusal(line, "term=epoch:factor/epoch:factor/..., as tv=0:0/10:1") from None
        epochs = [epoch for epoch, _ in knots]
        if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
            raise _refusal(line, "epochs that rise from knot to knot")
        if not all(math.isfinite(epoch) and 0 <= factor < math.inf for epoch, factor in knots):
            raise _refusal(line, "finite numbers, factors from 0 up")
        schedules[name] = knots
    return schedules


def factor_at(knots: Knots, epoch: float) -> float:
    """The factor after ``epoch`` epochs: linear between the knots, constant before the first and after the last."""
    place = bisect.bisect_right([at for at, _ in knots], epoch)
    if place == 0 or place == len(knots):
        return knots[max(place - 1, 0)][1]
    (start, low), (end, high) = knots[place - 1 : place + 1]
    return low + (high - low) * (epoch - start) / (end - start)


def check_terms(config: TrainingConfig) -> None:
    """Refuse a configuration without a loss, or with a weight or a schedule that could have no effect."""
    for name in ("tv_weight", "consistency_weight", "realspace_mae_weight"):
        if getattr(config, name) and not config.realspace_weight:
            raise ConfigurationError(
                f"it multiplies {name}, which is {getattr(config, name)}",
                field="realspace_weight",
                found=0,
                expected="a number above 0",
            )
    supervised = config.model.model_type == "supervised"
    choices: tuple[str, ...] = ("label_phase_weight", "label_amplitude_weight")
    if not supervised:
        likelihoods = ("nll_weight", "mae_weight", "gaussian_amplitude_weight", "gaussian_intensity_weight")
        choices = (*likelihoods, "realspace_weight")
    if not any(getattr(config, name) for name in choices):
        raise ConfigurationError(
            "no loss is left", field=choices[0], found=0, expected=f"one of {', '.join(choices)} above 0"
        )
    weights = term_weights(config)
    for name in parse_schedules(config.loss_schedule):
        if name not in weights:
            raise _refusal(name, f"a term of the loss: {', '.join(weights)}", "Its weight is zero")


def scheduled(weights: Mapping[str, float], schedules: Mapping[str, Knots], epoch: float) -> dict[str, float]:
    """``weights`` times their factors at ``epoch``."""
    return {name: w * (factor_at(schedules[name], epoch) if name in schedules else 1.0) for name, w in weights.items()}


def _refusal(found: str, expected: str, hint: str | None = None) -> ConfigurationError:
    return ConfigurationError(field="loss_schedule", found=repr(found), expected=expected, hint=hint)
