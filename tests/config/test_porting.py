"""Configuration files and calls of PtychoPINN: other names are understood, what has no meaning here is said and left out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ptycho_ray.config import (
    ModelConfig,
    TrainingConfig,
    validate_inference_config,
    validate_model_config,
    validate_training_config,
)
from ptycho_ray.config.command_line import parse
from ptycho_ray.config.legacy import default_legacy_dict
from ptycho_ray.config.porting import NO_MEANING, OTHER_NAMES
from ptycho_ray.config.sources import resolve_config, setting_names, setup_configuration
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.training.pretraining import PretrainingConfig
from ptycho_ray.training.prior_training import PriorConfig


def test_a_configuration_of_a_comparison(tmp_path: Path) -> None:
    file = tmp_path / "comparison.yaml"
    file.write_text(
        "N: 64\ngridsize: 1\nstitch_crop_size: 20\nlearning_rate: 0.002\nn_groups: 512\nnphotons: 1e6\n"
        "object.big: false\noutput_prefix: there\nsampling: {neighbor_count: 7, subsample_seed: 42}\n",
        encoding="utf-8",
    )
    with pytest.warns(UserWarning, match="stitch_crop_size has no meaning here: patches are stitched whole"):
        resolved = resolve_config(TrainingConfig, file, {})
    config = resolved.config
    assert (config.model.object_big, config.output_dir, config.neighbor_count) == (False, Path("there"), 7)
    assert (config.subsample_seed, config.nphotons, resolved.execution.learning_rate) == (42, 1e6, 0.002)


def test_arguments_of_a_script() -> None:
    with pytest.warns(UserWarning, match="debug has no meaning here"):
        config = TrainingConfig(model=ModelConfig(N=64), nepochs=3, debug=False)  # type: ignore[call-arg]
    assert config.nepochs == 3
    with pytest.warns(UserWarning, match="argument: label has no meaning here"):
        assert setup_configuration({"label": "x", "nepochs": 4}).nepochs == 4


def test_mistakes_are_still_errors(tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("stitch_crop_sise: 20\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="stitch_crop_sise: unknown setting"):
        resolve_config(TrainingConfig, file, {})
    with pytest.raises(ConfigurationError, match="debugg"):
        TrainingConfig(model=ModelConfig(), debugg=False)  # type: ignore[call-arg]


def test_every_key_of_the_flat_dictionary_is_known() -> None:
    known = {name.removeprefix("model.") for name in setting_names(TrainingConfig)} | {*NO_MEANING, *OTHER_NAMES}
    gone = {"padded_size", "padding_size", "bigN"}
    assert {key for key in default_legacy_dict() if key not in known} <= gone
    assert not {*NO_MEANING} & {name.removeprefix("model.") for name in setting_names(TrainingConfig)}


def test_configurations_are_checked_when_they_are_made() -> None:
    config = TrainingConfig(model=ModelConfig())
    for check in (validate_training_config, validate_inference_config):
        check(config)
    validate_model_config(config.model)


@pytest.mark.parametrize("kind", [PretrainingConfig, PriorConfig])
def test_a_setting_that_a_command_has_is_not_taken_for_another_name(kind: type) -> None:
    @dataclasses.dataclass(kw_only=True)
    class NoOptions:
        """Nothing."""

    typed = parse(NoOptions, ["--learning-rate", "0.5"], prog="train", config_class=kind, with_model=False)
    assert typed.settings == {"learning_rate": 0.5}
