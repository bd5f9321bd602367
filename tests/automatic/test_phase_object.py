"""Whether electrons change their phase alone is decided by trials; here which are made, the solver is asked elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ptycho_ray.automatic.choose import at_last
from ptycho_ray.automatic.trials import Assumption, Trial
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.unseen import PatternFigures

PROBE = np.ones((1, 16, 16), np.complex64)


class TrueObject:
    """A part of a scan whose patterns are explained better by so much if amplitudes are near one."""

    within_budget = True

    def __init__(self, gain: float, *, electrons: bool = True) -> None:
        self.gain, self.whole = gain, SimpleNamespace(electrons=electrons)

    def run_long(self, assumption: Assumption) -> Trial:
        RefinementConfig(**assumption.settings)
        misfit = (1.05 - self.gain * ("phase_object" in assumption.settings)) * np.linspace(0.99, 1.01, 10)
        noise = np.ones(10)
        return Trial(assumption, PatternFigures(True, misfit, noise, noise, noise, noise), 0.0, PROBE, 0.0)


@pytest.mark.parametrize(
    ("gain", "electrons", "given", "taken"),
    [
        (0.02, True, (), True),
        (0.0, True, (), False),
        (-0.02, True, (), False),
        (0.02, False, (), False),
        (0.02, True, ("phase_object",), False),
    ],
)
def test_amplitudes_are_held_near_one_where_that_explains_more(gain, electrons, given, taken):
    part, told = TrueObject(gain, electrons=electrons), []
    best = at_last(part, part.run_long(Assumption("as it is", PROBE)), told.append, given)
    assert bool(best.assumption.settings.get("phase_object")) == taken
    assert len(told) == taken
