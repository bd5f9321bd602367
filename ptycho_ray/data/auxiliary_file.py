"""Two files that make one scan: what the first lacks is taken from the auxiliary file."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import FileContents
from ptycho_ray.errors import InputError

WITH_FRAMES = (
    *(
        "frames",
        "frames_field",
        "domain",
        "frame_index",
        "bad_pixels",
        "column_scale",
        "beam_centre_px",
        "raster",
        "step_m",
    ),
    *("written_by_matlab", "incomplete", "unused_masks"),
)
WITH_POSITIONS = (
    "positions",
    "nominal",
    "positions_in_metres",
    "positions_unit",
    "position_index",
    "object_truth",
    "units_unknown",
)
WITH_PROBE = ("probe", "probe_scale_known")


def combined(first: FileContents, second: FileContents, path: Path) -> FileContents:
    """The contents of both files; where both hold something, the first takes precedence.

    What belongs together is taken from one file: frames with their scan numbers and mask, positions with the object
        whose coordinates they use, a probe with its scale. Frames and positions with scan numbers are
    matched by them: positions of one number are averaged, missing ones interpolated between neighbours, and frames
    before the first and after the last position dropped.

    Raises InputError if neither has frames or positions, or their numbers do not fit.
    """
    merged = replace(first)
    for names in (WITH_FRAMES, WITH_POSITIONS, WITH_PROBE):
        if getattr(first, names[0]) is None:
            for name in names:
                setattr(merged, name, getattr(second, name))
    apart = {*WITH_FRAMES, *WITH_POSITIONS, *WITH_PROBE, "format", "notes"}
    for field in dataclass_fields(FileContents):
        if field.name not in apart and getattr(first, field.name) is None:
            setattr(merged, field.name, getattr(second, field.name))
    if merged.bad_pixels is None:  # a mask may lie in a file of its own, or beside the positions
        merged.bad_pixels = second.bad_pixels if first.bad_pixels is None else first.bad_pixels
    merged.notes = [*first.notes, *second.notes]
    merged.written_by_matlab = first.written_by_matlab or second.written_by_matlab
    if merged.positions is not None and (first.frames is None or first.positions is None):
        merged.positions = merged.positions * np.array([1.0, merged.column_scale])
        _match(merged, path)
    return merged


def _match(fields: FileContents, path: Path) -> None:
    if fields.frames is None or fields.positions is None:
        return
    n = fields.frames.shape[0]
    frame_index, position_index = fields.frame_index, fields.position_index
    if frame_index is None or position_index is None:
        return  # numbers that differ are met in loading, with the common part on offer
    kept, fields.positions = matched(frame_index, position_index, fields.positions, path)
    fields.nominal = None
    fields.scan_index = fields.position_index = fields.frame_index = frame_index[kept]
    if len(kept) < n:
        fields.frames = fields.frames[kept] if isinstance(fields.frames, np.ndarray) else fields.frames.take(kept)


def matched(
    frame_index: NDArray[np.int64], position_index: NDArray[np.int64], positions: NDArray[np.float64], path: Path
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which frames have a position, and their positions [k, 2], by the rules of Ptychodus.

    Matching is by the number of the frame. Positions with the same number are averaged, missing ones interpolated between their
    neighbours, and frames outside the range of the positions left out. InputError where none is left.
    """
    numbers, places = averaged(position_index, positions)
    kept = np.flatnonzero((frame_index >= numbers[0]) & (frame_index <= numbers[-1]))
    if not kept.size:
        said = f"{frame_index.min()} to {frame_index.max()}" if frame_index.size else "none"
        raise InputError(
            file=path,
            field="indexes",
            found=f"patterns {said}, positions {numbers[0]} to {numbers[-1]}",
            expected="scan numbers that overlap",
        )
    wanted = frame_index[kept]
    return kept, np.stack([np.interp(wanted, numbers, places[:, axis]) for axis in (0, 1)], axis=1)


def averaged(numbers: NDArray[np.int64], places: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Distinct numbers in ascending order and the mean place [m, 2] of each."""
    if not len(numbers):
        raise InputError(field="positions", found="none", expected="at least one")
    distinct, back = np.unique(numbers, return_inverse=True)
    sums = np.zeros((len(distinct), 2))
    np.add.at(sums, back, places)
    return distinct, sums / np.bincount(back)[:, None]
