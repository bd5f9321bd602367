"""What a settings class is made of: a validating dataclass decorator, and number types that know their range."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import BeforeValidator, ValidationError, WrapValidator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from ptycho_ray.errors import ConfigurationError

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make ``cls`` a frozen dataclass that checks (and converts, "1e9" to a float) its values on construction.

    Every failure is a ConfigurationError that names the field, the value and what is allowed; so is an unknown keyword, unless
    the class has it in ``WITHOUT_MEANING``, with the reason that a warning gives.
    ``dataclasses.replace``, ``asdict`` and ``fields`` work as usual, and ``replace`` checks again.
    """
    made: Any = pydantic_dataclass(frozen=True)(cls)
    construct = made.__init__
    names = [field.name for field in dataclasses.fields(made)]

    @functools.wraps(construct)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        for name in list(kwargs):
            if name in names:
                continue
            if name not in getattr(cls, "WITHOUT_MEANING", {}):
                raise unknown_setting(name, names)
            warnings.warn(f"{name} has no meaning here: {made.WITHOUT_MEANING[name]}", stacklevel=2)
            del kwargs[name]
        try:
            construct(self, *args, **kwargs)
        except ValidationError as error:
            raise _in_our_words(error) from None

    made.__init__ = init
    return made


def unknown_setting(name: str, known: Iterable[str], file: str | Path | None = None) -> ConfigurationError:
    """The error for an unknown setting, with the nearest known one."""
    return ConfigurationError("unknown setting", file=file, field=name, hint=did_you_mean(name, known))


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A question that names the known setting nearest to ``name``; None if nothing is near.

    A dotted setting such as ``execution.learning_rate`` is also found by its last part.
    """
    by_text: dict[str, str] = {}
    for setting in known:
        by_text[setting.lower()] = setting
        by_text.setdefault(setting.rpartition(".")[2].lower(), setting)
    text = name.lower().replace("-", "_")
    near = difflib.get_close_matches(text, by_text, n=1)
    return f"Did you mean {by_text[near[0]]!r}?" if near else None


def _in_our_words(error: ValidationError) -> ConfigurationError:
    by_field: dict[str, list[Any]] = {}
    for item in error.errors(include_url=False):
        raised = item.get("ctx", {}).get("error")
        if isinstance(raised, ConfigurationError):  # a check across fields has found the words already
            return raised
        by_field.setdefault(str(item["loc"][0]), []).append(item)
    complaints = [
        # A field that is a union complains once for each of its members.
        (field, _found(items[0]), " or ".join(dict.fromkeys(_expected(item) for item in items)))
        for field, items in by_field.items()
    ]
    field, found, expected = complaints[0]
    others = "; ".join(f"{name}: found {value}, expected {allowed}" for name, value, allowed in complaints[1:])
    return ConfigurationError(field=field, found=found, expected=expected, hint=f"Also {others}" if others else None)


def _found(item: Any) -> str:
    return "nothing" if item["type"] == "missing" else repr(item["input"])


def _expected(item: Any) -> str:
    if item["type"] == "missing":
        return "a value; it has no default"
    if item["type"].startswith("bool"):
        return "true or false"
    if item["type"].startswith("path"):
        return "a path"
    return str(item["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")


def allowed(is_allowed: Callable[[Any], bool], text: str) -> WrapValidator:
    """A check for a number: anything that is not a number, is a truth value or lies outside the range gives the same
    ``text``."""

    def check(value: Any, convert: Callable[[Any], Any]) -> Any:
        try:
            number = convert(value)
        except ValidationError:
            raise ValueError(text) from None
        if isinstance(value, bool) or not is_allowed(number):
            raise ValueError(text)
        return number

    return WrapValidator(check)


PositiveInt = Annotated[int, allowed(lambda n: n >= 1, "an integer of at least 1")]
NonNegativeInt = Annotated[int, allowed(lambda n: n >= 0, "an integer of at least 0")]
PowerOfTwo = Annotated[int, allowed(lambda n: n >= 1 and n & (n - 1) == 0, "a power of two (1, 2, 4, 8, 16, ...)")]
PatternSide = Annotated[int, allowed(lambda n: n >= 32 and n % 8 == 0, "a multiple of 8, at least 32")]
FiniteFloat = Annotated[float, allowed(math.isfinite, "a finite number")]
PositiveFloat = Annotated[float, allowed(lambda x: 0 < x < math.inf, "a number above 0")]
NonNegativeFloat = Annotated[float, allowed(lambda x: 0 <= x < math.inf, "a number of at least 0")]
Fraction = Annotated[float, allowed(lambda x: 0 <= x <= 1, "a number from 0 to 1")]
ValidationShare = Annotated[float, allowed(lambda x: 0 <= x <= 0.5, "a number from 0 to 0.5")]
DownsamplingSteps = Annotated[int, allowed(lambda n: n in (1, 2), "1 or 2")]
DeviceCount = Annotated[
    int | Literal["auto"], allowed(lambda n: n == "auto" or n >= 1, "an integer of at least 1, or 'auto'")
]


def device_name(value: Any) -> Any:
    """Refuse what is no device, and 'tpu' with a message of its own, since other frameworks allow it."""
    names = "'auto', 'cpu', 'gpu', 'cuda', 'cuda:1' or 'mps'"
    if value == "tpu":
        raise ValueError(f"{names}; a TPU is not supported")
    if not isinstance(value, str) or not re.fullmatch(r"auto|cpu|gpu|mps|cuda(:\d+)?", value):
        raise ValueError(names)
    return value


Accelerator = Annotated[str, BeforeValidator(device_name)]
GpuShare = Annotated[float, allowed(lambda x: 0 < x <= 1, "a number above 0 and at most 1")]


def split_list(value: Any) -> Any:
    """Accept "1,2,3" from an environment variable where a list of numbers is expected."""
    return value.replace(",", " ").split() if isinstance(value, str) else value
