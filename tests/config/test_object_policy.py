"""The three fields by which the newest branch of PtychoPINN replaces object_big."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from ptycho_ray.config import ModelConfig, TrainingConfig, dataclass_to_legacy_dict
from ptycho_ray.config.sources import resolve_config
from ptycho_ray.errors import ConfigurationError

GROUPED = {"object_layout": "grouped_patches", "training_canvas": "relative_overlap"}
SINGLE = {"object_layout": "single_patch", "training_canvas": "independent"}


@pytest.mark.parametrize(("fields", "object_big"), [(GROUPED, True), (SINGLE, False)])
def test_layout_and_canvas_mean_object_big(fields: dict[str, Any], object_big: bool) -> None:
    model = ModelConfig(**fields)
    assert model.object_big is object_big
    assert ModelConfig(**fields, object_big=object_big) == model
    assert ModelConfig(**asdict(model)) == model
    assert replace(model, N=128).object_big is object_big
    assert dataclass_to_legacy_dict(model) == dataclass_to_legacy_dict(ModelConfig(object_big=object_big))


@pytest.mark.parametrize(("weighting", "merge"), [("central_mask", "central_mask"), ("probe", "weighted")])
def test_the_weighting_means_a_merge(weighting: str, merge: str) -> None:
    model = ModelConfig(**GROUPED, training_patch_weighting=weighting)
    assert model.merge == merge
    assert ModelConfig(**asdict(model)) == model


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"object_layout": "single_patch"}, "training_canvas.*found nothing; expected independent"),
        ({"training_canvas": "independent"}, "training_canvas.*not given without object_layout"),
        ({**SINGLE, "training_canvas": "relative_overlap"}, "training_canvas.*expected independent"),
        ({**GROUPED, "training_canvas": "independent"}, "training_canvas.*expected relative_overlap"),
        ({**SINGLE, "object_big": True}, "object_big.*says the opposite.*found True"),
        ({**GROUPED, "object_big": False}, "object_big.*says the opposite.*found False"),
        ({"training_patch_weighting": "uniform"}, "training_patch_weighting.*'probe'"),
        ({"training_patch_weighting": "central_mask", "merge": "weighted"}, "merge.*'central_mask', or not given"),
        ({"training_patch_weighting": "probe", "merge": "central_mask"}, "merge.*'weighted', or not given"),
        ({"object_layout": ["single_patch"]}, "object_layout"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ModelConfig(**fields)


def test_they_come_from_any_source(tmp_path: Any) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("object_layout: single_patch\nmodel: {training_canvas: independent}\n")
    assert resolve_config(TrainingConfig, file, {}).config.model.object_big is False
    with pytest.raises(ConfigurationError, match="object_big.*says the opposite"):
        resolve_config(TrainingConfig, file, {"PTYCHO_RAY_OBJECT_BIG": "true"})
