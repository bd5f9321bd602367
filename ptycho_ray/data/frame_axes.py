"""Which axes of an array count patterns, and which are the detector's: by the numbers, by what a user says, or by the light.

Axes are letters: n counts patterns, or r and c the rows and columns of a raster; y and x are the detector's rows and columns.
'nyx' and 'rcyx' are the usual order, 'yxn' what MATLAB programs write.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.mended import invalid_in
from ptycho_ray.errors import InputError

CLEARLY, AT_LEAST = 3.0, 0.25
"""Sums of the light along one axis vary so many times more than along the other, and by so much of their mean, if one of the
two counts patterns."""
MOST_SLICES = 64
SAMPLE_BYTES = 64 * 2**20
"""Of what is looked at to tell the axes, as float64."""


def read_axes(text: str, ndim: int) -> str:
    """The axes that a user names for an array of ``ndim`` axes. InputError unless each letter stands there once."""
    axes = text.strip().lower()
    if sorted(axes) not in (sorted("nyx"), sorted("rcyx")) or len(axes) != ndim:
        expected = (
            "n, y and x once each (nyx, yxn, nxy ...)" if ndim == 3 else "r, c, y and x once each (rcyx, yxrc ...)"
        )
        raise InputError(field="axes", found=repr(text), expected=f"{expected} for an array with {ndim} axes")
    return axes


def likely_axes(shape: tuple[int, ...], n: int | None, sample: Callable[[], NDArray]) -> tuple[str, str | None]:
    """Axes of an array of ``shape`` with three or four axes, of ``n`` patterns if that is known, and a line about them where
    the numbers alone do not decide. ``sample()`` reads (a part along the first axis of) the array."""
    if len(shape) == 4 and shape[3] == 1 and shape[0] == n:
        return "ryxc", None  # channels last
    if len(shape) == 4:
        first, last = "rcyx", "yxrc"
        fits = (n is None or shape[0] * shape[1] == n, n is None or shape[2] * shape[3] == n)
        ambiguous = all(fits)
    else:
        first, last = "nyx", "yxn"
        fits = (n is None or shape[0] == n, n is None or shape[2] == n)
        ambiguous = all(fits) and (n is not None or shape[0] == shape[1])
    if fits[0] != fits[1]:
        return (first if fits[0] else last), None
    if not any(fits):
        other = shape[0] == shape[1] and shape[1] != shape[2] and len(shape) == 3
        return (last if other else first), None
    if not ambiguous:
        return first, None
    told = axes_by_light(sample())
    if told is None and len(shape) == 4:
        return first, None  # the order of all formats that store a raster as one
    if told is None:
        return first, (
            f"patterns of shape {shape} may be stored as {first} or {last}, and their light does not tell which: read as "
            f"{first} (--axes {last} for the other)"
        )
    if told:
        return (
            last,
            f"patterns of shape {shape} are stored as {last}, as their light tells (--axes {first} for the other)",
        )
    return first, None


def axes_by_light(values: NDArray) -> bool | None:
    """Whether the last axis (the last two of four) counts patterns rather than the first; None if neither is clear.

    Patterns of a scan hold about the same light each; rows of a detector hold very different ones.
    """
    amounts = np.where(invalid_in(values), 0, values).astype(np.float64)
    amounts = np.sqrt(np.clip(amounts, 0, None))
    half = values.ndim // 2
    first = amounts.sum(axis=tuple(range(half, values.ndim)))
    last = amounts.sum(axis=tuple(range(values.ndim - half)))
    variation = [float(part.std() / part.mean()) if part.mean() > 0 else 0.0 for part in (first, last)]
    if max(variation) < max(CLEARLY * min(variation), AT_LEAST):
        return None
    return variation[1] < variation[0]


def arranged(values: NDArray, axes: str) -> NDArray:
    """An array with its patterns first, [n, rows, columns]."""
    order = "nyx" if "n" in axes else "rcyx"
    turned = np.transpose(values, [axes.index(letter) for letter in order])
    return turned if "n" in axes else turned.reshape(-1, *turned.shape[2:])


def sample_of(array: NDArray, most_bytes: int = SAMPLE_BYTES) -> NDArray:
    """The sample that ``likely_axes`` asks for, of an array or a dataset: parts of the first axis, and of a raster of the
    second, spread over it, that take at most so many bytes as float64 (or two slices)."""
    room = most_bytes // (8 * math.prod(array.shape[1:]))
    if array.ndim == 3 or room >= 8:
        return np.asarray(array[:: -(-array.shape[0] // max(2, min(MOST_SLICES, room)))])
    each = max(2, math.isqrt(most_bytes // (8 * math.prod(array.shape[2:]))))
    return np.asarray(array[:: -(-array.shape[0] // each), :: -(-array.shape[1] // each)])


def array_frames(
    values: NDArray, n: int | None, axes: str | None = None
) -> tuple[NDArray, tuple[int, int] | None, str | None]:
    """Frames [n, H, W] of an array with three or four axes, the raster of a scan stored as one, and a line about the axes."""
    if values.ndim == 4 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim not in (3, 4):
        raise InputError(field="frames", found=f"shape {values.shape}", expected="patterns (n, N, N)")
    note = None
    if axes is None:
        axes, note = likely_axes(values.shape, n, lambda: sample_of(values))
    else:
        axes = read_axes(axes, values.ndim)
    raster = None if "n" in axes else (values.shape[axes.index("r")], values.shape[axes.index("c")])
    return arranged(values, axes), raster, note
