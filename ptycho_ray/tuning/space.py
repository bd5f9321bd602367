"""The search space of a sweep: a YAML file, checked against the types of the settings before anything starts.

    trial: direct                     # or refine, or train
    objective: likelihood             # or a list of them
    parameters:
      probe_defocus_m: {uniform: [-2e-4, 2e-4]}
      position_scale: {uniform: [0.95, 1.05]}
      model.gridsize: {choice: [1, 2]}
      neighbor_count: {integer: [4, 9], when: {model.gridsize: 2}}
      execution.learning_rate: {loguniform: [1e-4, 1e-2]}
    settings: {validation_fraction: 0.1}    # the same for all trials; the command line takes precedence
    points: [{probe_defocus_m: 1e-5}]       # tried first

Settings of the solver, of trials of the kind ``refine``, are named as ``refinement.thickness_angstrom``.

A parameter with ``when`` exists only if the other has one of the given values; otherwise the setting keeps its own value.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from pydantic import TypeAdapter, ValidationError

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.config.sources import load_yaml_config, setting_names
from ptycho_ray.config.types import did_you_mean, unknown_setting
from ptycho_ray.data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.tracking.objectives import OBJECTIVES

log = logging.getLogger(__name__)

DISTRIBUTIONS = ("choice", "uniform", "loguniform", "integer")
ENTRIES = ("trial", "objective", "search", "scheduler", "orient", "parameters", "settings", "points")
TRIALS = ("direct", "refine", "train")
SEARCHES = ("auto", "tpe", "gp", "random", "grid")
SCHEDULERS = ("auto", "asha", "median", "pbt", "none")
#: What changes a direct solution; all other settings concern the network and its training.
DIRECT_SETTINGS = frozenset(
    {
        *("probe_defocus_m", "probe_defocus_px2", "probe_modes", "nphotons", "object_pixel_size_m"),
        *("position_scale", "position_rotation_rad", "position_shear", "position_axes"),
        *("model.probe_mask", "model.probe_mask_diameter", "model.probe_mask_sigma"),
    }
)
#: What changes a refinement, which finds the probe itself.
REFINE_SETTINGS = frozenset(name for name in DIRECT_SETTINGS if not name.startswith(("model.", "nphotons")))
#: Settings of the solver begin with it; those that a trial sets itself.
REFINEMENT = "refinement."
OF_A_TRIAL = frozenset(
    {"iterations", "batch_size", "check_every", "patience", "held_out_fraction", "seed", "memory_GB"}
)
SOLVER_SETTINGS = tuple(
    REFINEMENT + field.name for field in dataclasses.fields(RefinementConfig) if field.name not in OF_A_TRIAL
)
#: What a population may change while it trains.
SCHEDULED_SETTINGS = frozenset({"execution.learning_rate"})
#: Settings that say where and how a run happens; to sweep over them means nothing.
NOT_SWEPT = frozenset(
    {
        *("model.N", "train_data_file", "test_data_file", "output_dir", "further_train_data_files", "backend"),
        *("execution.address", "execution.storage_path", "execution.logger_backend", "execution.devices"),
        *("nepochs", "validation_fraction", "seed", "subsample_seed", "n_subsample"),
    }
)

Values = dict[str, Any]
Kind = Literal["choice", "uniform", "loguniform", "integer"]


@dataclass(frozen=True)
class Parameter:
    """A setting and the values that it may take.

    Attributes:
        values: the choices, or lowest and highest value (both included).
        when: other settings and their values for which this parameter exists.
    """

    name: str
    kind: Kind
    values: tuple[Any, ...]
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def free(self) -> bool:
        """Whether there is more than one value."""
        return len(set(map(repr, self.values))) > 1

    def exists(self, others: Mapping[str, Any]) -> bool:
        """Whether it exists beside the values ``others`` of the parameters that it depends on."""
        return all(name in others and others[name] in allowed for name, allowed in self.when.items())

    @property
    def continuous(self) -> bool:
        """Whether it is a number in a range."""
        return self.kind in ("uniform", "loguniform") and self.free

    def share_of(self, value: float) -> float:
        """Where in its range a value lies, from 0 to 1; of a ``loguniform`` range by the logarithm."""
        low, high = self.values
        if self.kind == "loguniform":
            return math.log(value / low) / math.log(high / low)
        return float((value - low) / (high - low))

    def at_share(self, share: float) -> float:
        """The inverse of :meth:`share_of`; beyond 0 and 1 the range goes on."""
        low, high = self.values
        if self.kind == "loguniform":
            return float(low * (high / low) ** share)
        return float(low + (high - low) * share)

    def holds(self, value: Any) -> bool:
        """Whether ``value`` is one of its values."""
        if self.kind == "choice":
            return value in self.values
        return isinstance(value, int | float) and self.values[0] <= value <= self.values[1]


@dataclass(frozen=True)
class Space:
    """A search space, in an order in which a parameter comes after those that it depends on.

    ``orient``: the order and signs of the scan axes are determined first, and the same for all trials.
    """

    parameters: tuple[Parameter, ...]
    trial: str = "train"
    objectives: tuple[str, ...] = ("likelihood",)
    search: str = "auto"
    scheduler: str = "auto"
    settings: Mapping[str, Any] = field(default_factory=dict)
    points: tuple[Values, ...] = ()
    orient: bool = False

    @property
    def of_experiment(self) -> bool:
        """Whether trials solve for the object itself, and train no network."""
        return self.trial != "train"

    def grid(self) -> Iterator[Values]:
        """Every combination of the choices and of the integers."""
        yield from _grid(self.parameters, {})

    def to_dict(self) -> dict[str, Any]:
        """What identifies a sweep."""
        return {
            "trial": self.trial,
            "objective": list(self.objectives),
            "parameters": {
                p.name: {
                    p.kind: list(p.values),
                    **({"when": {n: list(v) for n, v in p.when.items()}} if p.when else {}),
                }
                for p in self.parameters
            },
            **({"orient": True} if self.orient else {}),
        }


def _grid(parameters: Sequence[Parameter], chosen: Values) -> Iterator[Values]:
    if not parameters:
        yield dict(chosen)
        return
    first, rest = parameters[0], parameters[1:]
    if not first.exists(chosen):
        yield from _grid(rest, chosen)
        return
    values = first.values if first.kind == "choice" else range(first.values[0], first.values[1] + 1)
    for value in values:
        yield from _grid(rest, {**chosen, first.name: value})


def load_space(path: str | Path) -> Space:
    """Read and check a search space.

    Raises:
        MissingFileError: there is no such file.
        ConfigurationError: an entry, a setting, a distribution or a value that is not possible, by name.
    """
    content = load_yaml_config(path)
    try:
        return space_from(content)
    except ConfigurationError as error:
        raise ConfigurationError(str(error), file=path) from None


def space_from(content: Mapping[str, Any]) -> Space:
    """A checked search space from the content of its file."""
    for name in content:
        if name not in ENTRIES:
            raise unknown_setting(str(name), ENTRIES)
    given = content.get("parameters") or {}
    if not isinstance(given, Mapping):
        raise ConfigurationError(field="parameters", found=repr(given), expected="'setting: {distribution: values}'")
    parameters = _in_order([_parameter(str(name), spec) for name, spec in given.items()])
    trial = _one_of("trial", content.get("trial", "train"), TRIALS)
    objectives = content.get("objective", "likelihood")
    space = Space(
        parameters,
        trial,
        tuple([objectives] if isinstance(objectives, str) else objectives),
        _one_of("search", content.get("search", "auto"), SEARCHES),
        _one_of("scheduler", content.get("scheduler", "auto"), SCHEDULERS),
        _checked_settings(content.get("settings") or {}),
        tuple(
            _point(parameters, point, f"points[{number}]") for number, point in enumerate(content.get("points") or ())
        ),
        _checked_value("orient", content.get("orient", False), bool),
    )
    check_space(space)
    return space


def suited_to(space: Space, scan: RawData) -> Space:
    """The space without the photon count, which is known for a file of counts.

    Raises:
        ConfigurationError: nothing else is free, or other parameters depend on it.
    """
    if not scan.counts_are_photons or all(parameter.name != "nphotons" for parameter in space.parameters):
        return space
    left = tuple(parameter for parameter in space.parameters if parameter.name != "nphotons")
    if not any(parameter.free for parameter in left) or any("nphotons" in parameter.when for parameter in left):
        raise ConfigurationError(
            f"{scan.source or 'the scan'} holds photon counts, so this setting has no effect",
            field="parameters.nphotons",
            found="a parameter",
            expected="a scan in other units",
        )
    log.warning("nphotons is left out of the sweep: %s holds photon counts", scan.source or "the scan")
    points = tuple({name: value for name, value in point.items() if name != "nphotons"} for point in space.points)
    return dataclasses.replace(space, parameters=left, points=points)


def refinement_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the solver among settings by name, under the names that :class:`RefinementConfig` has."""
    return {name.removeprefix(REFINEMENT): value for name, value in settings.items() if name.startswith(REFINEMENT)}


