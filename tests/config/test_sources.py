"""Defaults < YAML < environment < command line; unknown names are errors; the parser made from the classes."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest

from ptycho_ray.config import InferenceConfig, TrainingConfig
from ptycho_ray.config.command_line import parse, parse_arguments
from ptycho_ray.config.sources import load_yaml_config, resolve_config, setup_configuration
from ptycho_ray.errors import ConfigurationError, MissingFileError


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PTYCHO_RAY_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def yaml_file(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_precedence_of_the_sources(yaml_file: Any) -> None:
    path = yaml_file("nepochs: 7\nbatch_size: 8\nseed: 3\nmodel: {gridsize: 2, N: 128}\nexecution: {accum_steps: 4}\n")
    environment = {"PTYCHO_RAY_BATCH_SIZE": "32", "PTYCHO_RAY_GRIDSIZE": "1", "PTYCHO_RAY_SEED": "4", "HOME": "x"}
    resolved = resolve_config(TrainingConfig, path, environment, typed={"seed": 5})
    config = resolved.config
    assert (config.nepochs, config.batch_size, config.seed, config.mae_weight) == (7, 32, 5, 0.0)
    assert (config.model.gridsize, config.model.N, resolved.execution.accum_steps) == (1, 128, 4)
    assert resolved.provenance["nepochs"] == str(path)
    assert resolved.provenance["batch_size"] == "environment variable PTYCHO_RAY_BATCH_SIZE"
    assert resolved.provenance["seed"] == "command line"
    assert resolved.provenance["mae_weight"] == "default"
    assert resolved.provenance["model.N"] == str(path)
    assert resolved.provenance["execution.accum_steps"] == str(path)
    assert resolved.was_given("seed")
    assert not resolved.was_given("mae_weight")


def test_a_typed_default_beats_yaml(yaml_file: Any) -> None:
    assert resolve_config(TrainingConfig, yaml_file("nepochs: 7"), {}, {"nepochs": 50}).config.nepochs == 50


def test_model_fields_may_stand_flat_or_nested(yaml_file: Any) -> None:
    for text in ("gridsize: 2", "model: {gridsize: 2}", "model.gridsize: 2"):
        assert resolve_config(TrainingConfig, yaml_file(text), {}).config.model.gridsize == 2
    with pytest.raises(ConfigurationError, match="run.yaml: model.gridsize: the same setting is given twice"):
        resolve_config(TrainingConfig, yaml_file("gridsize: 2\nmodel: {gridsize: 2}"), {})


def test_numbers_that_yaml_reads_as_text(yaml_file: Any) -> None:
    resolved = resolve_config(TrainingConfig, yaml_file("nphotons: 1e7\nexecution: {learning_rate: 1e-4}"), {})
    assert (resolved.config.nphotons, resolved.execution.learning_rate) == (1e7, 1e-4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gridsiz: 2", "run.yaml: gridsiz: unknown setting. Did you mean 'model.gridsize'?"),
        (
            "model: {grid_size: 2}",
            "run.yaml: model.grid_size: unknown setting. Did you mean 'model.gridsize'?",
        ),
        ("learning_rat: 0.1", "run.yaml: learning_rat: .*Did you mean 'execution.learning_rate'?"),
        ("execution: {precison: 32-true}", "run.yaml: execution.precison: .*Did you mean 'execution.precision'?"),
        ("qqqqqqqq: 1", "run.yaml: qqqqqqqq: unknown setting$"),
        ("1: 2", "run.yaml: 1: unknown setting"),
        ("model: 3", "run.yaml: model: found 3; expected a mapping of settings"),
        ("model:", "run.yaml: model: found None; expected a mapping of settings"),
        ("gridsize: 0", "run.yaml: model.gridsize: found 0; expected an integer of at least 1"),
        ("execution: {devices: 0}", "run.yaml: execution.devices: found 0"),
        ("batch_size: null", "run.yaml: batch_size: found None"),
        ("nepochs: 1\nnepochs: 2", "run.yaml: invalid YAML: .*'nepochs' is given twice"),
        ("[1, 2", "run.yaml: invalid YAML"),
        ("- 1\n- 2", "run.yaml: found a list; expected lines of 'setting: value'"),
        ("!!python/object/apply:os.system ['true']", "run.yaml: invalid YAML"),
    ],
)
def test_bad_yaml_names_file_and_key(text: str, message: str, yaml_file: Any) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve_config(TrainingConfig, yaml_file(text), {})


def test_missing_and_empty_yaml(yaml_file: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nowhere.yaml"):
        load_yaml_config(tmp_path / "nowhere.yaml")
    assert load_yaml_config(yaml_file("# nothing\n")) == {}


def test_environment_spellings() -> None:
    environment = {
        "PTYCHO_RAY_N": "128",
        "PTYCHO_RAY_MODEL__GRIDSIZE": "2",
        "PTYCHO_RAY_OBJECT_BIG": "false",
        "PTYCHO_RAY_N_GROUPS": "none",
        "PTYCHO_RAY_EXECUTION__PRECISION": "bf16-mixed",
        "PTYCHO_RAY_EXECUTION__LOGGER_BACKEND": "none",
        "PTYCHO_RAY_EXECUTION__RECON_LOG_FIXED_INDICES": "1, 2,3",
        "PTYCHO_RAY_DEBUG": "true",  # a setting of another class than the one asked for
    }
    resolved = resolve_config(TrainingConfig, None, environment)
    model = resolved.config.model
    assert (model.N, model.gridsize, model.object_big, resolved.config.n_groups) == (128, 2, False, 512)
    assert (resolved.execution.precision, resolved.execution.logger_backend) == ("bf16-mixed", "none")
    assert resolved.execution.recon_log_fixed_indices == (1, 2, 3)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("PTYCHO_RAY_GRIDSIZ", "2", "environment: PTYCHO_RAY_GRIDSIZ: .*Did you mean 'PTYCHO_RAY_GRIDSIZE'?"),
        ("PTYCHO_RAY_PRECISION", "x", "environment: PTYCHO_RAY_PRECISION: .*'PTYCHO_RAY_EXECUTION__PRECISION'?"),
        ("PTYCHO_RAY_NEPOCHS", "many", "environment variable PTYCHO_RAY_NEPOCHS: nepochs: found 'many'"),
    ],
)
def test_bad_environment(variable: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        resolve_config(TrainingConfig, None, {variable: value})


def test_twice_in_the_environment() -> None:
    with pytest.raises(ConfigurationError, match="given twice"):
        resolve_config(TrainingConfig, None, {"PTYCHO_RAY_GRIDSIZE": "1", "PTYCHO_RAY_MODEL__GRIDSIZE": "1"})


def test_required_settings_may_come_from_anywhere(yaml_file: Any) -> None:
    path = yaml_file("test_data_file: scan.npz")
    config = resolve_config(InferenceConfig, path, {"PTYCHO_RAY_MODEL_PATH": "bundle"}).config
    assert (config.model_path, config.test_data_file) == (Path("bundle"), Path("scan.npz"))
    assert resolve_config(InferenceConfig, path, {}).config.model_path == Path("pretrained")
    with pytest.raises(ConfigurationError, match="test_data_file: found nothing"):
        resolve_config(InferenceConfig, yaml_file("model_path: bundle"), {})


def test_settings_that_are_valid_only_together(yaml_file: Any) -> None:
    config = resolve_config(TrainingConfig, yaml_file("neighbor_count: 8"), {}, {"gridsize": 3}).config
    assert config.model.gridsize == 3


def test_setup_configuration(yaml_file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = yaml_file("nepochs: 7\ngridsize: 2\nN: 128\noutput_dir: zzz\nn_images: 99\n")
    monkeypatch.setenv("PTYCHO_RAY_SEED", "11")
    args = argparse.Namespace(nepochs=None, batch_size=4, config=str(path), do_stitching=True, quiet=False)
    with pytest.warns(DeprecationWarning, match="n_images"):
        config = setup_configuration(args, str(path))
    assert (config.nepochs, config.batch_size, config.seed, config.n_groups) == (7, 4, 11, 99)
    assert (config.model.gridsize, config.model.N, config.output_dir) == (2, 128, Path("zzz"))
    assert setup_configuration({}).n_groups == 512
    with pytest.raises(ConfigurationError, match="command line: nepoch: .*Did you mean 'nepochs'?"):
        setup_configuration({"nepoch": 3}, None)


def typed(*words: str) -> dict[str, Any]:
    return {name: value for name, value in vars(parse_arguments(words)).items() if value is not None}


def test_only_what_was_typed_is_reported() -> None:
    assert typed() == {"do_stitching": False}
    assert typed("--do_stitching", "--config", "a.yaml", "--nepochs", "50") == {
        "do_stitching": True,
        "config": Path("a.yaml"),
        "nepochs": 50,
    }


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        ("--gridsize 2", "gridsize", 2),
        ("--gridsize=2", "gridsize", 2),
        ("--N 128", "N", 128),
        ("--n-groups 5", "n_groups", 5),
        ("--n_groups 5", "n_groups", 5),
        ("--nphotons 1e7", "nphotons", 1e7),
        ("--object-big", "object_big", True),
        ("--no-object-big", "object_big", False),
        ("--no_object_big", "object_big", False),
        ("--object-big False", "object_big", False),
        ("--object_big True", "object_big", True),
        ("--probe_mask true", "probe_mask", True),
        ("--max-hidden-channels 512", "max_hidden_channels", 512),
        ("--resnet_width 64", "resnet_width", 64),
        ("--probe-mask-diameter 20", "probe_mask_diameter", 20.0),
        ("--train-data-file a.npz", "train_data_file", Path("a.npz")),
        ("--architecture fno", "architecture", "fno"),
        ("--execution.devices auto", "execution.devices", "auto"),
        ("--execution.devices 2", "execution.devices", 2),
        ("--execution.deterministic warn", "execution.deterministic", "warn"),
        ("--execution.deterministic False", "execution.deterministic", False),
        ("--execution.pin-memory False", "execution.pin_memory", False),
        ("--execution.no-pin-memory", "execution.pin_memory", False),
        ("--execution.recon-log-fixed-indices 1 2", "execution.recon_log_fixed_indices", (1, 2)),
    ],
)
def test_spellings_on_the_command_line(words: str, name: str, value: Any) -> None:
    assert typed(*words.split()) == {"do_stitching": False, name: value}


@dataclasses.dataclass(kw_only=True)
class NoOptions:
    """Nothing but settings."""


def test_none_can_be_typed(yaml_file: Any) -> None:
    settings = parse(NoOptions, ["--n-subsample", "None"], prog="x", config_class=TrainingConfig).settings
    assert settings == {"n_subsample": None}
    assert resolve_config(TrainingConfig, yaml_file("n_subsample: 5"), {}, settings).config.n_subsample is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--gridsiz 2", "--gridsize"),
        ("--execution.precison x", "--execution.precision"),
        ("--N many", "--N"),
        ("--architecture cn", "hybrid_resnet"),
        ("--nepochs", "--nepochs"),
    ],
)
def test_bad_command_line(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse_arguments(words.split())
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_help_shows_little_and_help_all_everything(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, fully in (("--help", False), ("--help-all", True)):
        with pytest.raises(SystemExit) as left:
            parse_arguments([flag])
        assert left.value.code == 0
        text = capsys.readouterr().out
        assert "--gridsize INT" in text
        assert "receives patterns in groups" in text
        assert ("--plateau-threshold" in text) is fully


def test_command_line_and_yaml_together(yaml_file: Any) -> None:
    path = yaml_file("nepochs: 7\nbatch_size: 8\n")
    args = parse_arguments(["--batch-size", "16", "--config", str(path)])
    config = setup_configuration(args, args.config)
    assert (config.nepochs, config.batch_size) == (7, 16)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs" / "train").glob("*.yaml")), ids=lambda p: p.stem
)
def test_shipped_training_configurations_load(path: Path) -> None:
    resolved = resolve_config(TrainingConfig, path, {})
    assert any(resolved.was_given(name) for name in resolved.provenance)
