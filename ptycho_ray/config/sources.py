"""Where the values of a configuration come from: defaults < YAML file < environment < command line.

Only values that were given explicitly count, so a default never overrides a YAML value. A setting is named by its field
(``gridsize``, ``batch_size``); the network's fields may be written under ``model`` as well (``model.gridsize``), the
execution fields always stand under ``execution``. In the environment: ``PTYCHO_RAY_GRIDSIZE``,
``PTYCHO_RAY_MODEL__GRIDSIZE``, ``PTYCHO_RAY_EXECUTION__PRECISION``.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml

from ptycho_ray.config.execution import ExecutionConfig
from ptycho_ray.config.model import ModelConfig
from ptycho_ray.config.porting import SECTIONS, ported
from ptycho_ray.config.training import InferenceConfig, TrainingConfig
from ptycho_ray.config.types import unknown_setting
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.files import require_file

C = TypeVar("C", TrainingConfig, InferenceConfig)
PREFIX = "PTYCHO_RAY_"

# Flags of the reference's argument parser that are no settings; setup_configuration lets them pass.
_OTHER_FLAGS = {"config", "do_stitching", "quiet", "verbose", "console_level"}


@dataclass(frozen=True)
class Given:
    """One value and where it was given, in words for a message."""

    value: Any
    source: str


@dataclass(frozen=True)
class Resolved(Generic[C]):
    """A configuration, how to run it, and for every setting (``model.N``, ``batch_size``, ``execution.devices`` ...)
    where its value came from: ``"default"``, a file name, an environment variable or ``"command line"``."""

    config: C
    execution: ExecutionConfig
    provenance: dict[str, str]

    def was_given(self, setting: str) -> bool:
        """True if any source named this setting."""
        return self.provenance[setting] != "default"


def resolve_config(
    config_class: type[C],
    yaml_path: str | Path | None = None,
    environment: Mapping[str, str] | None = None,
    typed: Mapping[str, Any] | None = None,
    *,
    with_model: bool = True,
    host: Mapping[str, Any] | None = None,
    host_name: str = "",
    typed_name: str = "command line",
) -> Resolved[C]:
    """Merge all sources into one checked configuration.

    ``environment`` defaults to the process's own. ``typed`` holds the values that were given explicitly (on the
    ``typed_name``), by setting name.
    ``host`` holds those of a program that calls ours, named ``host_name`` in messages: stronger than the YAML
    file, weaker than the rest. Without ``with_model`` the network is fixed elsewhere (in a trained model), its settings
    are unknown here and ``config.model`` is a placeholder with defaults. Raises ConfigurationError for an unknown
    setting (with the nearest known one), for one that is given twice in the same source, and for a value out of range,
    each time naming the source.
    """
    known = [name for name in setting_names(config_class) if with_model or not name.startswith("model.")]
    given = _from_yaml(yaml_path, known) if yaml_path is not None else {}
    given |= _named(host or {}, known, host_name)
    given |= _from_environment(os.environ if environment is None else environment, known)
    given |= _named(typed or {}, known, typed_name)
    values = {name: item.value for name, item in given.items()}
    model = _construct(ModelConfig, "model.", values, given)
    config = _construct(config_class, "", {**values, "model": model}, given)
    execution = _construct(ExecutionConfig, "execution.", values, given)
    return Resolved(config, execution, {name: given[name].source if name in given else "default" for name in known})


def setup_configuration(
    args: argparse.Namespace | Mapping[str, Any], yaml_path: str | Path | None = None
) -> TrainingConfig:
    """The training configuration from a YAML file, the environment and ``args`` (PtychoPINN chain, callchain 1.2).

    ``args`` holds what was typed; an entry that is None was not given. Unlike the reference, precedence is command line
    over environment over YAML over default, and unknown names are errors.
    """
    items = vars(args) if isinstance(args, argparse.Namespace) else args
    typed = {name: value for name, value in items.items() if value is not None and name not in _OTHER_FLAGS}
    typed = ported(typed, "argument", setting_names(TrainingConfig))
    return resolve_config(TrainingConfig, yaml_path, typed=typed).config


def load_yaml_config(path: str | Path) -> dict[str, Any]:
    """Read a YAML file that holds one mapping. Raises MissingFileError or, for anything else, ConfigurationError."""
    path = require_file(path, "configuration file")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # a SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"invalid YAML: {' '.join(str(error).split())}", file=path) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(file=path, found=f"a {type(content).__name__}", expected="lines of 'setting: value'")
    return content


def setting_names(config_class: type) -> list[str]:
    """All settings of a configuration of this class: ``model.N``, ``batch_size``, ``execution.devices`` and so on."""
    return [
        *(f"model.{field.name}" for field in dataclasses.fields(ModelConfig)),
        *(field.name for field in dataclasses.fields(config_class) if field.name != "model"),
        *(f"execution.{field.name}" for field in dataclasses.fields(ExecutionConfig)),
    ]


# A setting may be None exactly if that is its default; elsewhere "none" can be a value like any other.
_OPTIONAL = {
    prefix + field.name
    for prefix, cls in (
        ("model.", ModelConfig),
        ("", TrainingConfig),
        ("", InferenceConfig),
        ("execution.", ExecutionConfig),
    )
    for field in dataclasses.fields(cls)
    if field.default is None
}


def _from_yaml(path: str | Path, known: list[str]) -> dict[str, Given]:
    flat: dict[str, Any] = {}
    for name, value in load_yaml_config(path).items():
        if name in ("model", "execution"):
            if not isinstance(value, Mapping):
                raise ConfigurationError(file=path, field=name, found=repr(value), expected="a mapping of settings")
            flat |= {f"{name}.{key}": item for key, item in value.items()}
        elif name in SECTIONS and isinstance(value, Mapping):
            flat |= {str(key): item for key, item in value.items()}
        else:
            flat[str(name)] = value
    return _named(ported(flat, str(path), known), known, str(path))


def _from_environment(environment: Mapping[str, str], known: list[str]) -> dict[str, Given]:
    given: dict[str, Given] = {}
    of_any_class = {*setting_names(TrainingConfig), *setting_names(InferenceConfig)}
    for variable in sorted(environment):
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower().replace("__", ".")
        name = "N" if name == "n" else "model.N" if name == "model.n" else name
        setting = _find(name, [*known, *of_any_class])
        if setting is None:
            raise unknown_setting(variable, [_variable(item) for item in known], file="environment")
        if setting in given:
            raise ConfigurationError("the same setting is given twice", file="environment", field=setting)
        if setting in known:
            text: str | None = environment[variable]
            if setting in _OPTIONAL and text in ("none", "None", "null"):
                text = None
            given[setting] = Given(text, f"environment variable {variable}")
    return given


def _variable(setting: str) -> str:
    return PREFIX + setting.removeprefix("model.").replace(".", "__").upper()


def _named(values: Mapping[str, Any], known: list[str], source: str) -> dict[str, Given]:
    """``values`` under their full setting names."""
    given: dict[str, Given] = {}
    for name, value in values.items():
        setting = _find(name, known)
        if setting is None:
            raise unknown_setting(name, known, file=source)
        if setting in given:
            raise ConfigurationError("the same setting is given twice", file=source, field=setting)
        given[setting] = Given(value, source)
    return given


def _find(name: str, known: list[str]) -> str | None:
    return next((setting for setting in (name, f"model.{name}") if setting in known), None)


def _construct(cls: type[Any], section: str, values: Mapping[str, Any], given: Mapping[str, Given]) -> Any:
    names = [field.name for field in dataclasses.fields(cls)]
    try:
        return cls(**{name: values[section + name] for name in names if section + name in values})
    except ConfigurationError as error:
        source = given.get(f"{section}{error.field}")
        raise ConfigurationError(f"{section}{error}", file=source.source if source else None) from None


class _StrictLoader(yaml.SafeLoader):
    """Plain YAML in which a duplicate key in a mapping is an error."""


def _mapping_without_twins(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twins = [key for index, key in enumerate(keys) if key in keys[:index]]
    if twins:
        raise yaml.constructor.ConstructorError(None, None, f"the key {twins[0]!r} is given twice", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_twins)
