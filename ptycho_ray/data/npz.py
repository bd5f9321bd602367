"""Scans in NPZ files: PtychoPINN's keys, tike's, and the layout ``dp``/``pos``.

Nothing is unpickled, and the sizes declared in the file are checked before anything is inflated.
"""

from __future__ import annotations

import json
import tokenize
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.fields import ScanFields, choose_key, frames_first, metadata_from_text
from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path

if TYPE_CHECKING:
    from ptycho_ray.data.raw_data import RawData

SUSPICIOUS_RATIO = 300
SUSPICIOUS_BYTES = 256 * 2**20

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError, tokenize.TokenError)


class NpzFile:
    """Arrays of an NPZ file by name, each checked before it is read.

    Raises InputError for an archive that is damaged or truncated, an array that would need pickle, and arrays that
    would inflate to more than ``max_bytes`` together.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self.budget = path, max_bytes
        try:
            self.archive = zipfile.ZipFile(path)
        except _DAMAGE as error:
            raise InputError(file=path, found=f"a damaged archive ({error})", expected="a complete NPZ file") from error
        self.members = {
            info.filename.removesuffix(".npy"): info for info in self.archive.infolist() if not info.is_dir()
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

    def read(self, name: str) -> NDArray:
        """Read one array."""
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

    def number(self, name: str) -> float | None:
        """One number, or None where the key is missing or holds something else."""
        value = self.read_optional(name)
        return float(value.ravel()[0]) if value is not None and value.size == 1 and value.dtype.kind in "fiub" else None

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
                hint="store a scan of this size as HDF5, which is read piece by piece",
            )
        if size > SUSPICIOUS_BYTES and size > SUSPICIOUS_RATIO * max(info.compress_size, 1):
            raise InputError(
                file=self.path,
                field=name,
                found=f"{info.compress_size} bytes that claim to inflate to {size}",
                expected=f"a ratio below {SUSPICIOUS_RATIO}",
                hint="this looks like a decompression bomb",
            )
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


def read_npz(path: Path, *, max_bytes: int) -> ScanFields:
    """Read a scan from an NPZ file, telling its layout from its keys."""
    with NpzFile(path, max_bytes) as npz:
        if "data" in npz and "scan" in npz:
            return _read_tike(npz)
        if "dp" in npz and "pos" in npz:
            return _read_simulated(npz)
        return _read_ptychopinn(npz)


def _read_ptychopinn(npz: NpzFile) -> ScanFields:
    keys = list(npz.members)
    pattern_key = choose_key(npz.path, keys, "diff3d", "diffraction")
    coordinates = [npz.read(choose_key(npz.path, keys, name)) for name in ("ycoords", "xcoords")]
    positions = _columns(npz, *coordinates)
    starts = [npz.read_optional(name) for name in ("ycoords_start", "xcoords_start")]
    nominal = None if starts[0] is None or starts[1] is None else _columns(npz, starts[0], starts[1])
    truth = npz.read_optional("Y")
    if truth is not None and truth.shape[:1] != positions.shape[:1]:
        warnings.warn(
            f"{npz.path}: Y of shape {truth.shape} does not fit {len(positions)} positions, ignored", stacklevel=4
        )
        truth = None
    counts = npz.number("counts_are_photons")
    return ScanFields(
        frames=frames_first(npz.read(pattern_key), len(positions), npz.path, pattern_key),
        frames_field=pattern_key,
        positions=positions,
        nominal=nominal,
        probe=npz.read(choose_key(npz.path, keys, "probeGuess", "probe")),
        object_truth=npz.read_optional("objectGuess"),
        Y=truth,
        scan_index=npz.read_optional("scan_index"),
        bad_pixels=npz.read_optional("bad_pixels"),
        counts_are_photons=None if counts is None else bool(counts),
        pixel_size_m=npz.number("pixel_size_m"),
        energy_eV=npz.number("energy_eV"),
        detector_distance_m=npz.number("detector_distance_m"),
        metadata=_metadata(npz),
    )


def _read_tike(npz: NpzFile) -> ScanFields:
    """tike: data (1, n, N, N) intensity with DC at the corner, scan (1, n, 2) = row, column of the patch corner."""
    frames, probe = _stack(npz, "data"), npz.read_optional("probe")
    frames = frames.reshape(-1, *frames.shape[-2:])
    return ScanFields(
        frames=np.fft.fftshift(frames, axes=(-2, -1)),
        frames_field="data",
        positions=_corners(npz, "scan") + frames.shape[-1] // 2,
        probe=None if probe is None else probe.reshape(-1, *probe.shape[-2:]),
        domain="intensity",
        metadata=_metadata(npz),
    )


def _read_simulated(npz: NpzFile) -> ScanFields:
    """dp (n, N, N) counts, pos (n, 2) = row, column of the patch corner, probe_guess, obj (truth)."""
    frames = _stack(npz, "dp")
    return ScanFields(
        frames=frames,
        frames_field="dp",
        positions=_corners(npz, "pos") + frames.shape[-1] // 2,
        probe=npz.read_optional("probe_guess", "probe"),
        object_truth=npz.read_optional("obj"),
        domain="intensity",
        metadata=_metadata(npz),
    )


def _stack(npz: NpzFile, name: str) -> NDArray:
    frames = npz.read(name)
    if frames.ndim < 3:
        raise InputError(file=npz.path, field=name, found=f"shape {frames.shape}", expected="patterns (n, N, N)")
    return frames


def _corners(npz: NpzFile, name: str) -> NDArray[np.float64]:
    """Patch corners [n, 2] (row, column) from an array (..., n, 2)."""
    pairs = npz.read(name)
    if pairs.dtype.kind not in "fiu" or pairs.ndim < 2 or pairs.shape[-1] != 2:
        raise InputError(
            file=npz.path, field=name, found=f"{pairs.dtype} {pairs.shape}", expected="real numbers (n, 2): row, column"
        )
    return pairs.reshape(-1, 2).astype(np.float64)


def _columns(npz: NpzFile, rows: NDArray, columns: NDArray) -> NDArray[np.float64]:
    if rows.shape != columns.shape or rows.ndim != 1 or rows.dtype.kind not in "fiu" or columns.dtype.kind not in "fiu":
        raise InputError(
            file=npz.path,
            field="xcoords, ycoords",
            found=f"{columns.dtype} {columns.shape} and {rows.dtype} {rows.shape}",
            expected="real numbers, one per pattern in each",
        )
    return np.stack([rows, columns], axis=1).astype(np.float64)


def _metadata(npz: NpzFile) -> dict[str, Any] | None:
    if "_metadata" in npz and npz.dtype("_metadata").hasobject:
        warnings.warn(f"{npz.path}: _metadata is pickled and was not read", stacklevel=5)
        name = "meta"
    else:
        name = "_metadata" if "_metadata" in npz else "meta"
    if name not in npz or npz.dtype(name).kind != "U":
        return None
    return metadata_from_text(str(npz.read(name)))


def write_npz(raw: RawData, path: str | Path) -> None:
    """Write a scan with the PtychoPINN keys; ``diff3d`` is amplitude."""
    arrays: dict[str, Any] = {
        "xcoords": raw.xcoords,
        "ycoords": raw.ycoords,
        "xcoords_start": raw.xcoords_start,
        "ycoords_start": raw.ycoords_start,
        "diff3d": raw.diff3d,
        "probeGuess": raw.probeGuess,
        "scan_index": raw.scan_index,
        "counts_are_photons": raw.counts_are_photons,
    }
    optional = {
        "objectGuess": raw.object_truth,
        "Y": raw.Y,
        "bad_pixels": raw.bad_pixels,
        "pixel_size_m": raw.pixel_size_m,
        "energy_eV": raw.energy_eV,
        "detector_distance_m": raw.detector_distance_m,
    }
    arrays |= {name: value for name, value in optional.items() if value is not None}
    if raw.metadata is not None:
        arrays["meta"] = np.array(json.dumps(raw.metadata))
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
