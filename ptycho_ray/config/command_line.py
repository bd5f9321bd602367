"""The command line of a settings class, generated from its fields by tyro.

This module returns only what was typed; ``ptycho_ray.config.sources`` merges it with the YAML file, the environment and
the defaults. The help of an option is the docstring below its field.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import sys
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from ptycho_ray.config.execution import ExecutionConfig
from ptycho_ray.config.model import ModelConfig
from ptycho_ray.config.schema import docstrings_of_fields
from ptycho_ray.config.sources import setting_names
from ptycho_ray.config.training import TrainingConfig

T = TypeVar("T")

# The settings that --help shows; --help-all shows every one.
MOST_USED = frozenset(
    [
        *("N", "gridsize", "n_filters_scale", "architecture"),
        *("output_dir", "seed", "n_groups", "n_subsample", "neighbor_count", "nphotons", "validation_fraction"),
        *("batch_size", "nepochs", "nll_weight", "mae_weight", "probe_trainable"),
        *("accelerator", "precision", "learning_rate", "early_stop_patience", "inference_batch_size"),
        *("refinement.method", "refinement.iterations", "refinement.probe_modes", "refinement.position_start"),
    ]
)


@dataclass(frozen=True)
class Typed(Generic[T]):
    """A parsed command line: the command's own options, and the settings given on it, by setting name."""

    options: T
    settings: dict[str, Any]


