"""Frames that are turned, rolled or mended while they are read; frames on disk stay there.

Legend: n frames, H and W the detector's rows and columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.patterns import ArrayFrames, FrameSource

IMPOSSIBLE = tuple(2**bits - less for bits in (31, 32, 63, 64) for less in (1, 2))
"""Numbers that no detector counts up to: the largest of its type, or one less, mark a pixel as bad."""

LEAST_IMPOSSIBLE = 46340.0
"""Values between 0 and this number, which is just below the root of the least of them, are none of them."""


def may_be_invalid(lowest: Any, highest: Any) -> Any:
    """Whether ``invalid_in`` could find anything among values from ``lowest`` to ``highest`` (NaN if one is), elementwise."""
    return ~((lowest > -np.inf) & (highest < LEAST_IMPOSSIBLE))


def invalid_in(frames: NDArray) -> NDArray[np.bool_]:
    """Where values are no measurement: not finite, or one of IMPOSSIBLE (as a float too, and as the root of it)."""
    found = np.zeros(frames.shape, dtype=bool)
    if frames.dtype.kind not in "iuf" or not may_be_invalid(frames.min(initial=0), frames.max(initial=0)):
        return found
    if frames.dtype.kind in "iu":
        top = np.iinfo(frames.dtype).max
        for value in IMPOSSIBLE:
            if value <= top:
                found |= frames == value
        return found
    found = ~np.isfinite(frames)
    large = frames >= LEAST_IMPOSSIBLE
    if large.any():
        values = frames[large].astype(np.float64)
        hit = np.zeros(values.shape, dtype=bool)
        for value in IMPOSSIBLE:
            # 1e-9 tells 2**32 from its neighbours in float64; a float32 holds no nearer ones than 6e-8
            near = 1e-9 if frames.dtype.itemsize > 4 else 1e-7
            hit |= np.abs(values - value) <= near * value
            hit |= np.abs(values - value**0.5) <= near * value**0.5
        found[large] = hit
    return found


def clear_invalid(frames: NDArray) -> NDArray[np.bool_] | None:
    """Set to zero, in place, what is no measurement; where that was, or None if all is."""
    if frames.dtype.kind not in "iuf" or not may_be_invalid(frames.min(initial=0), frames.max(initial=0)):
        return None
    invalid = invalid_in(frames)
    frames[invalid] = 0
    return invalid


def held_like(made: FrameSource, source: FrameSource) -> FrameSource:
    """``made`` from ``source``: computed at once where that is in memory, else as it is read."""
    return ArrayFrames(made.read(np.arange(made.shape[0])), source.labels) if source.in_memory else made


class MendedFrames:
    """Frames of another source with bad pixels set to zero and negative values clipped to zero.

    ``bad`` [H, W] are the pixels to clear, ``clip`` whether negative values are noise. Values that are no measurement
    (``invalid_in``) are cleared everywhere. A short unsigned type is widened where its largest value is a measurement, of a
    pixel that ``saturated``.

    Of frames that nobody has looked at (``unseen``) what is no measurement outside ``bad`` is not cleared, but made a value
    that ``PatternStack`` refuses with the number of the frame.
    """

    def __init__(
        self,
        source: FrameSource,
        bad: NDArray[np.bool_] | None = None,
        *,
        clip: bool = False,
        unseen: bool = False,
        saturated: bool = True,
    ) -> None:
        self.source, self.bad, self.clip, self.unseen, self.saturated = source, bad, clip, unseen, saturated
        self.in_memory = False
        self.dtype = np.dtype(np.uint32) if source.dtype == np.uint16 and saturated else source.dtype
        self.shape, self.labels = source.shape, source.labels

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        frames = self.source.read(indices).astype(self.dtype, copy=False)
        if self.bad is not None:
            frames[:, self.bad] = 0
        invalid = clear_invalid(frames)
        if self.clip:
            np.maximum(frames, 0, out=frames)
        if self.unseen and invalid is not None:
            kind = self.dtype.kind
            frames[invalid] = np.nan if kind == "f" else np.iinfo(self.dtype).max if kind == "u" else -1
        return frames

    def take(self, indices: NDArray[np.int64]) -> MendedFrames:
        taken = self.source.take(indices)
        return MendedFrames(taken, self.bad, clip=self.clip, unseen=self.unseen, saturated=self.saturated)


class TurnedFrames:
    """Frames of another source with rows and columns exchanged, then flipped, and the zero frequency moved from the corner
    to N//2.

    The move from the corner comes first, since the other two keep pixel N//2 of a square frame only up to one pixel.
    """

    def __init__(
        self,
        source: FrameSource,
        *,
        transpose: bool = False,
        flip_rows: bool = False,
        flip_columns: bool = False,
        from_corner: bool = False,
    ) -> None:
        self.source, self.transpose, self.from_corner = source, transpose, from_corner
        self.flip_rows, self.flip_columns = flip_rows, flip_columns
        self.in_memory, self.dtype, self.labels = False, source.dtype, source.labels
        n, height, width = source.shape
        self.shape: tuple[int, int, int] = (n, width, height) if transpose else (n, height, width)

    def turned(self, frames: NDArray) -> NDArray:
        """Frames or a mask [..., H, W], turned likewise."""
        frames = np.fft.fftshift(frames, axes=(-2, -1)) if self.from_corner else frames
        frames = frames.swapaxes(-1, -2) if self.transpose else frames
        frames = frames[..., ::-1, :] if self.flip_rows else frames
        return frames[..., ::-1] if self.flip_columns else frames

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        return self.turned(self.source.read(indices))

    def take(self, indices: NDArray[np.int64]) -> TurnedFrames:
        chosen = object.__new__(TurnedFrames)
        chosen.__dict__.update(self.__dict__)
        chosen.source = self.source.take(indices)
        chosen.labels, chosen.shape = chosen.source.labels, (len(indices), *self.shape[1:])
        return chosen
