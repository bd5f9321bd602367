"""Stacks without any other information: TIFF files and folders of them, NumPy arrays (.npy), raw binary files whose shape
and type the user names.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.frame_axes import likely_axes, sample_of
from ptycho_ray.data.mapped import MappedFrames
from ptycho_ray.data.opening import BinaryFile, images_in
from ptycho_ray.data.patterns import FramesOnDisk
from ptycho_ray.errors import InputError

TIFF_MARKS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_NPY = b"\x93NUMPY"
_DAMAGE = (
    *(OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, ArithmeticError, AttributeError, EOFError),
    *(MemoryError, AssertionError, struct.error, zlib.error),
)
"""What tifffile raises for damaged files, depending on the place."""
TYPES = re.compile(r"[<>]?(u?int(8|16|32|64)|float(16|32|64)|[iuf][1248])$")


class TiffFrames(FramesOnDisk):
    """Frames of TIFF files, page by page. ``pages`` names for each frame its file and its page there."""

    def __init__(self, pages: list[tuple[Path, int]], shape: tuple[int, int], dtype: np.dtype) -> None:
        self.pages, self.dtype = pages, dtype
        self.shape = (len(pages), *shape)
        self.labels = np.arange(len(pages))

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        import tifffile

        frames = np.empty((len(indices), *self.shape[1:]), self.dtype)
        wanted = self.labels[indices]
        order = sorted(range(len(wanted)), key=lambda k: self.pages[wanted[k]])
        open_path, file = None, None
        try:
            for k in order:
                path, page = self.pages[wanted[k]]
                if path != open_path:
                    if file is not None:
                        file.close()
                    open_path, file = path, tifffile.TiffFile(path)
                assert file is not None
                values = _page(path, file.pages[page])
                if values.shape != self.shape[1:]:
                    raise InputError(file=path, found=f"an image of {values.shape}", expected=f"{self.shape[1:]}")
                frames[k] = values
        except InputError:
            raise
        except _DAMAGE as error:
            raise _damaged(open_path or self.pages[0][0], error) from error
        finally:
            if file is not None:
                file.close()
        return frames


def _page(path: Path, page: Any) -> NDArray:
    """The image of a page. InputError if its compressed data are longer than the image: they may inflate to anything."""
    if page.compression != 1 and sum(page.databytecounts) > 1.2 * page.nbytes + 4096:
        raise InputError(
            file=path,
            found=f"{sum(page.databytecounts)} compressed bytes for an image of {page.nbytes}",
            expected="fewer",
        )
    return np.asarray(page.asarray())


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(file=path, found=f"damaged or unsupported data ({error})", expected="a complete TIFF file")


def recognise_tiff(file: BinaryFile) -> bool:
    return (file.is_folder and not (file.path / ".zgroup").is_file()) or file.start.startswith(TIFF_MARKS)


def read_tiff(file: BinaryFile) -> FileContents:
    """Frames of one file with many pages, or of all images of a folder in the order of the numbers in their names."""
    import tifffile

    paths = list(images_in(file.path)) if file.is_folder else [file.path]
    pages: list[tuple[Path, int]] = []
    shape: tuple[int, ...] | None = None
    dtype: np.dtype | None = None
    for path in paths:
        try:
            with tifffile.TiffFile(path) as tiff:
                count, first = len(tiff.pages), tiff.pages[0]
                if shape is None:
                    shape, dtype = first.shape, first.dtype
                here = first.shape
        except _DAMAGE as error:
            raise _damaged(path, error) from error
        if here != shape or dtype is None or len(here) != 2 or dtype.kind not in "biuf" or not count or 0 in here:
            raise InputError(
                file=path, found=f"images of {here} ({dtype})", expected=f"gray images of {shape}, like the first"
            )
        if np.prod(here, dtype=object) * dtype.itemsize * 4 > file.max_bytes:
            raise InputError(file=path, found=f"an image of {here}", expected="less than the memory (max_bytes)")
        pages += [(path, page) for page in range(count)]
    assert shape is not None
    assert dtype is not None
    frames = TiffFrames(pages, (shape[0], shape[1]), dtype)
    return FileContents(frames=frames, frames_field="pages", domain="intensity")


def recognise_npy(file: BinaryFile) -> bool:
    return file.start.startswith(_NPY)


def read_npy(file: BinaryFile) -> FileContents:
    """Frames of one array, which stays on disk."""
    try:
        with file.path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
            offset = stream.tell()
    except (ValueError, OSError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise InputError(
            file=file.path, found=f"a damaged header ({error})", expected="an array in NPY format"
        ) from error
    return _array(file, tuple(shape), dtype, offset, fortran)


def recognise_raw(file: BinaryFile) -> bool:
    return file.declared is not None


def read_raw(file: BinaryFile) -> FileContents:
    """Frames of the shape and type that the user names, as 300x128x128:uint16 or with an offset, 300x128x128:uint16:1024."""
    text, *more = (file.declared or "").split(":")
    kind, offset = (more + ["float32", "0"][len(more) :])[:2]
    try:
        shape = tuple(int(part) for part in text.lower().split("x"))
        skipped = int(offset)
    except ValueError:
        shape, skipped = (), 0
    if len(shape) not in (3, 4) or min(shape) < 1 or skipped < 0 or not TYPES.match(kind):
        raise InputError(
            field="shape", found=repr(file.declared), expected="NxROWSxCOLUMNS:TYPE, such as 300x128x128:uint16"
        )
    return _array(file, shape, np.dtype(kind), skipped, False)


def _array(file: BinaryFile, shape: tuple[int, ...], dtype: np.dtype, offset: int, fortran: bool) -> FileContents:
    """Contents of an array in a file: a mapped one where its axes allow it."""
    if len(shape) not in (3, 4) or dtype.kind not in "biuf" or 0 in shape or any(side < 0 for side in shape):
        raise InputError(
            file=file.path, found=f"{dtype} of shape {shape}", expected="patterns: real numbers with three or four axes"
        )
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if offset + size > file.size:
        raise InputError(
            file=file.path, field="shape", found=f"{file.size} bytes", expected=f"{offset + size} for {shape} {dtype}",
        )  # fmt: skip
    mapped: Any = np.memmap(file.path, dtype, "r", offset, shape, "F" if fortran else "C")
    axes, note = likely_axes(shape, None, lambda: sample_of(mapped))
    letters = dict(zip(axes, zip(shape, mapped.strides, strict=True), strict=True))
    raster = None if "n" in axes else (letters["r"][0], letters["c"][0])
    if raster is None:
        n, step = letters["n"]
    else:
        n, step = raster[0] * raster[1], letters["c"][1]
        if letters["r"][1] != raster[1] * step:
            raise InputError(
                file=file.path, found=f"a cube whose raster is not stored row by row ({axes})", expected="rcyx"
            )
    steps = (int(step), int(letters["y"][1]), int(letters["x"][1]))
    frames = MappedFrames(file.path, dtype, (int(n), letters["y"][0], letters["x"][0]), offset=offset, steps=steps)
    return FileContents(
        frames=frames,
        frames_field="array",
        raster=raster,
        domain="intensity",
        notes=[] if note is None else [f"{file.path}: {note}"],
    )


TIFF = Format("tiff", "TIFF stack or folder", ("binary",), recognise_tiff, read_tiff)
NPY = Format("npy", "NumPy array", ("binary",), recognise_npy, read_npy)
RAW = Format("raw", "raw binary", ("binary",), recognise_raw, read_raw)
