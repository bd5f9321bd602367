"""Scans in HDF5 files. Patterns stay on disk and are read when asked for.

Reads the PtychoPINN keys, the layout ``dp``/``pos``, Ptychodus training data and PtyLab; CXI is in ``cxi``.
Compression filters of detectors (bitshuffle, LZ4, ...) come from hdf5plugin.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import hdf5plugin  # noqa: F401  (importing it registers the filters)
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.fields import ScanFields, choose_key, frames_axis, metadata_from_text
from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path

if TYPE_CHECKING:
    from ptycho_ray.data.raw_data import RawData

PLANCK_TIMES_LIGHT_EV_M = 1.23984198e-6
CHUNK_CACHE_BYTES = 32 * 2**20
FRAMES_IN_MEMORY = 32
PATTERN_KEYS = ("diff3d", "diffraction", "dp", "patterns", "ptychogram", "data", "entry/data/data")
AMPLITUDE_KEYS = ("diff3d", "diffraction")


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


class Hdf5Frames:
    """Frames [n, rows, columns] of an HDF5 dataset, read in runs of consecutive frames.

    The file is opened for each read, so that the object can be pickled and used in any process. ``frame_axis`` is the
    dataset's axis that counts frames (0, or 2 for a stack (rows, columns, n)), ``labels`` their numbers in the file.
    """

    in_memory = False

    def __init__(self, path: Path, dataset: h5py.Dataset, frame_axis: int = 0) -> None:
        self.path, self.name, self.frame_axis = path.resolve(), dataset.name, frame_axis
        shape = tuple(np.roll(dataset.shape, 1)) if frame_axis == 2 else dataset.shape
        self.shape: tuple[int, int, int] = (int(shape[0]), int(shape[1]), int(shape[2]))
        self.dtype = dataset.dtype
        self.labels = np.arange(self.shape[0])

    def read(self, indices: NDArray[np.int64]) -> NDArray:
        """The frames ``indices`` [k], in that order, repeated where an index is."""
        wanted, back = np.unique(self.labels[indices], return_inverse=True)
        frames = np.empty((len(wanted), *self.shape[1:]), dtype=self.dtype)
        with open_hdf5(self.path) as file:
            dataset = file[self.name]
            starts = np.flatnonzero(np.diff(wanted, prepend=-2) > 1)
            for start, stop in zip(starts, [*starts[1:], len(wanted)], strict=False):  # nothing to read: no starts
                piece = slice(wanted[start], wanted[stop - 1] + 1)
                block = dataset[piece] if self.frame_axis == 0 else np.moveaxis(dataset[:, :, piece], 2, 0)
                frames[start:stop] = block
        return frames if np.array_equal(back, np.arange(len(wanted))) else frames[back]

    def take(self, indices: NDArray[np.int64]) -> Hdf5Frames:
        """The frames ``indices`` [k] as a source of their own; nothing is read."""
        chosen = object.__new__(Hdf5Frames)
        chosen.__dict__.update(self.__dict__)
        chosen.labels = self.labels[indices]
        chosen.shape = (len(indices), self.shape[1], self.shape[2])
        return chosen


class Hdf5Scan:
    """Checked access to the datasets of one open HDF5 file."""

    def __init__(self, path: Path, file: h5py.File, max_bytes: int) -> None:
        self.path, self.file, self.budget = path, file, max_bytes

    def __contains__(self, name: str) -> bool:
        return name in self.file

    def keys(self) -> list[str]:
        """Paths of all datasets."""
        found: list[str] = []
        self.file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        return found

    def dataset(self, *names: str) -> h5py.Dataset:
        """The first of ``names`` that exists and can be read."""
        name = next((name for name in names if name in self.file), None)
        dataset = self.file[name or choose_key(self.path, self.keys(), *names)]
        if not isinstance(dataset, h5py.Dataset):
            raise InputError(file=self.path, field=name, found="a group", expected="a dataset")
        check_readable(self.path, dataset)
        return dataset

    def read(self, *names: str) -> NDArray:
        """Read the first of ``names`` that exists as a numeric array."""
        dataset = self.dataset(*names)
        if dataset.dtype.kind not in "biufc":
            raise InputError(file=self.path, field=dataset.name, found=f"type {dataset.dtype}", expected="numbers")
        if dataset.nbytes > self.budget:
            raise InputError(
                file=self.path,
                field=dataset.name,
                found=f"{dataset.nbytes / 2**20:.4g} MiB",
                expected=f"at most {self.budget / 2**20:.4g} MiB more from this file (max_bytes)",
            )
        self.budget -= dataset.nbytes
        return np.asarray(dataset[()])

    def read_optional(self, *names: str) -> NDArray | None:
        """Read the first of ``names`` that exists, or None."""
        return self.read(*names) if any(name in self.file for name in names) else None

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

    def frames(self, n_positions: int, *names: str) -> tuple[Hdf5Frames, str]:
        """The patterns, which stay on disk, and the name of their dataset."""
        dataset = self.dataset(*names)
        axis = frames_axis(dataset.shape, n_positions, self.path, dataset.name)
        if dataset.dtype.kind not in "biuf":
            raise InputError(file=self.path, field=dataset.name, found=f"type {dataset.dtype}", expected="real numbers")
        if dataset.nbytes / n_positions * FRAMES_IN_MEMORY > self.budget:
            raise InputError(
                file=self.path,
                field=dataset.name,
                found=f"frames of {dataset.nbytes / n_positions / 2**20:.4g} MiB",
                expected=f"{FRAMES_IN_MEMORY} frames within {self.budget / 2**20:.4g} MiB (max_bytes)",
            )
        return Hdf5Frames(self.path, dataset, axis), dataset.name


def check_readable(path: Path, dataset: h5py.Dataset) -> None:
    """Refuse a dataset whose compression filter is not available, or whose bytes lie in another raw file."""
    plan = dataset.id.get_create_plist()
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
    if dataset.external:
        raise InputError(
            file=path, field=dataset.name, found="data stored in another raw file", expected="data inside the HDF5 file"
        )


def read_hdf5(path: Path, *, max_bytes: int) -> ScanFields:
    """Read a scan from an HDF5 file, telling its layout from its keys."""
    from ptycho_ray.data.cxi import is_cxi, read_cxi

    with open_hdf5(path) as file:
        scan = Hdf5Scan(path, file, max_bytes)
        return read_cxi(scan) if is_cxi(scan) else _read_flat(scan)


def _read_flat(scan: Hdf5Scan) -> ScanFields:
    positions, nominal, metres = _positions(scan)
    frames, field = scan.frames(len(positions), *PATTERN_KEYS)
    if "pos" in scan and "xcoords" not in scan:
        positions += frames.shape[-1] // 2
    energy = scan.number("energy_eV", "photon_energy_eV")
    wavelength = scan.number("wavelength_m", "wavelength")
    if energy is None and wavelength:
        energy = PLANCK_TIMES_LIGHT_EV_M / wavelength
    meta = scan.file.attrs.get("meta")
    counts = scan.number("counts_are_photons")
    return ScanFields(
        frames=frames,
        frames_field=field,
        positions=positions,
        nominal=nominal,
        positions_in_metres=metres,
        probe=scan.read_optional("probeGuess", "probe_guess", "probe"),
        object_truth=None if metres else scan.read_optional("objectGuess", "object", "obj"),
        Y=scan.read_optional("Y"),
        scan_index=scan.read_optional("scan_index"),
        bad_pixels=scan.read_optional("bad_pixels"),
        domain=None if field.lstrip("/") in AMPLITUDE_KEYS else "intensity",
        counts_are_photons=None if counts is None else bool(counts),
        pixel_size_m=scan.number("pixel_size_m", "object_pixel_width_m"),
        energy_eV=energy,
        detector_distance_m=scan.number("detector_distance_m", "detector_object_distance_m", "zo"),
        detector_pixel_m=scan.number("detector_pixel_size_m", "dxd"),
        metadata=metadata_from_text(meta) if isinstance(meta, str) else None,
    )


def _positions(scan: Hdf5Scan) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, bool]:
    """Positions [n, 2] (row, column), nominal ones or None, and whether they are in metres."""
    for name, metres in (("positions_px", False), ("pos", False), ("positions_m", True), ("encoder", True)):
        if name in scan and "xcoords" not in scan:
            pairs = scan.read(name)
            if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iuf":
                raise InputError(
                    file=scan.path, field=name, found=f"{pairs.dtype} {pairs.shape}", expected="numbers (n, 2)"
                )
            return pairs.astype(np.float64), None, metres
    if "probe_position_x_m" in scan:
        return _columns(scan, "probe_position_y_m", "probe_position_x_m"), None, True
    if "probe_position_x_px" in scan:  # Ptychodus: the position is the middle of the patch, half a pixel before N//2
        return _columns(scan, "probe_position_y_px", "probe_position_x_px") + 0.5, None, False
    positions = _columns(scan, "ycoords", "xcoords")
    has_nominal = "xcoords_start" in scan and "ycoords_start" in scan
    return positions, _columns(scan, "ycoords_start", "xcoords_start") if has_nominal else None, False


def _columns(scan: Hdf5Scan, row_name: str, column_name: str) -> NDArray[np.float64]:
    rows, columns = scan.read(row_name), scan.read(column_name)
    if rows.shape != columns.shape or rows.ndim != 1 or rows.dtype.kind not in "iuf" or columns.dtype.kind not in "iuf":
        raise InputError(
            file=scan.path,
            field=f"{column_name}, {row_name}",
            found=f"{columns.dtype} {columns.shape} and {rows.dtype} {rows.shape}",
            expected="real numbers, one per pattern in each",
        )
    return np.stack([rows, columns], axis=1).astype(np.float64)


def write_hdf5(raw: RawData, path: str | Path) -> None:
    """Write a scan with the PtychoPINN keys, pattern by pattern (bounded memory); ``diff3d`` is amplitude."""
    arrays: dict[str, Any] = {
        "xcoords": raw.xcoords,
        "ycoords": raw.ycoords,
        "xcoords_start": raw.xcoords_start,
        "ycoords_start": raw.ycoords_start,
        "probeGuess": raw.probe,
        "scan_index": raw.scan_index,
        "objectGuess": raw.object_truth,
        "Y": raw.Y,
        "bad_pixels": raw.bad_pixels,
    }
    numbers = {
        "pixel_size_m": raw.pixel_size_m,
        "energy_eV": raw.energy_eV,
        "detector_distance_m": raw.detector_distance_m,
        "counts_are_photons": raw.counts_are_photons,
    }
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
        file.attrs.update({name: value for name, value in numbers.items() if value is not None})
        if raw.metadata is not None:
            file.attrs["meta"] = json.dumps(raw.metadata)
        dataset = file.create_dataset(
            "diff3d", raw.patterns.shape, np.float32, chunks=(1, raw.N, raw.N), compression="gzip", compression_opts=1
        )
        for piece, intensity in raw.patterns.chunks():
            dataset[piece] = np.sqrt(intensity)
