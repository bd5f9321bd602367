"""HDF5 files: checked access to their datasets, and frames that stay on disk until they are asked for.

Compression filters of detectors (bitshuffle, LZ4, ...) come from hdf5plugin. Links to other files are followed only
within the folder of the file, so that a file cannot make this program read files elsewhere.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import h5py
import hdf5plugin  # noqa: F401  (importing it registers the filters)
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import choose_key
from ptycho_ray.data.frame_axes import SAMPLE_BYTES, likely_axes, read_axes, sample_of
from ptycho_ray.data.inflation import DATASET_RATIO, check_chunk, check_ratio
from ptycho_ray.data.patterns import FramesOnDisk
from ptycho_ray.errors import InputError, to_type
from ptycho_ray.files import atomic_path

CHUNK_CACHE_BYTES = 32 * 2**20
FRAMES_IN_MEMORY = 32
HELD_BACK_BYTES = 4 * 2**20
SLACK_BYTES = 2**20
SCANNED_BYTES = 256 * 2**20
OTHER_ARRAYS = "Another array of the file. {}"
_HEAP, _SMALLEST_HEAP = b"GCOL\x01", 4096


@contextmanager
def open_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; a file that is damaged or truncated raises InputError, here or in the block.

    h5py reports damage as OSError, KeyError, RuntimeError, TypeError or ValueError, depending on the place, and as
    SystemError where it meets it while walking over links.
    """
    try:
        with h5py.File(path, "r", rdcc_nbytes=CHUNK_CACHE_BYTES) as file:
            yield file
    except InputError:
        raise
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, SystemError) as error:
        raise InputError(file=path, found=f"unreadable data ({error})", expected="a complete HDF5 file") from error


@contextmanager
def new_hdf5(path: str | Path) -> Iterator[h5py.File]:
    """Write an HDF5 file, atomically. DiskFullError if there is no room.

    HDF5 writes behind the back of its user, forgets errors it meets there, and may end the process over them: room is held
    back for it, and ``check_room`` asks for more before each large piece.
    """
    with atomic_path(path) as temporary, tempfile.TemporaryFile(dir=temporary.parent) as held_back:
        held_back.write(bytes(HELD_BACK_BYTES))
        held_back.flush()
        with h5py.File(temporary, "w") as file:
            try:
                yield file
                file.flush()
                check_room(file, 0)
            finally:
                held_back.truncate(0)


