"""Which detector pixels are no measurement: found from the frames alone, whatever type the file stores them in.

Legend: k frames looked at, H and W the detector's rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_propagation

from ptycho_ray.data.mended import invalid_in

NEARLY_ALWAYS = 0.9
"""A value that a pixel holds in this part of the frames is a mark of it and no measurement."""
CEILINGS = (2**8 - 1, 2**16 - 2, 2**16 - 1)
"""Marks that are also the largest number a short type holds: the same pixels in every frame, or saturation."""
OUTSTANDING = 1000.0
"""A value that many pixels share in every frame and that is this much above all others is a mark, whichever it is."""
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
    good_frames = frames[~broken] if (~broken).any() else frames
    seen = invalid[~broken] if (~broken).any() else invalid
    found = Marks(np.zeros(frames.shape[1:], bool), broken=broken)
    ever: NDArray[np.bool_] = np.asarray(seen.any(axis=0))
    _note(found, ever, _name_of(good_frames, ever, seen))
    if len(good_frames) > 1:
        for value, name in _negative_marks(good_frames):
            _note(found, (good_frames == value).mean(axis=0) >= NEARLY_ALWAYS, name)
        for _ in CEILINGS:
            if not _ceilings(found, good_frames):
                break
        _outstanding(found, good_frames)
    rest = good_frames[:, ~found.bad]
    if rest.dtype.kind in "if" and rest.size:
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
        return "not finite" if not np.isfinite(values).any() else "not finite, or the largest number of a type"
    return f"the mark {values.max():.10g}"


def _negative_marks(frames: NDArray) -> list[tuple[float, str]]:
    return [(-1.0, "the mark -1"), (-2.0, "the mark -2")] if frames.dtype.kind in "if" else []


def _ceilings(found: Marks, frames: NDArray) -> bool:
    """The largest number of a short type, in its own or in another: a mark where it stands in the same pixels nearly always,
    with what lies around them grown to the connected area; else saturation. True if there were marks."""
    rest = frames[:, ~found.bad]
    if not rest.size or not np.isfinite(rest).any():
        return False
    top = float(np.nanmax(rest))
    roots = [value**0.5 for value in CEILINGS] if frames.dtype.kind == "f" else []
    if not any(abs(top - value) <= 2e-7 * value for value in (*CEILINGS, *roots)):
        return False
    at_top = (frames >= top * (1 - 2e-7)) & ~found.bad
    often = at_top.mean(axis=0)
    marks = often >= NEARLY_ALWAYS
    if marks.any() and _is_beam(marks, frames, top):
        _note(found, marks, f"{top:.6g} in every frame (saturated)")
    elif marks.any():
        _note(found, binary_propagation(marks, mask=often >= 0.5), f"the mark {top:.6g}")
    saturated = at_top & ~found.bad
    if saturated.sum() >= FEWEST_SATURATED:
        found.saturated = (top, int(saturated.any(axis=0).sum()), int(saturated.any(axis=(1, 2)).sum()))
    return bool(marks.any())


def _is_beam(marks: NDArray[np.bool_], frames: NDArray, top: float) -> bool:
    """Whether pixels at the top of the range lie where the light is: their neighbours are bright too."""
    rim = binary_dilation(marks, iterations=1) & ~marks
    return bool(rim.any() and np.median(frames[:, rim]) > 0.2 * top)


def _outstanding(found: Marks, frames: NDArray) -> None:
    """A value far above all others that the same pixels share in nearly every frame: a mark divided by a gain or a monitor,
    or summed by binning."""
    values = np.where(found.bad, 0, frames).astype(np.float64)
    values[~np.isfinite(values)] = 0
    top = values.max(axis=(1, 2), keepdims=True)
    high = (values >= 0.2 * top) & (top > 0)
    often = high.mean(axis=0) >= NEARLY_ALWAYS
    if not often.any() or often.sum() > 0.5 * often.size:
        return
    held = values[:, often]
    rest = values[:, ~often]
    shared = np.ptp(held, axis=1) <= 1e-6 * held.max(axis=1)
    constant = np.ptp(held, axis=0) <= 1e-6 * held.max(axis=0)
    usual = float(np.quantile(rest, 0.999))
    steady = (held.shape[1] > 1 and shared.mean() >= NEARLY_ALWAYS) or constant.mean() >= NEARLY_ALWAYS
    if steady and usual > 0 and np.median(held.min(axis=1)) > OUTSTANDING * usual:
        name = f"the mark {float(np.median(held)):.6g}"
        _note(found, often, name)
        # Edges of a gap that was interpolated or binned hold a part of the mark.
        edge = (values > OUTSTANDING * usual).any(axis=0)
        _note(found, binary_propagation(often, mask=edge | often), name)