def without_refinement(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The others: those of :class:`TrainingConfig` and of its parts."""
    return {name: value for name, value in settings.items() if not name.startswith(REFINEMENT)}


def check_space(space: Space) -> None:
    """Check a space as a whole.

    Raises:
        ConfigurationError: nothing is free, a parameter has no effect on this kind of trial, an objective does not exist.
    """
    if not any(parameter.free for parameter in space.parameters):
        raise ConfigurationError(
            "the space has no free parameter", field="parameters", expected="one with more than one value"
        )
    for name in space.objectives:
        _one_of("objective", name, tuple(OBJECTIVES))
        if space.trial not in OBJECTIVES[name].trials:
            raise ConfigurationError(
                f"trials of the kind {space.trial!r} do not have it",
                field="objective",
                found=repr(name),
                expected=f"trial: {' or '.join(OBJECTIVES[name].trials)}",
            )
    if not space.objectives or len(set(space.objectives)) < len(space.objectives):
        raise ConfigurationError(field="objective", found=list(space.objectives), expected="one or more, each once")
    for parameter in space.parameters:
        of_solver = parameter.name.startswith(REFINEMENT)
        effective = {"direct": DIRECT_SETTINGS, "refine": REFINE_SETTINGS}.get(space.trial)
        if of_solver and space.trial != "refine":
            raise ConfigurationError(
                "a setting of the solver", field=f"parameters.{parameter.name}", expected="trial: refine"
            )
        if effective is not None and not of_solver and parameter.name not in effective:
            what = "a direct solution" if space.trial == "direct" else "a refinement"
            raise ConfigurationError(
                f"has no effect on {what}",
                field=f"parameters.{parameter.name}",
                expected=f"trial: train, or one of {', '.join(sorted(effective))}",
            )
        if space.search == "grid" and parameter.kind in ("uniform", "loguniform"):
            raise ConfigurationError(
                "a grid needs values",
                field=f"parameters.{parameter.name}",
                found=parameter.kind,
                expected="choice or integer",
            )
        if space.scheduler == "pbt" and (parameter.name not in SCHEDULED_SETTINGS or space.of_experiment):
            raise ConfigurationError(
                "cannot be changed while a network trains",
                field=f"parameters.{parameter.name}",
                expected=f"only {', '.join(sorted(SCHEDULED_SETTINGS))} with scheduler: pbt",
            )


def _checked_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the solver checked; the others are where they are resolved."""
    checked = dict(given)
    for name in [name for name in given if name.startswith(REFINEMENT)]:
        if name not in SOLVER_SETTINGS:
            raise unknown_setting(f"settings.{name}", SOLVER_SETTINGS)
        checked[name] = _checked_value(f"settings.{name}", given[name], _type_of(name))
    return checked


def _point(parameters: Sequence[Parameter], point: Any, place: str) -> Values:
    """A point of the space under the full names of its settings, its values checked and converted."""
    if not isinstance(point, Mapping):
        raise ConfigurationError(field=place, found=repr(point), expected="'setting: value' for some parameters")
    by_name = {parameter.name: parameter for parameter in parameters}
    values = {}
    for given_name, given in point.items():
        name = next((n for n in (str(given_name), f"model.{given_name}") if n in by_name), None)
        if name is None:
            raise unknown_setting(f"{place}.{given_name}", by_name)
        value = _checked_value(f"{place}.{given_name}", given, _type_of(name))
        if not by_name[name].holds(value):
            raise ConfigurationError(
                field=f"{place}.{given_name}",
                found=value,
                expected=f"{by_name[name].kind} {list(by_name[name].values)}",
            )
        values[name] = value
    return values


def _one_of(name: str, value: Any, allowed: Sequence[str]) -> str:
    if value not in allowed:
        raise ConfigurationError(
            field=name, found=repr(value), expected=", ".join(allowed), hint=did_you_mean(str(value), allowed)
        )
    return str(value)


# -- one parameter ----------------------------------------------------------------------------------------------------


def _parameter(given_name: str, spec: Any) -> Parameter:
    name, place = _setting(given_name), f"parameters.{given_name}"
    kinds = [key for key in spec if key in DISTRIBUTIONS] if isinstance(spec, Mapping) else []
    unknown = [key for key in spec if key not in (*DISTRIBUTIONS, "when")] if isinstance(spec, Mapping) else []
    if len(kinds) != 1 or unknown:
        raise ConfigurationError(
            field=place,
            found=unknown[0] if unknown else repr(spec),
            expected=f"one of {', '.join(DISTRIBUTIONS)}, and perhaps 'when'",
            hint=did_you_mean(str(unknown[0]), DISTRIBUTIONS) if unknown else None,
        )
    kind: Kind = kinds[0]
    values = spec[kind]
    if not isinstance(values, list) or not values or (kind != "choice" and len(values) != 2):
        raise ConfigurationError(
            field=place, found=f"{kind}: {values!r}", expected="a list of values" if kind == "choice" else "[low, high]"
        )
    hint = _type_of(name)
    _check_kind(place, kind, hint)
    checked = tuple(_checked_value(place, value, hint) for value in values)
    if kind != "choice":
        if kind == "integer":
            checked = tuple(int(value) for value in checked)
        if checked[0] > checked[1] or (kind == "loguniform" and checked[0] <= 0):
            expected = "two numbers above 0, the lower one first" if kind == "loguniform" else "the lower one first"
            raise ConfigurationError(field=place, found=f"{kind}: {values!r}", expected=expected)
    when = spec.get("when") or {}
    if not isinstance(when, Mapping):
        raise ConfigurationError(field=f"{place}.when", found=repr(when), expected="'setting: value or list of values'")
    conditions = {}
    for other, allowed in when.items():
        condition = _setting(str(other))
        listed = allowed if isinstance(allowed, list) else [allowed]
        conditions[condition] = tuple(_checked_value(f"{place}.when.{other}", v, _type_of(condition)) for v in listed)
    return Parameter(name, kind, checked, conditions)


def _setting(name: str) -> str:
    known = [*setting_names(TrainingConfig), *SOLVER_SETTINGS]
    found = next((setting for setting in (name, f"model.{name}") if setting in known), None)
    if found is None:
        raise unknown_setting(f"parameters.{name}", known) if "." not in name else _unknown_dotted(name, known)
    if found in NOT_SWEPT:
        raise ConfigurationError(
            "is the same for all trials",
            field=f"parameters.{name}",
            expected="under 'settings', or on the command line",
        )
    return found


def _unknown_dotted(name: str, known: Sequence[str]) -> ConfigurationError:
    near = did_you_mean(name, known) or did_you_mean(name.rpartition(".")[2], known)
    return ConfigurationError("unknown setting", field=f"parameters.{name}", hint=near)


def _type_of(setting: str) -> Any:
    section, _, name = setting.rpartition(".")
    sections = {"model": ModelConfig, "execution": ExecutionConfig, "refinement": RefinementConfig, "": TrainingConfig}
    cls = sections[section]
    return typing.get_type_hints(cls, include_extras=True)[name]


def _plain_types(hint: Any) -> set[Any]:
    """The types that a setting takes, without their checks and without None."""
    if typing.get_origin(hint) is Annotated:
        return _plain_types(typing.get_args(hint)[0])
    if typing.get_origin(hint) in (Union, types.UnionType):
        return set().union(*(_plain_types(part) for part in typing.get_args(hint))) - {type(None)}
    return {typing.get_origin(hint) or hint}


def _check_kind(place: str, kind: str, hint: Any) -> None:
    found = _plain_types(hint)
    if kind == "choice" or (kind == "integer" and int in found) or float in found:
        return
    words = {int: "an integer", bool: "true or false", Literal: "one of a few choices"}
    what = next((text for known, text in words.items() if known in found), "no number")
    expected = "integer or choice" if int in found else "choice"
    raise ConfigurationError(f"the setting is {what}", field=place, found=kind, expected=expected)


def check_value(name: str, value: Any) -> None:
    """Whether a setting may have this value; ConfigurationError if not."""
    _checked_value(name, value, _type_of(name))


def _checked_value(place: str, value: Any, hint: Any) -> Any:
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        expected = " or ".join(
            dict.fromkeys(
                str(item["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
                for item in error.errors(include_url=False)
            )
        )
        raise ConfigurationError(field=place, found=repr(value), expected=expected) from None


def _in_order(parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """Parameters after those that they depend on."""
    by_name = {parameter.name: parameter for parameter in parameters}
    for parameter in parameters:
        for other, allowed in parameter.when.items():
            place = f"parameters.{parameter.name}.when"
            if other not in by_name:
                raise ConfigurationError(field=place, found=other, expected="another parameter of this space")
            for value in allowed:
                if not by_name[other].holds(value):
                    raise ConfigurationError(
                        field=f"{place}.{other}", found=value, expected=f"one of {list(by_name[other].values)}"
                    )
    ordered: list[Parameter] = []
    for _ in parameters:
        done = {parameter.name for parameter in ordered}
        ordered += [p for p in parameters if p.name not in done and done.issuperset(p.when)]
    if len(ordered) < len(parameters):
        circle = next(p for p in parameters if p not in ordered)
        raise ConfigurationError(field=f"parameters.{circle.name}.when", found="a circle of conditions")
    return tuple(ordered)
