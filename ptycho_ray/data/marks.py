"""Which detector pixels are no measurement: found from the frames alone, whatever type the file stores them in.

Legend: k frames looked at, H and W the detector's rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_propagation, find_objects, label, median_filter

from ptycho_ray.data.mended import invalid_in

NEARLY_ALWAYS = 0.9
"""A value that a pixel holds in this part of the frames is a mark of it and no measurement."""
CEILINGS = (2**8 - 1, 2**15 - 1, 2**16 - 2, 2**16 - 1)
"""Marks that are also the largest number a short type holds: the same pixels in every frame, or saturation."""
OUTSTANDING = 20.0
"""A value that pixels share to the last digit in every frame, this many times above the others, is a mark, whichever it is."""
CERTAIN, FEWEST_FRAMES = 1000.0, 8
"""The largest value of all, in the same pixels of so many frames: counts of this size vary."""
FEWEST_SATURATED = 3
"""So many values at the top of a range are no chance."""
BROKEN = 0.25
"""A frame of which this part is no measurement, although the pixels are good in others, is left out."""


@dataclass
class Marks:
    """What is wrong with the values of frames.

    bad          pixels that are no measurement, bool [H, W]
    rules        for each rule that found some, in words, how many pixels
    broken       frames that are no measurement, of those looked at, bool [k]
    negative     part of the values that is negative without being a mark, and the lowest of them
    saturated    the value at which pixels saturate, in how many pixels and how many frames; None if they do not
    """

    bad: NDArray[np.bool_]
    rules: dict[str, int] = field(default_factory=dict)
    broken: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    negative: float = 0.0
    lowest: float = 0.0
    saturated: tuple[float, int, int] | None = None


def find_marks(frames: NDArray) -> Marks:
    """Bad pixels, broken frames, negative noise and saturation of frames [k, H, W] of any real type."""
    invalid = invalid_in(frames)
    always = invalid.mean(axis=0) >= NEARLY_ALWAYS
    broken = (invalid & ~always).mean(axis=(1, 2)) > BROKEN
    measured = ~broken & np.asarray((frames != 0).any(axis=(1, 2)))  # no mark is in a frame that was never taken
    good_frames = frames[measured] if measured.any() else frames
    seen = invalid[measured] if measured.any() else invalid
    found = Marks(np.zeros(frames.shape[1:], bool), broken=broken)
    ever: NDArray[np.bool_] = np.asarray(seen.any(axis=0))
    _note(found, ever, _name_of(good_frames, ever, seen))
    negative = frames.dtype.kind in "if" and not good_frames.min(initial=0) >= 0  # NaN is not
    if len(good_frames) > 1:
        if negative:
            for value in (-1, -2):
                _note(found, (good_frames == value).mean(axis=0) >= NEARLY_ALWAYS, f"the mark {value}")
            _always_negative(found, good_frames)
        _ceilings(found, good_frames)
        _outstanding(found, good_frames)
    if negative and not found.bad.all():
        rest = good_frames[:, ~found.bad]
        with np.errstate(invalid="ignore"):
            below = rest < 0
        found.negative, found.lowest = float(below.mean()), float(rest[below].min(initial=0))
    return found


def _note(found: Marks, pixels: NDArray[np.bool_], rule: str) -> None:
    fresh = pixels & ~found.bad
    if fresh.any():
        found.rules[rule] = found.rules.get(rule, 0) + int(fresh.sum())
        found.bad |= fresh


def _name_of(frames: NDArray, pixels: NDArray[np.bool_], seen: NDArray[np.bool_]) -> str:
    values = frames[seen] if pixels.any() else frames[:0].ravel()
    if not values.size:
        return ""
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        others = "" if not np.isfinite(values).any() else ", or the largest number of a type"
        return f"values that are not finite{others}"
    return f"the mark {values.max():.10g}"


def _always_negative(found: Marks, frames: NDArray) -> None:
    """Pixels that are negative in nearly every frame and share their value in each: a mark that was divided by a monitor."""
    with np.errstate(invalid="ignore"):
        below = np.asarray((frames < 0).mean(axis=0) >= NEARLY_ALWAYS) & ~found.bad
    held = frames[:, below]
    if held.shape[1] > 1 and (np.ptp(held, axis=1) <= 1e-6 * np.abs(held).max(axis=1)).mean() >= NEARLY_ALWAYS:
        _note(found, below, f"the mark {float(np.median(held)):.4g}")


def _ceilings(found: Marks, frames: NDArray) -> None:
    """The largest number of a short type, in its own or in another: a mark where it stands in the same pixels nearly always
    (counts of that size vary), with what lies around them grown to the connected area; else saturation."""
    good = frames[:, ~found.bad] if found.bad.any() else frames
    if not good.size or not np.isfinite(good).any():
        return
    top = float(np.nanmax(good))
    first = frames[: len(frames) - math.ceil(NEARLY_ALWAYS * len(frames)) + 1]  # a mark stands in one of so many frames
    values = [*CEILINGS, *(value**0.5 for value in CEILINGS if frames.dtype.kind == "f")]
    for value in sorted((value for value in values if value <= top * (1 + 2e-7)), reverse=True):
        is_top = abs(top - value) <= 2e-7 * value
        if not is_top and not _equal(first, value).any():
            continue
        held = _equal(frames, value)
        often = np.asarray(held.mean(axis=0))
        marks = (often >= NEARLY_ALWAYS) & ~found.bad
        if marks.any() and _is_beam(marks, frames, value):
            _note(found, marks, f"{value:.6g} in every frame (saturated)")
        elif marks.any():
            _note(found, binary_propagation(marks, mask=often >= 0.5), f"the mark {value:.6g}")
        left = held & ~found.bad
        if is_top and left.sum() >= FEWEST_SATURATED:
            found.saturated = (top, int(left.any(axis=0).sum()), int(left.any(axis=(1, 2)).sum()))


def _equal(frames: NDArray, value: float) -> NDArray[np.bool_]:
    if frames.dtype.kind != "f":
        return np.asarray(frames == value)
    return np.asarray(np.abs(frames - frames.dtype.type(value)) <= 2e-7 * value)


def _is_beam(marks: NDArray[np.bool_], frames: NDArray, top: float) -> bool:
    """Whether pixels at the top of the range lie where the light is: their neighbours are bright too."""
    rim = binary_dilation(marks, iterations=1) & ~marks
    return bool(rim.any() and np.median(frames[:, rim]) > 0.2 * top)


def _outstanding(found: Marks, frames: NDArray) -> None:
    """A value far above all others that the same pixels share in nearly every frame: a mark divided by a gain or a monitor,
    or summed by binning."""
    values = np.where(found.bad, 0, frames) if found.bad.any() else frames
    if frames.dtype.kind == "f" and not np.isfinite(values.sum()):
        values = np.where(np.isfinite(values), values, 0)
    largest = float(values.max())
    if len(values) >= FEWEST_FRAMES and largest >= CERTAIN:
        same = np.asarray((values == largest).mean(axis=0) >= NEARLY_ALWAYS)
        if same.sum() > 1 and not _is_beam(same, values, largest):
            _note(found, same, f"the mark {largest:.6g}")
            values = np.where(same, 0, values)
    top = values.max(axis=(1, 2), keepdims=True)
    least = 0.2 * top if frames.dtype.kind == "f" else np.ceil(0.2 * top)
    often = np.sum((values >= least.astype(values.dtype)) & (top > 0), axis=0) >= NEARLY_ALWAYS * len(frames)
    if not often.any() or often.sum() > 0.5 * often.size:
        return
    held = values[:, often].astype(np.float64)
    shared = np.ptp(held, axis=1) <= 1e-6 * held.max(axis=1)
    constant = np.ptp(held, axis=0) <= 1e-6 * held.max(axis=0)
    steady = (held.shape[1] > 1 and shared.mean() >= NEARLY_ALWAYS) or constant.mean() >= NEARLY_ALWAYS
    if not steady:
        return
    usual = float(np.quantile(values[:, ~often], 0.999))
    if usual > 0 and np.median(held.min(axis=1)) > OUTSTANDING * usual:
        name = f"the mark {float(np.median(held)):.6g}"
        _note(found, often, name)
        # Edges of a gap that was interpolated or binned hold a part of the mark.
        edge = (values > OUTSTANDING * usual).any(axis=0)
        _note(found, binary_propagation(often, mask=edge | often), name)


def dead_pixels(frames: NDArray, *, expected: float = 10.0) -> NDArray[np.bool_]:
    """Pixels [H, W] that are zero in all frames [n, H, W] although at least ``expected`` counts were seen around them: single
    ones, areas that light surrounds, and gaps between modules, which run across the detector between lines with light."""
    total = frames.sum(axis=0, dtype=np.float64)
    zero = total == 0
    dead: NDArray[np.bool_] = zero & (median_filter(total, size=3, mode="nearest") >= expected)
    areas, _ = label(zero)
    sizes, places = np.bincount(areas.ravel()), find_objects(areas)
    for number in np.unique(areas[zero & binary_dilation(total >= expected)]):
        if not 1 < sizes[number] <= 0.25 * zero.size:
            continue
        window = tuple(slice(max(part.start - 1, 0), part.stop + 1) for part in places[number - 1])
        area = areas[window] == number
        if np.quantile(total[window][binary_dilation(area) & ~area], 0.25) >= expected:
            dead[window] |= area
    for axis in (0, 1):
        lines = total.sum(axis=1 - axis)
        lit = np.flatnonzero(lines >= expected * total.shape[1 - axis])
        between = np.zeros(len(lines), bool)
        if len(lit) > 1:
            between[lit[0] : lit[-1]] = True
        gap = (lines == 0) & between
        dead |= gap[:, None] if axis == 0 else gap[None, :]
    return dead
