"""The command line of a settings class, generated from its fields by tyro.

This module returns only what was typed; ``ptycho_ray.config.sources`` merges it with the YAML file, the environment and
the defaults. The help of an option is the docstring below its field (``help_page.py``).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro

from ptycho_ray.config.execution import ExecutionConfig
from ptycho_ray.config.extensions import names as extension_names
from ptycho_ray.config.help_page import groups_of, metavar, write_help
from ptycho_ray.config.model import OUR_NETWORKS, ModelConfig
from ptycho_ray.config.porting import OTHER_NAMES
from ptycho_ray.config.schema import docstrings_of_fields
from ptycho_ray.config.sources import setting_names
from ptycho_ray.config.training import TrainingConfig

T = TypeVar("T")

#: A run has one of these, whatever section has it, too: where a command has the option, that is the only one.
ONE_OF_A_RUN = {"seed"}

#: The settings that --help shows, by the name of their class; --help-all shows every one.
MOST_USED: dict[str, tuple[str, ...]] = {
    "ModelConfig": ("architecture", "gridsize", "n_filters_scale"),
    "TrainingConfig": (*("output_dir", "seed", "nepochs", "batch_size", "n_groups", "nphotons", "probe_trainable"),),
    "InferenceConfig": ("model_path", "output_dir", "n_groups", "n_subsample"),
    "PretrainingConfig": ("output_dir", "seed", "nepochs", "photons", "N"),
    "ExecutionConfig": ("learning_rate", "precision"),
    "RefinementConfig": ("method", "iterations", "probe_modes", "position_start", "seed"),
    "SimulationSpec": ("N", "object", "object_size", "n_patterns", "step_px", "photons", "probe", "scan", "seed"),
    "ElectronSpec": (
        "specimen",
        "thickness_angstrom",
        "dose_e_per_A2",
        "defocus_nm",
        "voltage_kV",
        "N",
        "raster",
        "seed",
    ),
}


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
    A field of ``options_class`` that has the name of a setting without a section stands for that setting, ``device`` for
    ``execution.accelerator``. As usual for a command line this leaves by SystemExit: code 0 after printing help, code 2 after a
    mistake, naming the nearest option that exists.
    """
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
        if section in prefixed:
            return ONE_OF_A_RUN & {*own}
        return [*own, *others] if section == "settings" else own

    if {"-h", "--help", "--help-all"} & {*argv}:
        of_training = config_class is None or "nepochs" in config_class.__dataclass_fields__
        often = {name: most for name, most in MOST_USED.items() if of_training or name != ExecutionConfig.__name__}
        groups = groups_of(options_class, classes | prefixed, prefixes, without, often)
        print(write_help(options_class, groups, prog=prog, fully="--help-all" in argv))
        raise SystemExit(0)
    drafts: dict[str, Any] = {name: _draft(cls, without(name)) for name, cls in (classes | prefixed).items()}
    without_prefix = tyro.conf.configure(tyro.conf.OmitArgPrefixes)
    members: list[Any] = [
        (name, cls if name in prefixed else without_prefix(cls), dataclasses.field(default_factory=cls))
        for name, cls in drafts.items()
    ]
    command = dataclasses.make_dataclass(options_class.__name__, members, bases=(options_class,), kw_only=True)
    with_flags = [("", options_class), *((prefixes.get(name, ""), cls) for name, cls in drafts.items())]
    words = _one_word_flags(list(argv), with_flags)
    if config_class is not None:
        _refuse_other_names(words, prog, setting_names(config_class))
    options: Any = tyro.cli(command, args=words, prog=prog)

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


def _refuse_other_names(words: Sequence[str], prog: str, known: Collection[str]) -> None:
    """Leave by SystemExit for an option by which PtychoPINN calls a setting of ours."""
    for word in words:
        typed = word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else ""
        ours = OTHER_NAMES.get(typed)
        if ours is not None and ours in known and typed not in known:
            right = ours.replace("_", "-")
            print(f"{prog}: there is no option {word.partition('=')[0]}; did you mean --{right}?", file=sys.stderr)
            raise SystemExit(2)


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


def _draft(cls: type[Any], without: Collection[str]) -> type[Any]:
    """A plain dataclass for the parser, with the fields of ``cls``: unchecked, for other sources come in later."""
    hints = typing.get_type_hints(cls, include_extras=True)
    helps = docstrings_of_fields(cls)
    members: list[Any] = []
    for field in dataclasses.fields(cls):
        if field.name == "model" or field.name in without:
            continue
        kind: Any = hints[field.name]
        default = field.default
        if field.name == "architecture":
            kind = typing.Literal[(*OUR_NETWORKS, *extension_names("network"))]
        if default is dataclasses.MISSING:  # may come from another source
            kind, default = kind | None, None
        kind = Annotated[
            kind, tyro.conf.arg(help=helps[field.name], metavar=metavar(kind) if default is None else None)
        ]
        members.append((field.name, kind, dataclasses.field(default=default)))
    return dataclasses.make_dataclass(cls.__name__, members, namespace={"__doc__": cls.__doc__})


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