def parse(
    options_class: type[T],
    argv: Sequence[str],
    *,
    prog: str,
    config_class: type[Any] | None = None,
    with_model: bool = True,
    with_execution: bool = True,
    only: Collection[str] | None = None,
    sections: Mapping[str, type[Any]] | None = None,
) -> Typed[T]:
    """Parse ``argv`` into ``options_class`` and, if there is a ``config_class``, into its settings (``only`` those of these
    names) and the execution settings.

    ``sections`` are further settings classes by name; theirs are typed and returned as ``name.setting``.
    A field of ``options_class`` that has the name of a setting stands for that setting, ``device`` for
    ``execution.accelerator``. As usual for a command line
    this leaves by SystemExit: code 0 after printing help, code 2 after a mistake, naming the nearest option that exists.
    """
    everything = "--help-all" in argv or not with_execution
    shown = MOST_USED if {"-h", "--help"} & {*argv} and not everything else None
    own = [field.name for field in dataclasses.fields(options_class)]  # type: ignore[arg-type]
    if config_class is not None and only is not None:
        others = [field.name for field in dataclasses.fields(config_class) if field.name not in only]
    else:
        others = []
    classes: dict[str, type] = {}
    prefixed = dict(sections or {})
    if config_class is not None:
        classes = {"model": ModelConfig} if with_model else {}
        classes |= {"settings": config_class}
        prefixed = ({"execution": ExecutionConfig} if with_execution else {}) | prefixed
    prefixes = {name: f"{name}." for name in prefixed}

    def without(section: str) -> Collection[str]:
        return () if section == "execution" else [*own, *others] if section == "settings" else own

    drafts: dict[str, Any] = {
        name: _draft(cls, without(name), shown, "" if name == "execution" else prefixes.get(name, ""))
        for name, cls in (classes | prefixed).items()
    }
    without_prefix = tyro.conf.configure(tyro.conf.OmitArgPrefixes)
    members: list[Any] = [
        (name, cls if name in prefixed else without_prefix(cls), dataclasses.field(default_factory=cls))
        for name, cls in drafts.items()
    ]
    command = dataclasses.make_dataclass(options_class.__name__, members, bases=(options_class,), kw_only=True)
    description = inspect.cleandoc(options_class.__doc__ or "")
    if drafts and with_execution:
        description += f"\n\n{'All settings are shown.' if everything else 'More settings: --help-all.'}"
    words = ["--help" if word == "--help-all" else word for word in argv]
    with_flags = [("", options_class), *((prefixes.get(name, ""), cls) for name, cls in drafts.items())]
    words = _one_word_flags(words, with_flags)
    options: Any = tyro.cli(command, args=words, prog=prog, description=description)

    named = {word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--")}
    settings = {}
    for section, cls in drafts.items():
        for field in dataclasses.fields(cls):
            prefix = prefixes.get(section, "")
            if {f"{prefix}{field.name}", f"{prefix}no_{field.name}"} & named:
                key = field.name if section == "settings" else f"{section}.{field.name}"
                settings[key] = getattr(getattr(options, section), field.name)
    if "execution" in drafts and getattr(options, "device", None) is not None:
        settings["execution.accelerator"] = options.device
    if config_class is not None:
        known = {field.name for field in dataclasses.fields(config_class)}
        for field in dataclasses.fields(options_class):  # type: ignore[arg-type]
            if field.name in known and getattr(options, field.name) != field.default:
                settings[field.name] = getattr(options, field.name)
    return Typed(options, settings)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The training settings given on the command line, one attribute each, None for the others (PtychoPINN chain,
    callchain 1.1).

    Together with its attribute ``config`` (a YAML file) it is what ``setup_configuration`` takes.
    """
    typed = parse(
        _ReferenceArguments, sys.argv[1:] if argv is None else argv, prog="ptycho-ray", config_class=TrainingConfig
    )
    values: dict[str, Any] = dict.fromkeys(name for name in setting_names(TrainingConfig))
    values |= typed.settings
    values |= {"config": typed.options.config, "do_stitching": typed.options.do_stitching}
    return argparse.Namespace(**{name.removeprefix("model."): value for name, value in values.items()})


@dataclass(kw_only=True)
class _ReferenceArguments:
    """Train a network and reconstruct a second scan with it."""

    config: Path | None = None
    """YAML file with settings."""
    do_stitching: bool = False
    """Reconstruct test_data_file after training."""


def _draft(cls: type[Any], without: Collection[str], shown: Collection[str] | None, prefix: str = "") -> type[Any]:
    """A plain dataclass for the parser, with the fields of ``cls``: unchecked, for other sources come in later. ``shown`` are
    names with their prefix."""
    hints = typing.get_type_hints(cls, include_extras=True)
    helps = docstrings_of_fields(cls)
    members: list[Any] = []
    for field in dataclasses.fields(cls):
        if field.name == "model" or field.name in without:
            continue
        kind: Any = hints[field.name]
        default = field.default
        if default is dataclasses.MISSING:  # may come from another source
            kind, default = kind | None, None
        kind = Annotated[
            kind, tyro.conf.arg(help=helps[field.name], metavar=_metavar(kind) if default is None else None)
        ]
        if shown is not None and f"{prefix}{field.name}" not in shown:
            kind = Annotated[kind, tyro.conf.Suppress]
        members.append((field.name, kind, dataclasses.field(default=default)))
    return dataclasses.make_dataclass(cls.__name__, members, namespace={"__doc__": cls.__doc__})


def _metavar(kind: Any) -> str:
    """INT for ``int | None``: that None can be typed too need not stand in every line of the help; the words of a choice."""
    for member in typing.get_args(kind):
        if typing.get_origin(member) is typing.Literal:
            return "{" + ",".join(typing.get_args(member)) + "}"
    text = str(kind)
    return next(name.upper() for name in ("int", "float", "path", "str") if name in text.lower())


def _one_word_flags(words: list[str], classes: Sequence[tuple[str, type]]) -> list[str]:
    """Turn ``--object-big False`` into ``--no-object-big``, the only form that the parser knows; True likewise."""
    flags = {
        prefix + name for prefix, cls in classes for name, kind in typing.get_type_hints(cls).items() if kind is bool
    }
    plain: list[str] = []
    for word in words:
        previous = plain[-1][2:].replace("-", "_") if plain and plain[-1].startswith("--") else ""
        if word.lower() in ("true", "false") and previous in flags:
            if word.lower() == "false":
                section, dot, name = plain[-1][2:].rpartition(".")
                plain[-1] = f"--{section}{dot}no-{name}"
        else:
            plain.append(word)
    return plain
