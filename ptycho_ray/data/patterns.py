"""Stacks of diffraction patterns, in memory or on disk, with one reading interface.

Legend: n patterns, N pattern side, k patterns read at once.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_ray.errors import InputError, to_type

Domain = Literal["amplitude", "intensity"]

CHUNK_BYTES = 16 * 2**20
"""Memory that a streamed pass over a stack may hold at once, as float32."""


class FrameSource(Protocol):
    """Where frames come from: ``shape`` is (n, rows, columns), ``labels`` the frame numbers in the file."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    labels: NDArray[np.int64]
    in_memory: bool

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        """The frames ``indices`` [k], in an array that is the caller's to change."""
        ...

    def take(self, indices: NDArray[np.int64]) -> FrameSource: ...


class FramesOnDisk:
    """Base of the sources that read a file when asked: taking frames reads nothing."""

    in_memory = False
    shape: tuple[int, int, int]
    labels: NDArray[np.int64]

    def take(self, indices: NDArray[np.int64]) -> Self:
        """The frames ``indices`` [k] as a source of their own."""
        chosen = copy.copy(self)
        chosen.labels = self.labels[indices]
        chosen.shape = (len(indices), self.shape[1], self.shape[2])
        return chosen


class ArrayFrames:
    """Frames held in a numpy array [n, rows, columns]."""

    in_memory = True

    def __init__(self, frames: NDArray, labels: NDArray[np.int64] | None = None) -> None:
        self.frames = frames
        self.shape: tuple[int, int, int] = (frames.shape[0], frames.shape[1], frames.shape[2])
        self.dtype = frames.dtype
        self.labels = np.arange(len(frames)) if labels is None else labels

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        return self.frames[indices]

    def take(self, indices: NDArray[np.int64]) -> ArrayFrames:
        return ArrayFrames(self.frames[indices], self.labels[indices])


class WatchedFrames:
    """Frames of another source; ``on_read`` is called before each read, and may raise to stop whoever reads."""

    def __init__(self, source: FrameSource, on_read: Callable[[], None]) -> None:
        self.source, self.on_read = source, on_read
        self.in_memory, self.dtype, self.labels = source.in_memory, source.dtype, source.labels
        self.shape: tuple[int, int, int] = source.shape

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        self.on_read()
        return self.source.read(indices)

    def take(self, indices: NDArray[np.int64]) -> WatchedFrames:
        return WatchedFrames(self.source.take(indices), self.on_read)


