"""MATLAB files of version 5, read with scipy after their size has been checked; those of version 7.3 are HDF5."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from numpy.typing import NDArray

from ptycho_ray.data.contents import choose_key
from ptycho_ray.errors import InputError

SIGNATURE = b"MATLAB 5.0 MAT-file"
_COMPRESSED = 15
_EXPANSION = 8  # numbers are stored in as little as one byte each and read as float64
_PIECE = 2**20


class MatFile:
    """Variables of a MATLAB 5 file by name; fields of structures as 'structure/field'.

    Raises InputError for a file that is damaged or would take more than ``max_bytes``.
    """

    kind = "mat"

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.budget = path, max_bytes
        check_size(path, max_bytes)
        try:
            content = scipy.io.loadmat(path, simplify_cells=True, verify_compressed_data_integrity=True)
        except MemoryError as error:
            raise InputError(file=path, found="sizes beyond the memory", expected="a complete MATLAB file") from error
        except (OSError, KeyError, IndexError, ValueError, TypeError, NotImplementedError, OverflowError) as error:
            raise self._damaged(error) from error
        except (zlib.error, EOFError, AttributeError, RecursionError, NameError, scipy.io.matlab.MatReadError) as error:
            raise self._damaged(error) from error
        self.values = dict(_flat(content))

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def keys(self) -> list[str]:
        """Names of all variables and fields."""
        return list(self.values)

    def read(self, *names: str) -> NDArray:
        """The first of ``names`` that exists, as a numeric array."""
        name = choose_key(self.path, self.values, *names)
        array = np.asarray(self.values[name])
        if array.dtype.kind not in "biufc":
            raise InputError(file=self.path, field=name, found=f"type {array.dtype}", expected="numbers")
        return array

    def read_optional(self, *names: str) -> NDArray | None:
        """The first of ``names`` that exists, or None."""
        return self.read(*names) if any(name in self for name in names) else None

    def number(self, *names: str) -> float | None:
        """One number, or None where there is no such key."""
        value = self.read_optional(*names)
        return float(value.ravel()[0]) if value is not None and value.size == 1 and value.dtype.kind in "biuf" else None

    def text(self, name: str) -> str | None:
        """A text, or None."""
        value = self.values.get(name)
        return value if isinstance(value, str) else None

    def _damaged(self, error: BaseException) -> InputError:
        return InputError(file=self.path, found=f"damaged data ({error})", expected="a complete MATLAB file")


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in content.items():
        if str(name).startswith("__"):
            continue
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}/")
        else:
            found.append((f"{prefix}{name}", value))
    return found


def check_size(path: Path, max_bytes: int) -> None:
    """Walk over the elements of the file, inflating without keeping; refuse what would need more than ``max_bytes``."""
    total = 0
    with path.open("rb") as stream:
        header = stream.read(128)
        order = "big" if header[126:128] == b"MI" else "little"
        while len(tag := stream.read(8)) == 8:
            kind = int.from_bytes(tag[:4], order)  # type: ignore[arg-type]
            size = int.from_bytes(tag[4:], order)  # type: ignore[arg-type]
            end = stream.tell() + size
            if end > path.stat().st_size:
                raise InputError(file=path, found="a truncated MATLAB file", expected="a complete one")
            if kind == _COMPRESSED:
                inflating = zlib.decompressobj()
                while stream.tell() < end and not inflating.eof:
                    piece = stream.read(min(_PIECE, end - stream.tell()))
                    try:
                        while piece:
                            total += len(inflating.decompress(piece, _PIECE))
                            piece = inflating.unconsumed_tail
                            _refuse_above(path, total, max_bytes)
                    except zlib.error as error:
                        raise InputError(
                            file=path, found=f"damaged data ({error})", expected="a complete MATLAB file"
                        ) from error
            else:
                total += size
            _refuse_above(path, total, max_bytes)
            stream.seek(end)


def _refuse_above(path: Path, total: int, max_bytes: int) -> None:
    if total * _EXPANSION > max_bytes:
        raise InputError(
            file=path,
            found=f"more than {total / 2**20:.4g} MiB of variables",
            expected=f"at most {max_bytes / _EXPANSION / 2**20:.4g} MiB (max_bytes)",
        )
