"""The settings that a Ptychodus user sees, in the group ``PtychoRay`` of ``settings.ini``.

Every other setting can be given in a YAML file, as everywhere in ptycho_ray (``ConfigFile``).
"""

from __future__ import annotations

import configparser
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ptycho_ray.errors import ConfigurationError

SETTINGS_FILE, GROUP = "settings.ini", "PtychoRay"
#: Entries that are no settings: a YAML file with more settings, and the program that our library runs, if it is not the
#: ``ptycho-ray`` of Ptychodus' own Python.
CONFIG_FILE, COMMAND = "host.config_file", "host.command"
#: Settings of the solver, ``probe_modes=2 position_start=3``: those of the automatic reconstruction that are not decided.
SOLVER = "host.solver"
#: Epochs between two images on the way, product.NNNNNN.h5.
CHECKPOINT_INTERVAL = 10
RECORD_IMAGES = "execution.recon_log_every_n_epochs"
Kind = Literal["integer", "real", "boolean", "text"]


@dataclass(frozen=True)
class Option:
    """One entry: its key in the INI file, the setting of ptycho_ray it stands for, and what it may be.

    The default is that of ptycho_ray, and an entry equal to it is ignored; ``unset`` stands for no value.
    """

    key: str
    setting: str
    kind: Kind
    default: int | float | bool | str
    minimum: int | float | None = None
    maximum: int | float | None = None
    unset: int | float | str | None = None


OPTIONS = (
    Option("Epochs", "nepochs", "integer", 50, 1, 100_000),
    Option("BatchSize", "batch_size", "integer", 16, 1, 65_536),
    Option("LearningRate", "execution.learning_rate", "real", 1e-3, 1e-9, 10.0),
    Option("FiltersScale", "model.n_filters_scale", "integer", 2, 1, 64),
    Option("GridSize", "model.gridsize", "integer", 1, 1, 4),
    Option("ProbeTrainable", "probe_trainable", "boolean", False),
    Option("ValidationFraction", "validation_fraction", "real", 0.05, 0.0, 0.5),
    Option("Seed", "seed", "integer", 0, 0, 2**31 - 1),
    Option("Groups", "n_groups", "integer", 0, 0, 2**31 - 1, unset=0),
    Option("CheckpointInterval", RECORD_IMAGES, "integer", CHECKPOINT_INTERVAL, 0, 100_000, unset=0),
    Option("Workers", "execution.devices", "text", "", unset=""),
    Option("RayAddress", "execution.address", "text", "", unset=""),
    Option("Solver", SOLVER, "text", "", unset=""),
    Option("ConfigFile", CONFIG_FILE, "text", "", unset=""),
    Option("Command", COMMAND, "text", "", unset=""),
)


def read_ini(path: Path) -> dict[str, Any]:
    """The values of our group in a settings file by our setting's name, and CONFIG_FILE and COMMAND.

    Other groups and the case of letters are ignored, a missing file has no values.

    Raises:
        ConfigurationError: an unknown key, or a value of another kind, in our group.
    """
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise ConfigurationError(file=path, found=str(error), expected="an INI file") from None
    section = next((parser[name] for name in parser.sections() if name.casefold() == GROUP.casefold()), None)
    return {} if section is None else chosen(dict(section), str(path))


def chosen(texts: Mapping[str, str], source: str) -> dict[str, Any]:
    """Settings by name from the texts of an INI group."""
    known = {option.key.casefold(): option for option in OPTIONS}
    values: dict[str, Any] = {}
    for key, text in texts.items():
        option = known.get(key.casefold())
        if option is None:
            raise ConfigurationError(
                file=source,
                field=f"[{GROUP}] {key}",
                found="an unknown entry",
                expected=", ".join(option.key for option in OPTIONS),
            )
        value = _value(option, text.strip(), source)
        if value != option.default:
            values[option.setting] = None if value == option.unset else value
    return values


def _value(option: Option, text: str, source: str) -> int | float | bool | str:
    try:
        if option.kind == "integer":
            return int(text)
        if option.kind == "real":
            return float(text)
        if option.kind == "boolean":
            return configparser.ConfigParser.BOOLEAN_STATES[text.lower()]
    except (ValueError, KeyError):
        raise ConfigurationError(
            file=source, field=f"[{GROUP}] {option.key}", found=repr(text), expected=f"a value of kind {option.kind}"
        ) from None
    return text


def solver_settings(text: str | None) -> dict[str, str | None]:
    """The settings of the solver in the entry ``Solver``; the word "none" is None.

    Raises:
        ConfigurationError: it is not a list of NAME=VALUE.
    """
    settings: dict[str, str | None] = {}
    for word in (text or "").replace(",", " ").split():
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise ConfigurationError(
                field=f"[{GROUP}] Solver", found=repr(word), expected="NAME=VALUE, as in probe_modes=2"
            )
        settings[name] = None if value.lower() == "none" else value
    return settings
