"""One parameter of a sweep: a setting and the values that it may take, checked against the type of the setting."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union

from pydantic import TypeAdapter, ValidationError

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.config.sources import setting_names
from ptycho_ray.config.types import did_you_mean, unknown_setting
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.refinement.config import RefinementConfig

DISTRIBUTIONS = ("choice", "uniform", "loguniform", "integer")
#: Settings of the solver begin with it; those that a trial sets itself.
REFINEMENT = "refinement."
OF_A_TRIAL = frozenset(
    {"iterations", "batch_size", "check_every", "patience", "held_out_fraction", "seed", "memory_GB"}
)
SOLVER_SETTINGS = tuple(
    REFINEMENT + field.name for field in dataclasses.fields(RefinementConfig) if field.name not in OF_A_TRIAL
)
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


def parameter_from(given_name: str, spec: Any) -> Parameter:
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
    hint = type_of(name)
    _check_kind(place, kind, hint)
    checked = tuple(checked_value(place, value, hint) for value in values)
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
        conditions[condition] = tuple(checked_value(f"{place}.when.{other}", v, type_of(condition)) for v in listed)
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


def type_of(setting: str) -> Any:
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
    checked_value(name, value, type_of(name))


def checked_value(place: str, value: Any, hint: Any) -> Any:
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
