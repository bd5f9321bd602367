"""Frames that are turned, rolled or mended while they are read; frames on disk stay there.

Legend: n frames, H and W the detector's rows and columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.patterns import ArrayFrames, FrameSource
from ptycho_ray.errors import InputError, to_type

IMPOSSIBLE = tuple(2**bits - less for bits in (31, 32, 63, 64) for less in (1, 2))
"""Numbers that no detector counts up to: the largest of its type, or one less, mark a pixel as bad."""

LARGEST_SURE = 4e4
"""Values up to this are a measurement: below the root of the smallest of IMPOSSIBLE."""


def invalid_in(frames: NDArray) -> NDArray[np.bool_]:
    """Where values are no measurement: not finite, or one of IMPOSSIBLE (as a float too, and as the root of it)."""
    if frames.dtype.kind in "iu":
        top = np.iinfo(frames.dtype).max
        found = np.zeros(frames.shape, dtype=bool)
        for value in IMPOSSIBLE:
            if value <= top:
                found |= frames == value
        return found
    if frames.dtype.kind != "f":
        return np.zeros(frames.shape, dtype=bool)
    found = ~np.isfinite(frames)
    large = frames > LARGEST_SURE
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


def held_like(made: FrameSource, source: FrameSource) -> FrameSource:
    """``made`` from ``source``: computed at once where that is in memory, else as it is read."""
    return ArrayFrames(made.read(np.arange(made.shape[0])), source.labels) if source.in_memory else made


class MendedFrames:
    """Frames of another source with bad pixels set to zero and negative values clipped to zero.

    ``bad`` [H, W] are the pixels to clear, ``clip`` whether negative values are noise. Values that are no measurement
    (``invalid_in``) are cleared everywhere. A short unsigned type is widened, since its largest value may be a measurement
    here (a saturated pixel).

    Of frames that nobody has looked at, ``unseen`` names the file: what is no measurement outside ``bad`` is not cleared there
    but refused, with the number of its frame.
    """

    def __init__(
        self,
        source: FrameSource,
        bad: NDArray[np.bool_] | None = None,
        *,
        clip: bool = False,
        unseen: Path | None = None,
    ) -> None:
        self.source, self.bad, self.clip, self.unseen = source, bad, clip, unseen
        self.in_memory = False
        self.dtype = np.dtype(np.uint32) if source.dtype == np.uint16 else source.dtype
        self.shape, self.labels = source.shape, source.labels

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        frames = np.array(self.source.read(indices), dtype=self.dtype)
        if self.bad is not None:
            frames[:, self.bad] = 0
        if frames.size and not frames.max() <= LARGEST_SURE:
            invalid = invalid_in(frames)
            if self.unseen is not None and invalid.any():
                self._refuse(self.labels[indices[invalid.any(axis=(1, 2))]], self.unseen)
            frames[invalid] = 0
        return np.maximum(frames, 0, out=frames) if self.clip else frames

    def take(self, indices: NDArray[np.int64]) -> MendedFrames:
        return MendedFrames(self.source.take(indices), self.bad, clip=self.clip, unseen=self.unseen)

    def _refuse(self, numbers: NDArray[np.int64], path: Path) -> None:
        listed = ",".join(str(number) for number in np.unique(numbers))
        raise InputError(
            file=path,
            field="patterns",
            found=f"values that are no measurement (not finite, or the largest of a type) in frames {listed}",
            expected="none: the frames looked at have a measurement in these pixels",
            hint=to_type(path, f"--drop {listed}"),
        )


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
