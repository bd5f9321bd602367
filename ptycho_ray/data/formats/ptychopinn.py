"""The keys of PtychoPINN, as NPZ and as HDF5 (where patterns stay on disk).

The HDF5 reader also reads the layout ``dp``/``pos``, PtyLab files, and any file with patterns and positions under plain
names. ``diff3d`` is amplitude unless its values are whole numbers.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import (
    FileContents,
    choose_key,
    metadata_from_text,
    pairs,
    table_of_pairs,
    unit_of_positions,
)
from ptycho_ray.data.formats.format import FIELDS, Format
from ptycho_ray.data.formats.optics_metadata import optics_facts, optics_in
from ptycho_ray.data.frame_axes import array_frames
from ptycho_ray.data.hdf5 import Hdf5Scan, check_room, new_hdf5
from ptycho_ray.data.npz import NpzFile
from ptycho_ray.data.opening import Content
from ptycho_ray.files import atomic_path
from ptycho_ray.physics.optics import beam_energy_eV

if TYPE_CHECKING:
    from ptycho_ray.data.scan import Scan

PATTERN_KEYS = ("diff3d", "diffraction", "dp", "patterns", "ptychogram", "data", "entry/data/data")
POSITION_KEYS = ("xcoords", "positions_px", "pos", "positions_m", "encoder", "probe_position_x_m")
AMPLITUDE_KEYS = ("diff3d", "diffraction")


def read_npz(npz: NpzFile) -> FileContents:
    """PtychoPINN NPZ. InputError that names the missing key and the nearest one there is."""
    keys = npz.keys()
    pattern_key = choose_key(npz.path, keys, "diff3d", "diffraction")
    rows, columns = (npz.read(name) for name in ("ycoords", "xcoords"))
    positions = pairs(rows, columns, npz.path, "xcoords, ycoords")
    starts = [npz.read_optional(name) for name in ("ycoords_start", "xcoords_start")]
    nominal = None
    if starts[0] is not None and starts[1] is not None:
        nominal = pairs(starts[0], starts[1], npz.path, "xcoords_start, ycoords_start")
    truth = npz.read_optional("Y")
    if truth is not None and truth.shape[:1] != positions.shape[:1]:
        warnings.warn(
            f"{npz.path}: Y of shape {truth.shape} does not fit {len(positions)} positions, ignored", stacklevel=5
        )
        truth = None
    counts = npz.number("counts_are_photons")
    frames, _, note = array_frames(npz.read(pattern_key), len(positions))
    return FileContents(
        frames=frames,
        frames_field=pattern_key,
        positions=positions,
        nominal=nominal,
        probe=npz.read_optional("probeGuess", "probe"),
        object_truth=npz.read_optional("objectGuess"),
        Y=truth,
        scan_index=npz.read_optional("scan_index"),
        bad_pixels=npz.read_optional("bad_pixels"),
        counts_are_photons=None if counts is None else bool(counts),
        pixel_size_m=npz.number("pixel_size_m"),
        energy_eV=npz.number("energy_eV"),
        detector_distance_m=npz.number("detector_distance_m"),
        detector_pixel_m=npz.number("detector_pixel_m"),
        electrons=_electrons(npz),
        optics=optics_in(npz),
        metadata=metadata_of_npz(npz),
        notes=[] if note is None else [f"{npz.path}: {pattern_key}: {note}"],
    )


def metadata_of_npz(npz: NpzFile) -> dict[str, Any] | None:
    """Metadata stored as JSON; a pickled ``_metadata`` is ignored, with a warning."""
    name = "_metadata" if "_metadata" in npz else "meta"
    if name in npz and npz.dtype(name).hasobject:
        warnings.warn(f"{npz.path}: {name} is pickled and was ignored", stacklevel=6)
        name = "meta"
    text = npz.text(name)
    return None if text is None else metadata_from_text(text)


def read_hdf5(scan: Hdf5Scan) -> FileContents:
    """An HDF5 file with patterns and positions under plain names. InputError that names the missing key."""
    positions, nominal, metres = _positions(scan)
    stated = (scan.attribute(name, "units") for name in POSITION_KEYS if name in scan)
    unit, unknown = unit_of_positions(next(filter(None, stated), None))
    if unit is not None:
        positions, nominal, metres = positions * unit, None if nominal is None else nominal * unit, True
    frames, field = scan.frames(len(positions), *PATTERN_KEYS)
    if "pos" in scan and "xcoords" not in scan and not metres:
        positions += frames.shape[-1] // 2
    energy = scan.number("energy_eV", "photon_energy_eV")
    wavelength = scan.number("wavelength_m", "wavelength")
    if energy is None and wavelength:
        energy = beam_energy_eV(wavelength, electrons=_electrons(scan))
    meta = scan.text("meta")
    counts = scan.number("counts_are_photons")
    return FileContents(
        frames=frames,
        frames_field=field,
        positions=positions,
        nominal=nominal,
        positions_in_metres=metres,
        positions_unit=unit,
        units_unknown=unknown,
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
        detector_pixel_m=scan.number("detector_pixel_m", "detector_pixel_size_m", "dxd"),
        electrons=_electrons(scan),
        optics=optics_in(scan),
        metadata=None if meta is None else metadata_from_text(meta),
    )


def _positions(scan: Hdf5Scan) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, bool]:
    """Positions [n, 2] (row, column), nominal ones or None, and whether they are in metres."""
    for name, metres in (("positions_px", False), ("pos", False), ("positions_m", True), ("encoder", True)):
        if name in scan and "xcoords" not in scan:
            return table_of_pairs(scan.read(name), scan.path, name), None, metres
    if "probe_position_x_m" in scan:
        rows, columns = scan.read("probe_position_y_m"), scan.read("probe_position_x_m")
        return pairs(rows, columns, scan.path, "probe_position_x_m, probe_position_y_m"), None, True
    rows, columns = scan.read("ycoords"), scan.read("xcoords")
    positions = pairs(rows, columns, scan.path, "xcoords, ycoords")
    nominal = None
    if "xcoords_start" in scan and "ycoords_start" in scan:
        rows, columns = scan.read("ycoords_start"), scan.read("xcoords_start")
        nominal = pairs(rows, columns, scan.path, "xcoords_start, ycoords_start")
    return positions, nominal, False


def _electrons(content: Content) -> bool | None:
    said = content.number("electrons")
    return None if said is None else bool(said)


def _anything(content: Content) -> bool:
    return True


def _numbers(raw: Scan) -> dict[str, Any]:
    found = {
        "pixel_size_m": raw.pixel_size_m,
        "energy_eV": raw.energy_eV,
        "detector_distance_m": raw.detector_distance_m,
        "detector_pixel_m": raw.detector_pixel_m,
        "counts_are_photons": raw.counts_are_photons,
        "electrons": raw.electrons or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _arrays(raw: Scan) -> dict[str, Any]:
    found = {
        "xcoords": raw.xcoords,
        "ycoords": raw.ycoords,
        "xcoords_start": raw.xcoords_start,
        "ycoords_start": raw.ycoords_start,
        "probeGuess": raw.probeGuess,
        "scan_index": raw.scan_index,
        "objectGuess": raw.object_truth,
        "Y": raw.Y,
        "bad_pixels": raw.bad_pixels,
    }
    return {name: value for name, value in found.items() if value is not None}


def write_npz(raw: Scan, path: str | Path) -> None:
    """Write a scan with the PtychoPINN keys; ``diff3d`` is amplitude."""
    arrays = {**_arrays(raw), **_numbers(raw), **optics_facts(raw), "diff3d": raw.diff3d}
    if raw.metadata is not None:
        arrays["meta"] = np.array(json.dumps(raw.metadata))
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


def write_hdf5(raw: Scan, path: str | Path) -> None:
    """Write a scan with the PtychoPINN keys, pattern by pattern (bounded memory); ``diff3d`` is amplitude."""
    with new_hdf5(path) as file:
        for name, array in (_arrays(raw) | {"probeGuess": raw.probe}).items():
            file[name] = array
        write_facts(file, _numbers(raw) | optics_facts(raw))
        if raw.metadata is not None:
            file.attrs["meta"] = json.dumps(raw.metadata)
        write_patterns(file, "diff3d", raw, amplitude=True)


def write_facts(group: h5py.Group, facts: dict[str, Any]) -> None:
    """Numbers and texts as attributes, arrays as datasets."""
    for name, value in facts.items():
        if isinstance(value, np.ndarray):
            group[name] = value
        else:
            group.attrs[name] = value


def write_patterns(
    group: h5py.Group, name: str, raw: Scan, *, amplitude: bool = False, grid: bool = False
) -> h5py.Dataset:
    """Write the patterns of a scan piece by piece as float32, or as counts (uint32) where that is what they are; with four axes
    (n, 1, N, N) for a ``grid``."""
    counts = not amplitude and raw.patterns.domain == "intensity" and raw.patterns.source.dtype.kind in "ui"
    dataset = group.create_dataset(
        name,
        (len(raw), 1, raw.N, raw.N) if grid else raw.patterns.shape,
        np.uint32 if counts else np.float32,
        chunks=(1, 1, raw.N, raw.N) if grid else (1, raw.N, raw.N),
        compression="gzip",
        compression_opts=1,
    )
    for piece, intensity in raw.patterns.chunks():
        check_room(group.file, intensity.nbytes)
        values = np.sqrt(intensity) if amplitude else intensity
        dataset[piece] = values[:, None] if grid else values
    return dataset


_EVERYTHING = frozenset(FIELDS)
PTYCHOPINN = Format("ptychopinn", "PtychoPINN NPZ", ("npz",), _anything, read_npz, write_npz, _EVERYTHING)
PTYCHOPINN_HDF5 = Format(
    "ptychopinn-hdf5", "HDF5 with the keys of PtychoPINN", ("hdf5",), _anything, read_hdf5, write_hdf5, _EVERYTHING
)
