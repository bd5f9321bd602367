"""Which network is trained where nobody chose one, and that the classes of settings keep the reference's defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ptycho_ray.config import TrainingConfig
from ptycho_ray.config.sources import resolve_config
from ptycho_ray.data import RawData
from ptycho_ray.training.settings_of_scans import fitted_to_scans

RETRIEVAL = ("unet", 16, "retrieval", 5)


def network(scan: RawData, typed: dict[str, Any], path: Path | None = None) -> tuple[Any, ...]:
    config = fitted_to_scans(resolve_config(TrainingConfig, path, environment={}, typed=typed), [scan])
    model = config.model
    if model.architecture == "cnn":
        return ("cnn", model.n_filters_scale, model.probe_conditioning, config.nepochs)
    return (model.architecture, model.fno_width, model.probe_conditioning, config.nepochs)


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ({}, RETRIEVAL),
        ({"nepochs": 30, "gridsize": 2}, ("unet", 16, "retrieval", 30)),
        ({"fno_width": 8}, ("unet", 8, "retrieval", 5)),
        ({"probe_conditioning": "retrieval"}, RETRIEVAL),
        ({"probe_conditioning": "channels"}, ("cnn", 1, "channels", 50)),
        ({"probe_conditioning": "none"}, ("cnn", 1, "none", 50)),
        ({"architecture": "cnn"}, ("cnn", 1, "none", 50)),
        ({"pad_object": False}, ("cnn", 1, "none", 50)),
        ({"n_filters_scale": 2}, ("cnn", 2, "none", 50)),
        ({"architecture": "ffno"}, ("ffno", 32, "none", 50)),
        ({"architecture": "unrolled"}, ("unrolled", 8, "none", 5)),
        ({"initial_model": "pretrained"}, RETRIEVAL),
        ({"initial_model": "pretrained", "nepochs": 2}, ("unet", 16, "retrieval", 2)),
    ],
)
def test_what_was_not_chosen_is_recommended(
    small_scan: RawData, typed: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert network(small_scan, typed) == expected


def test_a_choice_in_a_file_counts(small_scan: RawData, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("model: {architecture: hybrid_resnet}\n", encoding="utf-8")
    assert network(small_scan, {}, tmp_path / "run.yaml") == ("hybrid_resnet", 32, "none", 50)


def test_nothing_is_retrieved_with_a_guessed_probe(small_scan: RawData) -> None:
    guessed = small_scan.select(range(len(small_scan)))
    guessed.probe_is_guess = True
    assert network(guessed, {}) == ("cnn", 1, "none", 50)
    assert network(guessed, {"probe_conditioning": "retrieval"}) == RETRIEVAL
