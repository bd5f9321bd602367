"""Frames of a plain binary file, which stay on disk: raw files, and formats whose frames follow each other in it.

The file is mapped for each read, so that the object can be pickled and used in any process.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.patterns import FramesOnDisk
from ptycho_ray.errors import InputError


class MappedFrames(FramesOnDisk):
    """Frames [n, H, W] of ``dtype`` at ``offset`` in a file, ``stride`` bytes apart; ``steps`` are the bytes between frames,
    rows and columns where they do not follow each other. Only as much of the file as is asked for is read.

    InputError if the file is too short for them.
    """

    def __init__(
        self,
        path: Path,
        dtype: np.dtype | type | str,
        shape: tuple[int, int, int],
        *,
        offset: int = 0,
        steps: tuple[int, int, int] | None = None,
        upside_down: bool = False,
    ) -> None:
        self.path, self.dtype, self.shape = path.resolve(), np.dtype(dtype), shape
        size = self.dtype.itemsize
        n, height, width = shape
        self.offset, self.upside_down = offset, upside_down
        self.steps = steps or (height * width * size, width * size, size)
        if min(shape) < 1 or min(self.steps) < 1 or math.prod(shape) > 2**48:
            raise InputError(file=path, field="shape", found=shape, expected="frames (n, rows, columns)")
        last = offset + sum((count - 1) * step for count, step in zip(shape, self.steps, strict=True)) + size
        if offset < 0 or last > path.stat().st_size:
            raise InputError(
                file=path,
                found=f"{path.stat().st_size} bytes",
                expected=f"at least {last} for {n} frames of {height} x {width} {self.dtype}",
            )
        self.labels = np.arange(n)

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        rows = self.labels[indices]
        height, width = self.shape[1:]
        plain = self.steps == (height * width * self.dtype.itemsize, width * self.dtype.itemsize, self.dtype.itemsize)
        if plain and rows.size and np.array_equal(rows, np.arange(rows[0], rows[0] + rows.size)):
            place = self.offset + int(rows[0]) * self.steps[0]  # a run is read; pages of a map are fetched one by one
            values = np.fromfile(self.path, self.dtype, rows.size * height * width, offset=place)
            if values.size < rows.size * height * width:
                raise InputError(file=self.path, found="a file that became shorter", expected="the frames that it held")
            return self._as_asked(values.reshape(rows.size, height, width))
        mapped = np.memmap(self.path, np.uint8, mode="r")
        n = self.labels.max(initial=0) + 1
        frames: NDArray = np.ndarray(
            (int(n), *self.shape[1:]), self.dtype, buffer=mapped, offset=self.offset, strides=self.steps
        )
        return self._as_asked(frames[rows])

    def _as_asked(self, frames: NDArray) -> NDArray:
        chosen = frames.astype(self.dtype.newbyteorder("="), copy=False)
        return np.ascontiguousarray(chosen[:, ::-1] if self.upside_down else chosen)


class JoinedFrames(FramesOnDisk):
    """Frames of several files of the same size and type, one after the other."""

    def __init__(self, parts: list[MappedFrames]) -> None:
        self.parts, self.dtype = parts, parts[0].dtype
        self.ends = np.cumsum([part.shape[0] for part in parts])
        self.shape = (int(self.ends[-1]), *parts[0].shape[1:])
        self.labels = np.arange(self.shape[0])

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        wanted = self.labels[indices]
        frames = np.empty((len(wanted), *self.shape[1:]), self.dtype.newbyteorder("="))
        part_of = np.searchsorted(self.ends, wanted, side="right")
        for number in np.unique(part_of):
            rows = part_of == number
            part = self.parts[number]
            frames[rows] = part.read(wanted[rows] - (self.ends[number] - part.shape[0]))
        return frames
