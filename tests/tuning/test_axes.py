"""The scan axes as a setting, and as a sweep finds them first."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from ptycho_ray.config import ModelConfig, TrainingConfig
from ptycho_ray.config.training import PositionAxes
from ptycho_ray.data import RawData
from ptycho_ray.data.corrections import apply_corrections
from ptycho_ray.data.position_maps import axes_matrix, transformed_positions
from ptycho_ray.refinement.orientation import EIGHT, Verdict
from ptycho_ray.tuning import axes as module
from ptycho_ray.tuning.axes import axes_of, name_of
from ptycho_ray.tuning.trial import JUDGED, run_trial, trial_config


def test_the_eight_values_of_the_setting_are_the_eight_orientations() -> None:
    assert {name_of(each) for each in EIGHT} == set(get_args(PositionAxes))
    for each in EIGHT:
        np.testing.assert_array_equal(axes_matrix(name_of(each)), each.matrix)


def test_axes_come_before_the_linear_change(small_scan: RawData) -> None:
    config = TrainingConfig(
        model=ModelConfig(N=32), position_axes="flip_x swap_xy", position_scale=1.1, position_rotation_rad=0.2
    )
    found = apply_corrections(small_scan, config).positions_px
    centre = small_scan.positions_px.mean(axis=0)
    turned = centre + ((small_scan.positions_px - centre) * [1, -1])[:, ::-1]
    expected = apply_corrections(
        small_scan.at(turned),
        TrainingConfig(model=ModelConfig(N=32), position_scale=1.1, position_rotation_rad=0.2),
    ).positions_px
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("best", "undecided", "axes"),
    [
        ("swap_xy", "", "swap_xy"),
        ("swap_xy", "axes", "as stored"),
        ("swap_xy", "180 degrees", "swap_xy"),
        ("flip_x flip_y", "180 degrees", "as stored"),
    ],
)
def test_what_the_patterns_leave_open_stays_as_stored(
    small_scan: RawData, monkeypatch: pytest.MonkeyPatch, best: str, undecided: str, axes: str
) -> None:
    orientation = next(each for each in EIGHT if name_of(each) == best)
    verdict = Verdict(orientation, undecided, 0.1, 0.1, 4.0, 4.0, 0.2, {}, 8)
    monkeypatch.setattr(module, "find_orientation", lambda *args, **options: verdict)
    assert axes_of(small_scan, 0)[0] == axes


def test_a_refined_trial_judges_right_positions_better(small_scan: RawData, tmp_path: Path) -> None:
    shaken = small_scan.at(transformed_positions(small_scan.positions_px, 1.06 * np.eye(2)))
    base = {"model.N": 32, "nepochs": 12, "validation_fraction": 0.2}
    told: list[tuple[int, dict[str, float]]] = []

    def report(epoch: int, figures: dict[str, float]) -> None:
        told.append((epoch, figures))

    losses = []
    for scale in (1.0, 1 / 1.06):
        settings, execution = trial_config(base, {"position_scale": scale})
        figures = run_trial("refine", shaken, settings, execution, ("likelihood",), tmp_path / str(scale), report)
        assert told[-1] == (12, figures)
        with np.load(tmp_path / str(scale) / JUDGED) as judged:
            assert judged["likelihood"].mean() == pytest.approx(figures["likelihood"])
            losses.append(judged["likelihood"])
    assert len(told) == 2
    assert len(losses[0]) == round(0.2 * len(small_scan))
    assert losses[1].mean() < losses[0].mean()


def test_a_refined_trial_takes_settings_of_the_solver(small_scan: RawData, tmp_path: Path) -> None:
    settings, execution = trial_config({"nepochs": 24, "refinement.slices": 2}, {"refinement.slice_distance_px2": 1.0})
    given = {"slices": 2, "slice_distance_px2": 1.0, "object_start": None}
    deviances = [
        run_trial(
            "refine",
            small_scan,
            settings,
            execution,
            ("deviance",),
            tmp_path,
            lambda *told: None,
            refinement=refinement,
        )["deviance"]
        for refinement in (given, given | {"object_start": 0})
    ]
    assert deviances[1] < 0.5 * deviances[0], "a flat object explains little"


def test_a_refined_trial_is_judged_in_photons_whatever_the_unit_of_the_file(
    small_scan: RawData, tmp_path: Path
) -> None:
    photons = small_scan.patterns.intensity()
    deviances = []
    for unit, counted in ((1, True), (100, False)):
        scan = RawData(
            small_scan.positions_px[:, 1], small_scan.positions_px[:, 0], None, None, photons * unit, small_scan.probe,
            domain="intensity", counts_are_photons=counted,
        )  # fmt: skip
        base = {"model.N": 32, "nepochs": 4, "validation_fraction": 0.2, "nphotons": float(photons.sum() / len(scan))}
        settings, execution = trial_config(base, {"position_scale": 1.0})
        folder = tmp_path / str(unit)
        deviances.append(run_trial("refine", scan, settings, execution, ("deviance",), folder, lambda *told: None))
    assert deviances[0]["deviance"] == pytest.approx(deviances[1]["deviance"], rel=1e-3)
