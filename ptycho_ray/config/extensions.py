"""What other packages add without a fork: networks, likelihoods, formats and live sources, by name.

A package names them in its metadata, and every process of ours finds them there (``docs/extending.md``)::

    [project.entry-points."ptycho_ray.networks"]
    small = "their_package:small_network"

What is registered in a program (``register``) is known in that program only, not to workers on a cluster. Names cost nothing to
ask for; a package is imported when what it adds is used.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from ptycho_ray.config.types import did_you_mean
from ptycho_ray.errors import ConfigurationError

Kind = Literal["network", "likelihood", "format", "source"]
KINDS: tuple[Kind, ...] = ("network", "likelihood", "format", "source")
#: What was registered in this process.
_REGISTERED: dict[Kind, dict[str, Any]] = {kind: {} for kind in KINDS}


def register(kind: Kind, name: str, thing: Any, *, taken: tuple[str, ...] = ()) -> None:
    """Make ``thing`` known under ``name`` in this process; an earlier one of that name is replaced.

    Raises:
        ConfigurationError: ``name`` is no word, or one of ours (``taken``).
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*", name):
        raise ConfigurationError(field="name", found=repr(name), expected="a word of letters, digits and underscores")
    if name in taken:
        raise ConfigurationError(field="name", found=f"{name!r}, a {kind} of ptycho_ray", expected="another name")
    if not callable(thing) and kind != "format":
        raise ConfigurationError(field=kind, found=type(thing).__name__, expected="a function")
    _REGISTERED[kind][name] = thing


def names(kind: Kind) -> tuple[str, ...]:
    """What is known beside our own; nothing is imported."""
    return tuple(dict.fromkeys([*_REGISTERED[kind], *_entry_points(kind)]))


def find(kind: Kind, name: str) -> Any:
    """What is called ``name``, imported now if a package names it.

    Raises:
        ConfigurationError: there is none, with the nearest name; or its package cannot be imported.
    """
    if name in _REGISTERED[kind]:
        return _REGISTERED[kind][name]
    point = _entry_points(kind).get(name)
    if point is None:
        raise unknown(kind, name, names(kind))
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        package = point.dist.name if point.dist else point.value
        raise ConfigurationError(
            field=kind,
            found=f"{name!r} of {package}, which cannot be imported ({error})",
            expected="that package complete",
        ) from error


def unknown(kind: Kind, name: object, known: tuple[str, ...]) -> ConfigurationError:
    """The error for a name that nobody has."""
    return ConfigurationError(
        field=kind,
        found=repr(name),
        expected=f"one of {', '.join(known) or 'none'}",
        hint=did_you_mean(str(name), known)
        or f"If it is one of yours: ptycho_ray.register_{kind}({str(name)!r}, ...) first",
    )


def one_of(kind: Kind, ours: tuple[str, ...]) -> Callable[[Any], Any]:
    """A check for a setting that names a ``kind``: one of ours or one that is known besides."""

    def check(value: Any) -> Any:
        known = (*ours, *names(kind))
        if value not in known:
            error = unknown(kind, value, known)
            raise ValueError(f"{error.expected}{'. ' + error.hint if error.hint else ''}")
        return value

    return check


@functools.cache
def _entry_points(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"ptycho_ray.{kind}s")}
