"""Whether a sample is thick is decided by trials: here which are made and what is taken, the solver is asked elsewhere."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from ptycho_ray.automatic.thickness import DEPTH_SMOOTHING, TRIED, sliced
from ptycho_ray.automatic.trials import Assumption, Trial
from ptycho_ray.physics.optics import electron_wavelength_m, fresnel_propagate
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.slab import Slab
from ptycho_ray.refinement.unseen import PatternFigures

PIXEL_M, WAVELENGTH_M = 0.4e-10, electron_wavelength_m(300e3)
PROBE = np.random.default_rng(0).normal(size=(1, 32, 32)).astype(np.complex64)


def trial_of(assumption: Assumption, misfit: float, slab: Slab | None = None) -> Trial:
    """A trial with that misfit in ten patterns, more or less, whose noise is one."""
    scatter = np.linspace(0.99, 1.01, 10)
    noise = np.ones(10)
    figures = PatternFigures(True, misfit * scatter, noise, noise, noise, noise)
    return Trial(assumption, figures, 0.0, assumption.probe, 0.0, slab)


class TruePart:
    """A part of a scan whose trials are the better, the nearer their thickness is to the true one; they find the tilt."""

    within_budget = True

    def __init__(self, thickness: float, tilt: tuple[float, float] = (0.0, 0.0), *, electrons: bool = True) -> None:
        self.thickness, self.tilt, self.asked = thickness, tilt, []
        self.whole = SimpleNamespace(electrons=electrons, pixel_size_m=PIXEL_M, wavelength_m=WAVELENGTH_M, N=32)

    def run_long(self, assumption: Assumption) -> Trial:
        settings = assumption.settings
        RefinementConfig(**settings)
        self.asked.append(assumption)
        away = abs(np.log2(max(settings.get("thickness_angstrom", 0.0), 25.0) / max(self.thickness, 25.0)))
        slab = Slab(1.0, (0.0, 0.0), 10.0, self.tilt, (0.2, 0.1)) if "tilt_start" in settings else None
        return trial_of(assumption, 1.0 + away, slab)


def asked(part: TruePart, given: tuple[str, ...] = ()) -> tuple[Trial, list[str]]:
    told: list[str] = []
    thin = part.run_long(Assumption("thin", PROBE))
    part.asked.clear()
    return sliced(part, thin, told.append, given), told


def test_a_thin_sample_stays_thin():
    part = TruePart(0.0)
    best, told = asked(part)
    assert best.assumption.name == "thin"
    assert told == []
    assert [each.settings["thickness_angstrom"] for each in part.asked] == list(TRIED)


@pytest.mark.parametrize("thickness", [50.0, 200.0])
def test_the_thickness_that_explains_most_is_taken(thickness):
    best, told = asked(TruePart(thickness))
    settings = best.assumption.settings
    assert settings["thickness_angstrom"] == thickness
    assert settings["depth_smoothing_slices"] == DEPTH_SMOOTHING
    assert settings["slices"] >= 2
    assert len(told) == 1


def test_the_probe_begins_where_the_beam_enters():
    """The thin object lay in the middle of the sample."""
    part = TruePart(100.0)
    asked(part)
    tried = next(each for each in part.asked if each.settings["thickness_angstrom"] == 100.0)
    half = WAVELENGTH_M * 50e-10 / PIXEL_M**2
    np.testing.assert_allclose(fresnel_propagate(tried.probe, half), PROBE, atol=1e-5)


def test_the_solution_begins_with_the_tilt_that_the_trial_found_and_goes_on():
    best, told = asked(TruePart(100.0, (6.0, -3.0)))
    settings = best.assumption.settings
    assert (settings["tilt_row_mrad"], settings["tilt_column_mrad"]) == (6.0, -3.0)
    assert settings["tilt_start"] is not None
    assert "tilt of (6.0 +- 0.2, -3.0 +- 0.1) mrad" in told[-1]


@pytest.mark.parametrize(
    ("given", "electrons"), [(("slices",), True), (("tilt_row_mrad",), True), (("method",), True), ((), False)]
)
def test_what_is_given_is_not_asked_and_light_is_not(given, electrons):
    part = TruePart(200.0, electrons=electrons)
    assert asked(part, given)[0].assumption.name == "thin"
    assert not part.asked


def test_a_thickness_that_does_not_show_is_not_tried():
    """Pixels of a nanometre: the beam spreads by less than one of them."""
    part = TruePart(200.0)
    part.whole.pixel_size_m = 1e-9
    asked(part)
    assert not part.asked