def check_room(file: h5py.File, piece_bytes: int) -> None:
    """OSError if the disk may have no room for the next piece, before HDF5 tries to write it."""
    if shutil.disk_usage(Path(file.filename).parent).free < piece_bytes + SLACK_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def check_heaps(path: Path) -> None:
    """Refuse a file whose string heap would send the HDF5 library into an endless loop: an entry of zero length.

    Looks through files up to SCANNED_BYTES only; larger ones are not expected as uploads.
    """
    size = path.stat().st_size
    if not 0 < size <= SCANNED_BYTES:
        return
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(_HEAP)
        while start >= 0:
            length = int.from_bytes(content[start + 8 : start + 16], "little")
            place, end = start + 16, start + length
            while _SMALLEST_HEAP <= length <= size - start and end - place >= 16:
                number = int.from_bytes(content[place : place + 2], "little")
                held = int.from_bytes(content[place + 8 : place + 16], "little")
                step = held if number == 0 else 16 + -(-held // 8) * 8
                if step < 16 or step > end - place:
                    raise InputError(file=path, found="damaged strings (global heap)", expected="a complete HDF5 file")
                place += step
            start = content.find(_HEAP, start + 4)


class Hdf5Frames(FramesOnDisk):
    """Frames [n, rows, columns] of one or several HDF5 datasets, read in runs of consecutive frames.

    The files are opened for each read, so that the object can be pickled and used in any process. ``axes`` are those of a
    dataset as in ``frame_axes.py``; the frames of a raster are numbered row by row. ``labels`` are the numbers of the frames in
    the file.
    """

    def __init__(self, datasets: list[h5py.Dataset], axes: str = "nyx") -> None:
        self.parts = [(Path(dataset.file.filename).resolve(), dataset.name) for dataset in datasets]
        self.axes, self.dtype = axes, datasets[0].dtype
        shapes = [frames_shape(dataset.shape, axes) for dataset in datasets]
        self.ends = np.cumsum([shape[0] for shape in shapes])
        self.shape = (int(self.ends[-1]), shapes[0][1], shapes[0][2])
        self.raster = None if "n" in axes else (datasets[0].shape[axes.index("r")], datasets[0].shape[axes.index("c")])
        self.labels = np.arange(self.shape[0])

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        """The frames ``indices`` [k], in that order, repeated where an index is."""
        wanted, back = np.unique(self.labels[indices], return_inverse=True)
        frames = np.empty((len(wanted), *self.shape[1:]), dtype=self.dtype)
        part_of = np.searchsorted(self.ends, wanted, side="right")
        for part in np.unique(part_of):
            first = self.ends[part - 1] if part else 0
            low, high = np.searchsorted(part_of, [part, part + 1])
            path, name = self.parts[part]
            self._read_part(path, name, wanted[low:high] - first, frames[low:high])
        return frames if np.array_equal(back, np.arange(len(wanted))) else frames[back]

    def _read_part(self, path: Path, name: str, wanted: NDArray[np.int64], frames: NDArray) -> None:
        """Frames ``wanted`` (ascending) of one dataset into ``frames``."""
        breaks = np.diff(wanted, prepend=-2) > 1
        if self.raster is not None:
            breaks |= wanted % self.raster[1] == 0
        starts = np.flatnonzero(breaks)
        with open_hdf5(path) as file:
            dataset = file[name]
            for start, stop in zip(starts, [*starts[1:], len(wanted)], strict=False):  # nothing to read: no starts
                low, high = int(wanted[start]), int(wanted[stop - 1]) + 1
                if self.axes == "nyx":
                    dataset.read_direct(frames, np.s_[low:high], np.s_[start:stop])
                else:
                    frames[start:stop] = self._block(dataset, low, high)

    def _block(self, dataset: h5py.Dataset, low: int, high: int) -> NDArray:
        """Frames ``low`` to ``high`` - 1, which lie in one row of a raster, [k, rows, columns]."""
        place: dict[str, slice | int] = {"n": slice(low, high)}
        if self.raster is not None:
            row, column = divmod(low, self.raster[1])
            place = {"r": row, "c": slice(column, column + high - low)}
        block = dataset[tuple(place.get(letter, slice(None)) for letter in self.axes)]
        left = self.axes.replace("r", "").replace("c", "n")
        return np.transpose(block, [left.index(letter) for letter in "nyx"])


def frames_shape(shape: tuple[int, ...], axes: str) -> tuple[int, int, int]:
    """(n, rows, columns) of a dataset's shape."""
    n = math.prod(shape[axes.index(letter)] for letter in ("n" if "n" in axes else "rc"))
    return n, shape[axes.index("y")], shape[axes.index("x")]


class Hdf5Scan:
    """Checked access to the datasets of one open HDF5 file."""

    kind = "hdf5"

    def __init__(self, path: Path, file: h5py.File, max_bytes: int) -> None:
        self.path, self.file, self.budget = path, file, max_bytes
        self.notes: list[str] = []
        self._checked_links: set[str] = set()

    def __contains__(self, name: str) -> bool:
        self.check_links(name)
        return name in self.file

    def keys(self) -> list[str]:
        """Paths of all datasets in the file itself."""
        found: list[str] = []
        self.file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        return found

    def arrays(self, most: int) -> list[tuple[str, tuple[int, ...], str]]:
        """Names, shapes and kinds of types of at most ``most`` arrays of numbers, those behind links that may be followed
        included."""
        found: list[tuple[str, tuple[int, ...], str]] = []
        waiting, seen = ["/"], 0
        while waiting and seen < 4 * most and len(found) < most:
            group = waiting.pop(0)
            for name in self.names(group):
                seen += 1
                place = f"{group}/{name}".strip("/")
                try:
                    self.check_links(place)
                    item = self.file[place]
                except (InputError, KeyError, OSError, RuntimeError):
                    continue
                if isinstance(item, h5py.Group) and place.count("/") < 12:
                    waiting.append(place)
                elif isinstance(item, h5py.Dataset) and item.shape is not None and item.dtype.kind in "biufc":
                    found.append((place, tuple(item.shape), item.dtype.kind))
        return found

    def linked_files(self, most: int = 4000) -> list[Path]:
        """Other files that hold datasets of this one, behind links or as parts of virtual datasets."""
        found: set[Path] = set()
        for name, _, _ in self.arrays(most):
            dataset = self.file[name]
            found.add(Path(dataset.file.filename))
            if dataset.is_virtual:
                parts = (source.file_name for source in dataset.virtual_sources())
                found |= {Path(dataset.file.filename).parent / part for part in parts if part != "."}
        return sorted(found)

    def names(self, group: str) -> list[str]:
        """Names of the members of a group; none if there is no such group."""
        return list(self.file[group]) if group in self and isinstance(self.file[group], h5py.Group) else []

    def attribute(self, place: str, name: str) -> Any:
        """An attribute of the object at ``place`` ('/' is the file's), or None."""
        if place != "/" and place not in self:
            return None
        value = self.file[place].attrs.get(name)
        if isinstance(value, np.ndarray) and value.size == 1:  # MATLAB, NAPI and Java write texts as arrays of one
            value = value.ravel()[0]
        return value.decode(errors="replace") if isinstance(value, bytes) else value

    def check_links(self, name: str) -> None:
        """Refuse a path that leads through a link to a file outside the folder, or to one that is not there."""
        here = ""
        for piece in filter(None, name.split("/")):
            here = f"{here}/{piece}"
            if here in self._checked_links:
                continue
            parent = self.file.get(here.rpartition("/")[0] or "/")
            if not isinstance(parent, h5py.Group) or not parent.id.links.exists(piece.encode()):
                return
            link = parent.get(piece, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                check_file_name(self.path, here, link.filename)
                if not (self.path.parent / link.filename).is_file():
                    raise InputError(
                        file=self.path,
                        field=here,
                        found=f"a link to {link.filename}, which is not there",
                        expected="the linked file in the same folder",
                    )
            if isinstance(link, h5py.SoftLink):
                self._checked_links.add(here)  # before following it, so that a circle ends
                self.check_links(link.path if link.path.startswith("/") else f"{here.rpartition('/')[0]}/{link.path}")
            self._checked_links.add(here)

    def dataset(self, *names: str) -> h5py.Dataset:
        """The first of ``names`` that exists and can be read."""
        name = next((name for name in names if name in self), None)
        dataset = self.file[name or choose_key(self.path, self.keys(), *names)]
        if not isinstance(dataset, h5py.Dataset):
            raise InputError(file=self.path, field=name, found="a group", expected="a dataset")
        where = Path(dataset.file.filename).resolve()  # a linked file may link on
        if not where.is_relative_to(self.path.parent.resolve()):
            raise InputError(
                file=self.path,
                field=name,
                found=f"links that lead to {where}",
                expected="a file in the same folder, or in one below it",
            )
        check_readable(self.path, dataset)
        return dataset

    def read(self, *names: str) -> NDArray:
        """Read the first of ``names`` that exists as a numeric array."""
        return self.read_dataset(self.dataset(*names))

    def read_dataset(self, dataset: h5py.Dataset) -> NDArray:
        """Read a dataset as a numeric array."""
        compound = dataset.dtype.names in (("r", "i"), ("real", "imag")) and dataset.dtype.kind == "V"
        if dataset.dtype.kind not in "biufc" and not compound:
            raise InputError(
                file=self.path,
                field=dataset.name,
                found=f"type {dataset.dtype}",
                expected="numbers",
                hint=OTHER_ARRAYS.format(to_type(self.path, "--frames KEY --positions KEY")),
            )
        size = dataset.size * dataset.dtype.itemsize if dataset.shape is not None else 0
        if size > self.budget:
            raise InputError(
                file=self.path,
                field=dataset.name,
                found=f"{size / 2**20:.4g} MiB",
                expected=f"at most {self.budget / 2**20:.4g} MiB more from this file (max_bytes)",
            )
        if not dataset.is_virtual:
            check_ratio(self.path, dataset.name, dataset.id.get_storage_size(), size, DATASET_RATIO)
        self.budget -= size
        values = np.asarray(dataset[()])
        if values.dtype.names is None:
            return values
        real, imaginary = (values[name] for name in values.dtype.names)
        made = np.asarray(real + 1j * imaginary)
        return made.swapaxes(-1, -2) if made.ndim > 1 and "MATLAB_class" in dataset.attrs else made

    def read_optional(self, *names: str) -> NDArray | None:
        """Read the first of ``names`` that exists, or None."""
        return self.read(*names) if any(name in self for name in names) else None

    def number(self, *names: str) -> float | None:
        """One number from the first of ``names`` that is a dataset or an attribute of the root, or None."""
        for name in names:
            value = self.file.attrs[name] if name in self.file.attrs else self.read_optional(name)
            if value is None:
                continue
            array = np.asarray(value)
            if array.size != 1 or array.dtype.kind not in "biuf":
                raise InputError(file=self.path, field=name, found=repr(value), expected="one number")
            return float(array.ravel()[0])
        return None

    def text(self, name: str) -> str | None:
        """A text dataset or attribute of the root, or None."""
        value = self.file.attrs.get(name)
        if value is None and name in self and isinstance(self.file[name], h5py.Dataset):
            dataset = self.file[name]
            if dataset.size != 1 or dataset.dtype.kind not in "OS":
                return None
            value = dataset[()]
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.ravel()[0]
        if isinstance(value, bytes):
            return value.decode(errors="replace")
        return value if isinstance(value, str) else None

    def frames(self, n_positions: int | None, *names: str, axes: str | None = None) -> tuple[Hdf5Frames, str]:
        """The patterns, which stay on disk, and the name of their dataset; the number of positions helps to tell its axes."""
        return self.joined_frames([self.dataset(*names)], n_positions, axes)

    def joined_frames(
        self, datasets: list[h5py.Dataset], n_positions: int | None = None, axes: str | None = None
    ) -> tuple[Hdf5Frames, str]:
        """Frames of several datasets, one after the other."""
        first = datasets[0]
        axes = self._axes(first, n_positions) if axes is None else read_axes(axes, first.ndim)
        for dataset in datasets:
            if dataset.dtype.kind not in "biuf":
                raise InputError(
                    file=self.path, field=dataset.name, found=f"type {dataset.dtype}", expected="real numbers"
                )
            if dataset.ndim != first.ndim or dataset.shape[-2:] != first.shape[-2:] or dataset.dtype != first.dtype:
                raise InputError(
                    file=self.path,
                    field=dataset.name,
                    found=f"{dataset.dtype} of shape {dataset.shape}",
                    expected=f"{first.dtype} frames of {first.shape[-2:]} as in {first.name}",
                )
        n = sum(frames_shape(dataset.shape, axes)[0] for dataset in datasets)
        one = math.prod(frames_shape(first.shape, axes)[1:]) * max(first.dtype.itemsize, 4)
        needed = max(one * FRAMES_IN_MEMORY, 8 * n)
        if needed > self.budget:
            raise InputError(
                file=self.path,
                field=first.name,
                found=f"frames of {one / 2**20:.4g} MiB" if one * FRAMES_IN_MEMORY > self.budget else f"{n} frames",
                expected=f"{FRAMES_IN_MEMORY} frames within {self.budget / 2**20:.4g} MiB (max_bytes)",
            )
        return Hdf5Frames(datasets, axes), first.name

    def _axes(self, dataset: h5py.Dataset, n: int | None) -> str:
        shape: tuple[int, ...] = dataset.shape or ()
        if len(shape) not in (3, 4) or 0 in shape or dataset.dtype.kind not in "biuf":
            raise InputError(
                file=self.path,
                field=dataset.name,
                found=f"type {dataset.dtype}" if dataset.dtype.kind not in "biuf" else f"shape {shape}",
                expected=f"real numbers: {'' if n is None else f'{n} '}patterns (n, N, N)",
                hint=OTHER_ARRAYS.format(to_type(self.path, "--frames KEY")),
            )
        axes, note = likely_axes(shape, n, lambda: sample_of(dataset, min(SAMPLE_BYTES, self.budget // 4)))
        if self.attribute(dataset.name, "MATLAB_class") is not None:
            axes = axes.translate(str.maketrans("yx", "xy"))  # MATLAB 7.3 stores its axes in reverse order
        if note:
            self.notes.append(f"{self.path}: {dataset.name}: {note}")
        return axes


def check_file_name(path: Path, field: str, name: str) -> None:
    """Refuse a link to a file by an absolute name, or one that leaves the folder of ``path``."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or PureWindowsPath(name).drive or ".." in parts:
        raise InputError(
            file=path,
            field=field,
            found=f"a link to {name}",
            expected="a file in the same folder, or in one below it",
            hint="absolute links and links through '..' are not followed; put the files together",
        )


def check_readable(path: Path, dataset: h5py.Dataset) -> None:
    """Refuse a dataset whose compression filter is not available, or whose bytes lie in another raw file."""
    plan = dataset.id.get_create_plist()
    if dataset.chunks is not None and plan.get_nfilters():
        check_chunk(path, dataset.name, math.prod(dataset.chunks) * dataset.dtype.itemsize)
    for number in range(plan.get_nfilters()):
        code, _, _, title = plan.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            raise InputError(
                file=path,
                field=dataset.name,
                found=f"compression filter {code} ({title.decode(errors='replace') or 'unnamed'}), not available here",
                expected="a filter of HDF5 or hdf5plugin",
                hint="install the filter's HDF5 plugin, or rewrite the file with another compression",
            )
    if dataset.is_virtual:
        for source in dataset.virtual_sources():
            if source.file_name != ".":
                check_file_name(path, dataset.name, source.file_name)
    if dataset.external:
        raise InputError(
            file=path, field=dataset.name, found="data stored in another raw file", expected="data inside the HDF5 file"
        )
