"""Opening a file as NPZ, HDF5, MATLAB, a table of numbers or frames behind a header, recognised by its first bytes and never by
its name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
from numpy.typing import NDArray

from ptycho_ray.data import mat
from ptycho_ray.data.contents import to_type
from ptycho_ray.data.hdf5 import Hdf5Scan, check_heaps, open_hdf5
from ptycho_ray.data.inflation import check_ratio
from ptycho_ray.data.mat import MatFile
from ptycho_ray.data.npz import NpzFile
from ptycho_ray.data.tables import TableFile as TableFile
from ptycho_ray.data.tables import is_text
from ptycho_ray.errors import InputError
from ptycho_ray.files import require_file

COMPRESSED = {b"BZh": bz2.open, b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}
BINARY_WITH_TEXT = (b"MQ1,", b"HDR,", b"IMGBLO", b"<")
"""Files that begin with text and go on with numbers."""
_PIECE = 2**20


class Content(Protocol):
    """What a format needs from an open file: arrays, numbers and strings by name. ``kind`` is npz, hdf5, mat, table or
    binary."""

    kind: str
    path: Path

    def __contains__(self, name: str) -> bool: ...

    def keys(self) -> list[str]: ...

    def read(self, *names: str) -> NDArray: ...

    def read_optional(self, *names: str) -> NDArray | None: ...

    def number(self, *names: str) -> float | None: ...

    def text(self, name: str) -> str | None: ...


class BinaryFile:
    """A file that is none of the containers: frames behind a header, which the formats of microscopes read themselves.

    ``start`` are its first bytes, ``size`` all of them, ``declared`` the shape and type that a user names for raw data. A
    folder of images is one too, with ``start`` empty.
    """

    kind = "binary"

    def __init__(self, path: Path, max_bytes: int, declared: str | None = None) -> None:
        self.path, self.max_bytes, self.declared = path, max_bytes, declared
        self.is_folder = path.is_dir()
        self.size = 0 if self.is_folder else path.stat().st_size
        self.start = b"" if self.is_folder else self.bytes(0, 4096)
        self.notes: list[str] = []

    def bytes(self, offset: int, count: int) -> bytes:
        """At most ``count`` bytes from ``offset`` on."""
        with self.path.open("rb") as stream:
            stream.seek(offset)
            return stream.read(count)

    def __contains__(self, name: str) -> bool:
        return False

    def keys(self) -> list[str]:
        return []

    def read(self, *names: str) -> NDArray:
        raise InputError(file=self.path, field=names[0], found="a file without named arrays", expected="one with them")

    def read_optional(self, *names: str) -> NDArray | None:
        return None

    def number(self, *names: str) -> float | None:
        return None

    def text(self, name: str) -> str | None:
        return None


def require_scan(path: str | Path) -> Path:
    """``path`` as a Path: a file, a folder of images or a Zarr store. MissingFileError for anything else."""
    path = Path(path)
    zarr = any((path / name).is_file() for name in (".zgroup", "zarr.json"))
    if path.is_dir() and (zarr or any(True for _ in images_in(path))):
        return path
    return require_file(path)


def images_in(folder: Path) -> Iterator[Path]:
    """The TIFF images of a folder, in the order of the numbers in their names."""

    def order(path: Path) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]

    found = [path for path in folder.iterdir() if path.suffix.lower() in (".tif", ".tiff") and path.is_file()]
    yield from sorted(found, key=order)


@contextmanager
def opened(path: Path, max_bytes: int, declared: str | None = None) -> Iterator[Content]:
    """Open a file for reading; ``declared`` is the shape and type of raw data. InputError if it is damaged."""
    if declared is not None or path.is_dir():
        yield BinaryFile(path, max_bytes, declared)
        return
    with path.open("rb") as stream:
        start = stream.read(1024)
    if (pieces := inflated(path, max_bytes)) is not None:
        with NpzFile(path, max_bytes, io.BytesIO(b"".join(pieces))) as npz:
            yield npz
    elif start[:2] == b"PK":
        with NpzFile(path, max_bytes) as npz:
            yield npz
    elif _is_hdf5(path):
        check_heaps(path)
        with open_hdf5(path) as file:
            yield Hdf5Scan(path, file, max_bytes)
    elif start.startswith(mat.SIGNATURE):
        yield MatFile(path, max_bytes)
    elif is_text(start) and not start.startswith(BINARY_WITH_TEXT):
        yield TableFile(path, max_bytes)
    else:
        yield BinaryFile(path, max_bytes)


def _is_hdf5(path: Path) -> bool:
    try:
        return bool(h5py.is_hdf5(path))
    except (OSError, ValueError):
        return False


def inflated(path: Path, max_bytes: int) -> Iterator[bytes] | None:
    """The content of an NPZ file that is compressed as a whole (bz2, gzip, xz), piece by piece; None for any other file.

    The pieces raise InputError for a damaged file, for what is no NPZ, for more than ``max_bytes``, and for a bomb.
    """
    with path.open("rb") as stream:
        start = stream.read(8)
    unpack = next((function for magic, function in COMPRESSED.items() if start.startswith(magic)), None)
    return None if unpack is None else _pieces(path, unpack, max_bytes)


def _pieces(path: Path, unpack: object, max_bytes: int) -> Iterator[bytes]:
    size, stored = 0, path.stat().st_size
    try:
        with unpack(path, "rb") as stream:  # type: ignore[operator]
            while piece := stream.read(_PIECE):
                if not size and piece[:2] != b"PK":
                    raise InputError(
                        file=path,
                        found="compressed data that is no NPZ",
                        expected="a compressed NPZ file",
                        hint=f"Unpack it first (bunzip2, gunzip or unxz). {to_type(path.with_suffix(''))}",
                    )
                size += len(piece)
                check_ratio(path, None, stored, size)
                if size > max_bytes:
                    raise InputError(
                        file=path,
                        found=f"more than {max_bytes / 2**20:.4g} MiB when inflated",
                        expected="less (max_bytes)",
                    )
                yield piece
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(file=path, found=f"damaged data ({error})", expected="a complete compressed file") from error
