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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptycho_ray.config.sources import load_yaml_config
from ptycho_ray.config.types import did_you_mean, unknown_setting
from ptycho_ray.data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.tracking.objectives import OBJECTIVES
from ptycho_ray.tuning.parameter import (
    REFINEMENT,
    SOLVER_SETTINGS,
    Parameter,
    Values,
    checked_value,
    parameter_from,
    type_of,
)

log = logging.getLogger(__name__)

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
#: What a population may change while it trains.
SCHEDULED_SETTINGS = frozenset({"execution.learning_rate"})


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
    parameters = _in_order([parameter_from(str(name), spec) for name, spec in given.items()])
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
        checked_value("orient", content.get("orient", False), bool),
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
        checked[name] = checked_value(f"settings.{name}", given[name], type_of(name))
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
        value = checked_value(f"{place}.{given_name}", given, type_of(name))
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
