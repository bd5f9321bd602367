"""Where the lowest point of three values lies, and that a scan of the wrong size is found."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import make_scan

from ptycho_ray.automatic.electrons import _with_map
from ptycho_ray.automatic.parabola import lowest, vertex, vertex_of_judges
from ptycho_ray.automatic.scan_map import CHANCE, ScanMap, scan_map
from ptycho_ray.automatic.trials import Assumption, Part, Trial
from ptycho_ray.calibration.microscope import Calibration, Finding
from ptycho_ray.data.position_maps import transformed_positions
from ptycho_ray.refinement.unseen import PatternFigures


def test_the_lowest_point_of_a_parabola() -> None:
    assert vertex(4.0, 1.0, 0.0) == pytest.approx((1.0, 0.0))
    assert vertex(1.0, 0.0, 1.0) == pytest.approx((0.0, 0.0))
    assert math.isnan(vertex(0.0, 1.0, 0.0)[0]), "a highest point is none"
    assert math.isnan(vertex(np.inf, 1.0, 0.0)[0]), "a trial that diverged"


def test_the_error_of_the_lowest_point_is_that_over_the_judges() -> None:
    """Each of 400 judges has its own lowest point, with a standard deviation of 0.2 steps."""
    places = 0.3 + 0.2 * np.random.default_rng(0).normal(size=400)
    nothing = np.ones(400)

    def at(place: float) -> Trial:
        misfit = 1 + (place - places) ** 2
        figures = PatternFigures(True, misfit, nothing, nothing, nothing, nothing)
        return Trial(
            Assumption("", np.ones((1, 2, 2), np.complex64)), figures, 0.0, np.ones((1, 2, 2), np.complex64), 0.0
        )

    place, error = vertex_of_judges(at(-1), at(0), at(1))
    assert place == pytest.approx(0.3, abs=0.03)
    assert error == pytest.approx(0.2 / 20, rel=0.1)


@pytest.mark.parametrize(
    ("true", "most", "place", "between"), [(2.3, 3, 2.3, True), (-0.05, 3, 0.0, True), (5, 2, 2, False)]
)
def test_a_walk_down_to_the_lowest_point(true: float, most: int, place: float, between: bool) -> None:
    asked: list[float] = []

    def at(place: float) -> Trial:
        asked.append(place)
        each = np.array([1.0, 1.1, 0.9]) + (place - true) ** 2
        figures = PatternFigures(True, each, each, each, each, each)
        return Trial(
            Assumption("", np.ones((1, 2, 2), np.complex64)), figures, 0.0, np.ones((1, 2, 2), np.complex64), 0.0
        )

    found = lowest(at, most)
    assert (found.place, found.between) == (pytest.approx(place), between)
    assert len(set(asked)) == len(asked), "no trial is made twice"


class TruePart:
    """A part of a scan of electrons whose trials are the better, the nearer their map is to the true one."""

    def __init__(self, true: np.ndarray, electrons: bool = True) -> None:
        self.true, self.whole = true, SimpleNamespace(electrons=electrons)

    def run_long(self, assumption: Assumption) -> Trial:
        each, noise = np.linspace(0.99, 1.01, 10), np.ones(10)
        away = float(np.sum((assumption.matrix - self.true) ** 2))
        figures = PatternFigures(True, (1 + 1e3 * away) * each, 0.5 * noise, noise, noise, noise)
        return Trial(assumption, figures, 0.0, assumption.probe, 1.0)


def test_step_angle_and_drift_are_found_together() -> None:
    drifted = np.array([[1.07, 0.0], [-0.04, 1.02]])
    part = TruePart(drifted)
    best = part.run_long(Assumption("", np.ones((1, 2, 2), np.complex64)))
    found = scan_map(part, part, best)
    assert found.trial is not None
    np.testing.assert_allclose(found.trial.assumption.matrix, drifted, atol=2e-3)
    assert set(found.values) == {"scale", "turn", "stretch", "shear"}
    assert all(error == pytest.approx(CHANCE, rel=0.1) for _, error in found.values.values())
    of_photons = TruePart(drifted, electrons=False)
    assert set(scan_map(of_photons, of_photons, best).values) == {"scale", "turn"}


def test_a_scan_that_is_right_is_told_so_where_all_is_asked() -> None:
    part = TruePart(np.eye(2))
    best = part.run_long(Assumption("", np.ones((1, 2, 2), np.complex64)))
    assert scan_map(part, part, best) == ScanMap({})
    found = scan_map(part, part, best, thoroughly=True)
    assert found.trial is None
    assert [value for value, _ in found.values.values()] == [0.0] * 4


def test_a_map_in_the_words_of_a_calibration() -> None:
    step = Finding("step", None, None, "angstrom", 0.5, "undecided", "")
    calibration = Calibration(None, None, None, "undecided", np.eye(2), None, (step,))
    values = {"scale": (0.02, 0.002), "turn": (0.001, 0.002), "stretch": (0.03, math.nan), "shear": (-0.02, 0.002)}
    found = {each.name: each for each in _with_map(calibration, ScanMap(values))}
    assert (found["step"].found, found["step"].answer) == (pytest.approx(0.5 * math.exp(0.02)), "differs from the file")
    assert found["turn"].answer == "as in the file"
    assert found["stretch"].answer == "undecided"
    assert found["shear"].found == pytest.approx(math.degrees(-0.04))


@pytest.mark.slow
def test_a_scan_of_the_wrong_size_is_found_and_a_right_one_left_alone() -> None:
    scan = make_scan(160)
    for factor in (1.0, 1.06):
        wrong = scan.at(transformed_positions(scan.positions_px, factor * np.eye(2)))
        part = Part(wrong, 0, most=120, photons_per_unit=1.0)
        best = part.run_long(Assumption("as it is", wrong.probe))
        found = scan_map(part, part.larger(), best).trial
        if factor == 1.0:
            assert found is None
        else:
            assert found is not None
            assert math.sqrt(np.linalg.det(found.assumption.matrix)) == pytest.approx(1 / factor, abs=0.012)
