"""Frames as a detector wrote them, looked through once before anything is computed from them: what is no measurement is
taken out, what is odd is named, in one line each.

Legend: n frames, H and W the detector's rows and columns, k frames looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.marks import BROKEN, Marks, dead_pixels, find_marks
from ptycho_ray.data.mended import MendedFrames, TurnedFrames, clear_invalid, held_like, invalid_in, may_be_invalid
from ptycho_ray.data.patterns import ArrayFrames, FrameSource, check_frames, evenly_spread
from ptycho_ray.errors import InputError

LOOKED_AT = 64
LOOKED_AT_BYTES = 128 * 2**20
AT_ONCE_BYTES = 8 * 2**20
ALL_FRAMES_BYTES = 2**30
"""Stacks up to this size are looked through frame by frame; of larger ones LOOKED_AT frames are."""
FEWEST_DEAD = 8
"""So many dead pixels are worth a line."""
MUCH = 0.1
"""Part of a detector that, if masked, is worth a line."""
CORNER = 3.0
"""So much more light about the corners than in the middle means that the zero frequency lies there."""


def looked_at(shape: tuple[int, int, int], most: int) -> NDArray[np.int64]:
    """Numbers of at most ``most`` frames, spread over all, fewer of large frames, so that they fit into LOOKED_AT_BYTES."""
    n, height, width = shape
    return evenly_spread(n, max(4, min(most, LOOKED_AT_BYTES // max(1, 8 * height * width))))


@dataclass
class Screened:
    """Frames after screening: the source, its bad pixels [H, W], the frames worth keeping (numbers [k] among the n), how many
    pixels look dead, and the frames that are the one before once more."""

    source: FrameSource
    bad: NDArray[np.bool_]
    kept: NDArray[np.int64]
    marks: Marks
    dead: int = 0
    repeated: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


def as_frames(frames: NDArray | FrameSource, path: Path, field: str) -> FrameSource:
    """Frames as a source. InputError for an array that is no stack of real frames."""
    if not isinstance(frames, np.ndarray):
        return frames
    check_frames(frames, path, field, may_be_empty=False)
    return ArrayFrames(frames)


def screen_frames(fields: FileContents, path: Path) -> None:
    """Take out of ``fields`` what is no measurement: marked pixels, frames without light, noise below zero. What is done,
    and what is odd, is noted."""
    if fields.frames is None:
        return
    source = as_frames(fields.frames, path, fields.frames_field)
    if source.shape[0] == 0:
        return
    found = _screened(source, None if fields.bad_pixels is None else np.asarray(fields.bad_pixels) != 0)
    marks, n = found.marks, source.shape[0]
    if marks.bad.all():
        raise InputError(
            file=path,
            field=fields.frames_field,
            found=f"{next(iter(marks.rules))} in all pixels of all frames",
            expected="a measurement",
        )
    whole = marks.bad.size
    for rule, count in marks.rules.items():
        fields.note(f"{path}: {count} of {whole} detector pixels hold {rule} and are masked")
    if marks.negative:
        fields.note(
            f"{path}: {100 * marks.negative:.2g} % of the values are negative, down to {marks.lowest:.4g}: noise after a dark "
            "image was subtracted; set to zero"
        )
    if marks.saturated is not None:
        top, pixels, frames = marks.saturated
        fields.note(
            f"{path}: {pixels} pixels reach {top:.6g}, the largest number of their type, in {frames} of the frames looked "
            "at: saturated; kept as they are"
        )
    if found.bad.mean() > MUCH:
        largest = max(marks.rules, key=lambda rule: marks.rules[rule], default="the mask of the file")
        if marks.rules.get(largest, 0) < 0.5 * found.bad.sum():
            largest = "the mask of the file"
        fields.note(f"{path}: {found.bad.mean():.0%} of the detector is masked, by this rule: {largest}")
    if found.dead > FEWEST_DEAD:
        fields.note(
            f"{path}: {found.dead} pixels are zero in all frames looked at, with light around them: a gap between modules? "
            "'ptycho-ray prepare' masks them, or --mask"
        )
    note_repeated(fields, source.labels, found.repeated, path)
    lost = np.setdiff1d(np.arange(n), found.kept)
    if lost.size:
        shown = ", ".join(str(number) for number in source.labels[lost[:8]]) + (" ..." if lost.size > 8 else "")
        if not found.kept.size:
            found.kept = np.arange(n)  # refused where the patterns are read, with the numbers
        else:
            fields.note(f"{path}: {lost.size} of {n} frames hold no measurement and were left out: {shown}")
    if found.bad.any():
        fields.bad_pixels = found.bad
    if found.source is not source or isinstance(fields.frames, np.ndarray):
        fields.frames = found.source if found.source is not source else fields.frames
    if lost.size and len(found.kept) < n:
        fields.keep(found.kept)


def note_repeated(fields: FileContents, labels: NDArray, repeated: NDArray[np.int64], path: Path) -> None:
    """Name frames that repeat the one before to the last count at another position: a detector that hung."""
    places = fields.positions
    if places is not None and len(places) == len(labels) and repeated.size:
        repeated = repeated[(places[repeated] != places[repeated - 1]).any(axis=1)]
    if repeated.size:
        shown = ",".join(str(number) for number in labels[repeated])
        fields.note(
            f"{path}: {repeated.size} frames are the one before once more, at other positions: a detector that hung? "
            f"--drop {shown}"
        )


def _screened(source: FrameSource, masked: NDArray[np.bool_] | None) -> Screened:
    n, height, width = source.shape
    rows = looked_at(source.shape, LOOKED_AT)
    some = source.read(rows)
    marks = find_marks(some if masked is None or masked.shape != (height, width) else np.where(masked, 0, some))
    bad = marks.bad if masked is None or masked.shape != (height, width) else marks.bad | masked
    broken, dark = np.zeros(n, bool), np.zeros(n, bool)
    broken[rows[marks.broken]] = True
    clip, below, lowest = bool(marks.negative), 0, 0.0
    size = math.prod(source.shape) * source.dtype.itemsize
    repeated: list[int] = []
    seen = source.in_memory or size <= ALL_FRAMES_BYTES
    if seen:
        step = max(1, AT_ONCE_BYTES // (source.dtype.itemsize * height * width))
        ever = np.zeros((height, width), bool)
        for start in range(0, n, step):
            numbers = np.arange(start, min(start + step, n))
            frames = source.read(numbers)
            frames[:, bad] = 0
            flat = frames.reshape(len(frames), -1)
            high = flat.max(axis=1)
            low = np.zeros_like(high) if flat.dtype.kind == "u" else flat.min(axis=1)
            dark[numbers] = high <= 0
            alike = 1 + np.flatnonzero((high[1:] == high[:-1]) & (high[1:] > 0))
            repeated += [start + int(k) for k in alike if np.array_equal(flat[k], flat[k - 1])]
            odd = np.flatnonzero(may_be_invalid(low, high) | (low < 0))  # the others are clean in all their pixels
            if not odd.size:
                continue
            frames, numbers = frames[odd], numbers[odd]
            invalid = invalid_in(frames)
            gone = invalid.mean(axis=(1, 2)) > BROKEN
            broken[numbers] |= gone
            ever |= invalid[~gone].any(axis=0)
            frames[invalid] = 0
            below += int((frames < 0).sum())
            lowest = min(lowest, float(frames.min()))
            dark[numbers] = frames.max(axis=(1, 2)) <= 0
        if (ever & ~bad).any():
            marks.rules["no number in single frames"] = int((ever & ~bad).sum())
            bad = bad | ever
            marks.bad |= ever
    if below and not clip:  # in frames that were not among those looked at
        clip, marks.negative, marks.lowest = True, below / math.prod(source.shape), lowest
    kept = np.flatnonzero(~(broken | dark))
    mended: FrameSource = source
    if not seen:
        mended = MendedFrames(source, bad, clip=clip, unseen=True, saturated=marks.saturated is not None)
    elif marks.rules or clip or marks.saturated is not None or broken.any():
        mended = held_like(MendedFrames(source, marks.bad if marks.rules else None, clip=clip), source)
    clear_invalid(some)
    some[:, bad] = 0
    dead = int((dead_pixels(np.maximum(some, 0, out=some)) & ~bad).sum())
    return Screened(mended, bad, kept, marks, dead, np.array(repeated, np.int64))


def bring_to_middle(fields: FileContents, path: Path) -> None:
    """Move the zero frequency from the corners to the middle, where it lies there."""
    if fields.frames is None or fields.far_field is False:
        return
    source = as_frames(fields.frames, path, fields.frames_field)
    n, height, width = source.shape
    if n == 0 or min(height, width) < 8:
        return
    some = source.read(looked_at(source.shape, 16))
    marks = find_marks(some)
    mean = np.where(marks.bad, 0, np.clip(np.where(invalid_in(some), 0, some), 0, None)).mean(axis=0, dtype=np.float64)
    if fields.bad_pixels is not None and np.shape(fields.bad_pixels) == mean.shape:
        mean = np.where(np.asarray(fields.bad_pixels) != 0, 0, mean)
    middle = np.s_[height // 4 : height - height // 4, width // 4 : width - width // 4]
    shifted = np.fft.fftshift(mean)
    if shifted[middle].sum() > CORNER * mean[middle].sum() and _surrounds_middle(shifted):
        turned = TurnedFrames(source, from_corner=True)
        fields.frames = held_like(turned, source)
        if fields.bad_pixels is not None:
            fields.bad_pixels = turned.turned(np.asarray(fields.bad_pixels))
        fields.note(f"{path}: the zero frequency lay in the corner of the frames and was moved to the middle")


def _surrounds_middle(mean: NDArray[np.float64]) -> bool:
    """Whether the light of a mean frame lies about its middle in all four quadrants, as that of a corner does after the move;
    a beam that is only far off the middle lies in one."""
    height, width = mean.shape
    quadrants = [mean[:height // 2, :width // 2], mean[:height // 2, width // 2:],
                 mean[height // 2:, :width // 2], mean[height // 2:, width // 2:]]  # fmt: skip
    total = mean.sum()
    return bool(total > 0 and min(part.sum() for part in quadrants) > 0.1 * total)
