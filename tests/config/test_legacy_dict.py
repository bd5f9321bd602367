"""The flat dictionary equals the one that PtychoPINN makes (golden file i_legacy_dict.json)."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ptycho_ray.config import InferenceConfig, ModelConfig, TrainingConfig
from ptycho_ray.config.legacy import (
    OUR_FIELDS,
    dataclass_to_legacy_dict,
    default_legacy_dict,
    update_legacy_dict,
)

CASES = {
    "default": TrainingConfig,
    "nondefault": TrainingConfig,
    "n_images_deprecated": TrainingConfig,
    "inference": InferenceConfig,
}


def configuration_of(case: dict[str, Any], config_class: Any) -> Any:
    values = dict(case["config"])
    model = ModelConfig(**values.pop("model"))
    return config_class(model=model, **values)


@pytest.mark.parametrize("name", CASES)
def test_update_equals_the_reference(name: str, golden: Any) -> None:
    expected = golden("i_legacy_dict.json")[name]
    cfg = default_legacy_dict()
    update_legacy_dict(cfg, configuration_of(expected, CASES[name]))
    assert cfg == expected["cfg_after"]


@pytest.mark.parametrize("name", ["default", "nondefault", "n_images_deprecated"])
def test_dictionary_equals_the_reference(name: str, golden: Any) -> None:
    expected = golden("i_legacy_dict.json")[name]
    assert dataclass_to_legacy_dict(configuration_of(expected, TrainingConfig)) == expected["dataclass_to_legacy_dict"]


def test_default_dictionary_equals_the_reference(golden: Any) -> None:
    assert default_legacy_dict() == golden("i_legacy_dict.json")["DEFAULT_CFG"]


def test_default_dictionary_is_a_fresh_copy() -> None:
    default_legacy_dict()["N"] = 7
    assert default_legacy_dict()["N"] == 128


def test_none_leaves_an_older_value() -> None:
    cfg = {"n_subsample": 5, "test_data_file_path": "old.npz"}
    update_legacy_dict(cfg, TrainingConfig(model=ModelConfig()))
    assert cfg["n_subsample"] == 5
    assert cfg["test_data_file_path"] == "old.npz"


def test_our_fields_exist_and_stay_out() -> None:
    names = {field.name for cls in (ModelConfig, TrainingConfig) for field in dataclasses.fields(cls)}
    assert names >= OUR_FIELDS
    legacy = dataclass_to_legacy_dict(TrainingConfig(model=ModelConfig(), tv_weight=0.5, realspace_weight=1.0, seed=3))
    assert not OUR_FIELDS & legacy.keys()


def test_nothing_but_our_fields_is_left_out() -> None:
    names = {field.name for cls in (ModelConfig, TrainingConfig) for field in dataclasses.fields(cls)} - {"model"}
    assert len(dataclass_to_legacy_dict(TrainingConfig(model=ModelConfig()))) == len(names - OUR_FIELDS)
