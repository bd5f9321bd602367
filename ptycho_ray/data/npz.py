"""NPZ files: nothing is unpickled, and the sizes declared in the file are checked before anything is inflated."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import choose_key
from ptycho_ray.data.inflation import check_ratio
from ptycho_ray.errors import InputError

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, tokenize.TokenError)


class NpzFile:
    """Arrays of an NPZ file by name, each checked before it is read.

    Raises InputError for an archive that is damaged or truncated, an array that would need pickle, and arrays that
    would inflate to more than ``max_bytes`` together. ``stream`` provides the bytes, if they do not come from ``path``.
    """

    kind = "npz"

    def __init__(self, path: Path, max_bytes: int, stream: IO[bytes] | None = None) -> None:
        self.path, self.budget = path, max_bytes
        try:
            self.archive = zipfile.ZipFile(path if stream is None else stream)
        except _DAMAGE as error:
            raise InputError(file=path, found=f"a damaged archive ({error})", expected="a complete NPZ file") from error
        self.members = {
            info.filename.removesuffix(".npy"): info
            for info in self.archive.infolist()
            if not info.filename.endswith("/")
        }

    def __enter__(self) -> NpzFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.archive.close()

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def dtype(self, name: str) -> np.dtype:
        """Type of an array, from its header."""
        return self._header(name)[1]

    def keys(self) -> list[str]:
        """Names of all arrays."""
        return list(self.members)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, from its header."""
        return self._header(name)[0]

    def objects(self) -> list[str]:
        """Names of arrays of Python objects; none in an archive that is damaged."""
        try:
            return [name for name in self.members if self.dtype(name).hasobject]
        except InputError:
            return []

    def read(self, *names: str) -> NDArray:
        """Read the first of ``names`` that exists."""
        name = choose_key(self.path, self.members, *names)
        info = self.members[name]
        shape, dtype, header_bytes = self._header(name)
        if dtype.hasobject:
            raise InputError(
                file=self.path,
                field=name,
                found="an array of Python objects, which only pickle can read",
                expected="an array of numbers",
                hint="pickle runs code from the file and is never used here; save the array with a plain dtype",
            )
        declared = int(np.prod(shape, dtype=object)) * dtype.itemsize + header_bytes
        self._check_size(name, info, declared)
        try:
            with self.archive.open(info) as stream:
                array = np.lib.format.read_array(stream, allow_pickle=False)
                stream.read()  # reaching the end makes zipfile compare the checksum
                return array
        except _DAMAGE as error:
            raise self._damaged(name, error) from error

    def read_optional(self, *names: str) -> NDArray | None:
        """Read the first of ``names`` that exists, or None."""
        for name in names:
            if name in self:
                return self.read(name)
        return None

    def number(self, *names: str) -> float | None:
        """One number, or None where the key is missing or holds something else."""
        value = self.read_optional(*names)
        return float(value.ravel()[0]) if value is not None and value.size == 1 and value.dtype.kind in "fiub" else None

    def text(self, name: str) -> str | None:
        """A text, or None where the key is missing or holds something else."""
        if name not in self or self.dtype(name).kind != "U" or np.prod(self.shape(name), dtype=object) != 1:
            return None
        return str(self.read(name).ravel()[0])

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype, int]:
        try:
            with self.archive.open(self.members[name]) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
                return shape, dtype, stream.tell()
        except _DAMAGE as error:
            raise self._damaged(name, error) from error

    def _check_size(self, name: str, info: zipfile.ZipInfo, declared: int) -> None:
        size = max(declared, info.file_size)
        if size > self.budget:
            raise InputError(
                file=self.path,
                field=name,
                found=f"{size / 2**20:.4g} MiB when inflated",
                expected=f"at most {self.budget / 2**20:.4g} MiB more from this file (max_bytes)",
                hint="store a scan of this size as HDF5, which is read in parts",
            )
        check_ratio(self.path, name, info.compress_size, size)
        if declared > info.file_size:
            raise InputError(
                file=self.path,
                field=name,
                found=f"{info.file_size} bytes",
                expected=f"at least the {declared} bytes of the array it declares",
            )
        self.budget -= size

    def _damaged(self, name: str, error: Exception) -> InputError:
        return InputError(
            file=self.path, field=name, found=f"damaged data ({error})", expected="a complete array in NPY format"
        )