def evenly_spread(n: int, most: int) -> NDArray[np.int64]:
    """At most ``most`` of the numbers 0 to n - 1, spread over all of them, int64 [k]; all if there are no more."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).astype(np.int64))


class PatternStack:
    """Diffraction patterns [n, N, N], rows first, zero frequency at N//2, in the units of their file.

    ``domain`` says what the stored numbers are: ``'amplitude'`` (their squares are intensities) or ``'intensity'``.
    ``bad_pixels`` (bool [N, N], True = bad) are read as zero. Every read is checked: a value that is not finite or is
    negative, or a pattern that is zero everywhere, raises InputError with the number of the frame in its file.
    The maximum of an unsigned type counts as not finite, because detectors mark bad pixels with it. Frames on disk are
    read only as needed.
    """

    def __init__(
        self,
        frames: NDArray | FrameSource,
        domain: Domain,
        *,
        bad_pixels: ArrayLike | None = None,
        transpose: bool = False,
        file: str | Path | None = None,
        field: str = "diff3d",
    ) -> None:
        self.file, self.field, self.transpose = file, field, transpose
        if domain not in ("amplitude", "intensity"):
            raise InputError(file=file, field="domain", found=repr(domain), expected="'amplitude' or 'intensity'")
        self.domain: Domain = domain
        self.source: FrameSource = as_source(frames, file, field) if isinstance(frames, np.ndarray) else frames
        _, rows, columns = self.source.shape
        if rows != columns or rows == 0:
            raise InputError(
                file=file,
                field=field,
                found=f"patterns of {rows} x {columns} pixels",
                expected="square patterns",
                hint=f"Cropped around the beam. {to_type(file or 'SCAN', 'scan.h5', program='prepare')}",
            )
        self.bad_pixels = self._as_mask(bad_pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n, N, N)."""
        return self.source.shape

    @property
    def N(self) -> int:
        """Side of a pattern in pixels."""
        return self.source.shape[1]

    @property
    def in_memory(self) -> bool:
        """False where the frames stay on disk and are read when asked for."""
        return self.source.in_memory

    @property
    def nbytes(self) -> int:
        """Size of the stored frames in bytes."""
        return math.prod(self.source.shape) * self.source.dtype.itemsize

    def __len__(self) -> int:
        return self.source.shape[0]

    def loaded(self) -> PatternStack:
        """The same stack with its frames in memory."""
        if self.in_memory:
            return self
        every = np.arange(len(self))
        stack = self.take(every)
        stack.source = ArrayFrames(self.source.read(every), self.source.labels)
        return stack

    def intensity(self, indices: ArrayLike | None = None) -> NDArray[np.float32]:
        """Intensities, float32 [..., N, N] for integer ``indices`` [...] (all patterns when None), in file units."""
        values = self._read(indices)
        return np.square(values, out=values) if self.domain == "amplitude" else values

    def amplitude(self, indices: ArrayLike | None = None) -> NDArray[np.float32]:
        """Square roots of the intensities, float32 [..., N, N]."""
        values = self._read(indices)
        return np.sqrt(values, out=values) if self.domain == "intensity" else values

    def take(self, indices: ArrayLike) -> PatternStack:
        """The stack of the patterns ``indices`` [k], in that order; frames on disk stay on disk."""
        stack = object.__new__(PatternStack)
        stack.__dict__.update(self.__dict__)
        stack.source = self.source.take(self._checked(np.asarray(indices)))
        return stack

    def with_bad_pixels(self, bad_pixels: ArrayLike) -> PatternStack:
        """The same stack with these bad pixels [N, N] in place of its own."""
        stack = object.__new__(PatternStack)
        stack.__dict__.update(self.__dict__)
        stack.bad_pixels = self._as_mask(bad_pixels)
        return stack

    def chunks(self) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield (slice, intensities) over the whole stack in pieces of bounded memory."""
        step = max(1, CHUNK_BYTES // (4 * self.N * self.N))
        for start in range(0, len(self), step):
            piece = slice(start, min(start + step, len(self)))
            yield piece, self.intensity(np.arange(piece.start, piece.stop))

    def energies(self) -> NDArray[np.float64]:
        """Sum of the intensity over each pattern, float64 [n], in file units; streamed in bounded memory."""
        sums = np.empty(len(self))
        for piece, intensity in self.chunks():
            sums[piece] = intensity.sum(axis=(1, 2), dtype=np.float64)
        return sums

    def sample(self, count: int = 32) -> NDArray:
        """Up to ``count`` frames spread over the scan, as stored (bad pixels zeroed), for inspecting their values."""
        picked = evenly_spread(len(self), count)
        frames = self._oriented(self.source.read(picked))
        return frames if self.bad_pixels is None else np.where(self.bad_pixels, frames.dtype.type(0), frames)

    def _read(self, indices: ArrayLike | None) -> NDArray[np.float32]:
        wanted = np.arange(len(self)) if indices is None else self._checked(np.asarray(indices))
        flat = wanted.ravel()
        frames = self._oriented(self.source.read(flat))
        if self.bad_pixels is not None:
            frames[:, self.bad_pixels] = 0
        self._check_values(frames, flat)
        values = frames.astype(np.float32, copy=False)
        return values.reshape(*wanted.shape, self.N, self.N)

    def _oriented(self, frames: NDArray) -> NDArray:
        return frames.swapaxes(1, 2) if self.transpose else frames

    def _checked(self, indices: NDArray) -> NDArray[np.int64]:
        if indices.dtype == bool:
            raise InputError(field="pattern indices", found="booleans", expected="integers")
        if indices.size and (indices.min() < 0 or indices.max() >= len(self)):
            raise InputError(
                file=self.file,
                field="pattern indices",
                found=f"{indices.min()} to {indices.max()}",
                expected=f"0 to {len(self) - 1}",
            )
        return indices.astype(np.int64)

    def _check_values(self, frames: NDArray, indices: NDArray[np.int64]) -> None:
        highest = frames.max(axis=(1, 2))
        lowest = np.zeros_like(highest) if frames.dtype.kind == "u" else frames.min(axis=(1, 2))
        marked = np.zeros(len(frames), bool)
        if frames.dtype.kind == "u" and frames.dtype.itemsize > 1:
            marked = highest == np.iinfo(frames.dtype).max
        with np.errstate(over="ignore"):  # a number that float32 does not hold is not finite
            lowest, highest = lowest.astype(np.float32), highest.astype(np.float32)
        for bad, what, expected in (
            (
                ~np.isfinite(lowest) | ~np.isfinite(highest) | marked,
                "values that are not finite or mark bad pixels",
                "finite numbers",
            ),
            (lowest < 0, "negative values", f"{self.domain} values of 0 or more"),
            (highest == 0, "no signal (all pixels are zero)", "at least one count in every pattern"),
        ):
            if bad.any():
                labels = np.unique(self.source.labels[indices[bad]])
                if len(labels) == len(self):
                    raise InputError(
                        file=self.file, field=self.field, found=f"{what} in all {len(self)} patterns", expected=expected
                    )
                raise InputError(
                    file=self.file,
                    field=self.field,
                    found=f"{what} in {_named(labels)}",
                    expected=expected,
                    hint=f"Mask the pixels (--mask FILE), or leave these frames out. {self._without(labels)}",
                )

    def _without(self, labels: NDArray[np.int64]) -> str:
        return to_type(self.file or "SCAN", f"--drop {','.join(map(str, labels))}")

    def _as_mask(self, bad_pixels: ArrayLike | None) -> NDArray[np.bool_] | None:
        if bad_pixels is None:
            return None
        mask = np.asarray(bad_pixels)
        if mask.shape != (self.N, self.N):
            raise InputError(
                file=self.file, field="bad_pixels", found=f"shape {mask.shape}", expected=f"({self.N}, {self.N})"
            )
        return mask.astype(bool) if mask.any() else None


def as_patterns(
    frames: NDArray | PatternStack,
    domain: Domain | Literal["auto"],
    bad_pixels: ArrayLike | None,
    file: str | None,
) -> PatternStack:
    """A PatternStack of ``frames``; ``'auto'`` is amplitude (the PtychoPINN contract) unless they are integers."""
    if isinstance(frames, PatternStack):
        return frames
    stack = PatternStack(np.asarray(frames), "amplitude", bad_pixels=bad_pixels, file=file)
    if domain == "auto":
        domain = "intensity" if len(stack) and is_integral(stack.sample()) else "amplitude"
    stack.domain = domain
    return stack


def holds_counts(patterns: PatternStack) -> bool:
    """True where the patterns are integer photon counts or their square roots, judged on a few of them."""
    if len(patterns) == 0:
        return False
    frames = patterns.sample()
    return is_integral(frames) if patterns.domain == "intensity" else squares_are_integral(frames)


def is_integral(frames: NDArray) -> bool:
    """True where all values are integers and at least one is above 1, as from a counting detector."""
    if frames.dtype.kind in "iu":
        return True
    return bool(frames.max() > 1 and np.array_equal(frames, np.rint(frames)))


def squares_are_integral(frames: NDArray) -> bool:
    """True where the squares are integers within float32 precision: square roots of counts.

    Squares above 1e5 are not considered, because float32 no longer resolves a count's square root there.
    """
    squares = np.square(frames.astype(np.float64))
    telling = squares[(squares > 0) & (squares < 1e5)]
    if telling.size == 0 or telling.max() < 0.5:
        return False
    return bool(np.all(np.abs(telling - np.rint(telling)) <= 1e-4 + 5e-7 * telling))


def check_frames(frames: NDArray, file: str | Path | None, field: str, *, may_be_empty: bool = True) -> None:
    """InputError for an array that is no stack of real frames."""
    if frames.dtype.kind not in "fiub" or frames.ndim != 3 or (0 in frames.shape and not may_be_empty):
        raise InputError(
            file=file,
            field=field,
            found=f"{frames.dtype} array of shape {frames.shape}",
            expected="real numbers of shape (n, N, N)",
        )


def as_source(frames: NDArray, file: str | Path | None, field: str) -> ArrayFrames:
    """An array of frames [n, rows, columns] as a source; InputError if it is none."""
    check_frames(frames, file, field)
    return ArrayFrames(frames.astype(np.float32, copy=False) if frames.dtype.kind in "fb" else frames)


def _named(labels: NDArray[np.int64]) -> str:
    shown = ", ".join(str(label) for label in labels[:5])
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return f"{len(labels)} pattern{'s' if len(labels) > 1 else ''} (index {shown}{more})"
