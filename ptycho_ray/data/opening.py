"""Opening a file as NPZ, HDF5, MATLAB or a table of numbers, recognised by its first bytes and never by its name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data import mat
from ptycho_ray.data.hdf5 import Hdf5Scan, check_heaps, open_hdf5
from ptycho_ray.data.mat import MatFile
from ptycho_ray.data.npz import NpzFile
from ptycho_ray.errors import InputError

COMPRESSED = {b"BZh": bz2.open, b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open}
LARGEST_TABLE = 256 * 2**20
_PIECE = 2**20


class Content(Protocol):
    """What a format needs from an open file: arrays, numbers and strings by name. ``kind`` is npz, hdf5, mat or table."""

    kind: str
    path: Path

    def __contains__(self, name: str) -> bool: ...

    def keys(self) -> list[str]: ...

    def read(self, *names: str) -> NDArray: ...

    def read_optional(self, *names: str) -> NDArray | None: ...

    def number(self, *names: str) -> float | None: ...

    def text(self, name: str) -> str | None: ...


class TableFile:
    """A text file of numbers as one array ``table`` [lines, columns]; lines that hold no numbers may come first."""

    kind = "table"

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        if path.stat().st_size > min(max_bytes, LARGEST_TABLE):
            raise InputError(file=path, found=f"{path.stat().st_size} bytes of text", expected="a table of positions")
        self.values = {"table": _numbers(path)}

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def keys(self) -> list[str]:
        return list(self.values)

    def read(self, *names: str) -> NDArray:
        return next(self.values[name] for name in names if name in self.values)

    def read_optional(self, *names: str) -> NDArray | None:
        return next((self.values[name] for name in names if name in self.values), None)

    def number(self, *names: str) -> float | None:
        return None

    def text(self, name: str) -> str | None:
        return None


@contextmanager
def opened(path: Path, max_bytes: int) -> Iterator[Content]:
    """Open a file for reading. InputError if it is of another kind, or damaged."""
    with path.open("rb") as stream:
        start = stream.read(128)
    unpack = next((function for magic, function in COMPRESSED.items() if start.startswith(magic)), None)
    if unpack is not None:
        with NpzFile(path, max_bytes, _unpacked(path, unpack, max_bytes)) as npz:
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
    elif _is_text(start):
        yield TableFile(path, max_bytes)
    else:
        raise _unknown(path)


def _is_hdf5(path: Path) -> bool:
    try:
        return bool(h5py.is_hdf5(path))
    except (OSError, ValueError):
        return False


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("ascii")
    except UnicodeDecodeError:
        return False
    return bool(text.strip()) and all(character.isprintable() or character in "\t\r\n" for character in text)


def _numbers(path: Path) -> NDArray[np.float64]:
    lines: list[list[float]] = []
    try:
        with path.open(encoding="ascii") as stream:
            for number, line in enumerate(stream):
                words = line.replace(",", " ").replace(";", " ").split()
                try:
                    values = [float(word) for word in words]
                except ValueError:
                    if lines:
                        raise InputError(
                            file=path, field=f"line {number + 1}", found=repr(line[:40]), expected="numbers"
                        ) from None
                    continue
                if values:
                    lines.append(values)
    except UnicodeDecodeError as error:
        raise InputError(file=path, found="bytes that are no text", expected="a table of numbers") from error
    if not lines:
        raise _unknown(path)
    if len({len(line) for line in lines}) > 1:
        raise InputError(file=path, found="lines of different lengths", expected="a table of numbers")
    return np.array(lines)


def _unpacked(path: Path, unpack: object, max_bytes: int) -> IO[bytes]:
    """The inflated content of a compressed NPZ file, in memory."""
    whole = io.BytesIO()
    try:
        with unpack(path, "rb") as stream:  # type: ignore[operator]
            while piece := stream.read(_PIECE):
                whole.write(piece)
                if whole.tell() > max_bytes:
                    raise InputError(
                        file=path,
                        found=f"more than {max_bytes / 2**20:.4g} MiB when inflated",
                        expected="less (max_bytes)",
                    )
                if whole.tell() <= len(piece) and piece[:2] != b"PK":
                    raise InputError(
                        file=path, found="compressed data that is no NPZ", expected="a compressed NPZ file"
                    )
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(file=path, found=f"damaged data ({error})", expected="a complete compressed file") from error
    whole.seek(0)
    return whole


def _unknown(path: Path) -> InputError:
    return InputError(
        file=path,
        found="neither a zip archive nor HDF5, MATLAB or a table of numbers",
        expected="a scan in a format that docs/formats.md lists",
    )
