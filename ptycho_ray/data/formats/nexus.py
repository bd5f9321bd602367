"""NeXus files with the definition NXptycho or NXcxi_ptycho: located by NX_class and read in the units that they state.

Positions are used with the signs they have ((y, x) = (row, column)); beamlines differ here, and ``ptycho-ray orient``
determines the orientation. A raster has frames [rows, columns, N, N] and may have one position per row and per column.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import JOULE_PER_EV, FileContents, pairs, square_pixel, unit_of_positions
from ptycho_ray.data.formats.far_field_geometry import completed, pixel_size_of
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.formats.ptychopinn import write_patterns
from ptycho_ray.data.hdf5 import Hdf5Scan, new_hdf5
from ptycho_ray.data.masks import set_pixels
from ptycho_ray.errors import InputError
from ptycho_ray.physics.optics import beam_energy_eV
from ptycho_ray.physics.units import ENERGIES, LENGTHS, factor_of, is_pixels

if TYPE_CHECKING:
    from ptycho_ray.data.scan import Scan

DEFINITIONS = ("nxptycho", "nxcxi_ptycho")
DEEPEST = 6
PLACES = ("transformations", "geometry_1", "")
AXES = (("translation_y", "translation_x"), ("y", "x"), ("sample_y", "sample_x"))


def recognise(scan: Hdf5Scan) -> bool:
    return _entry(scan) is not None


def _entry(scan: Hdf5Scan) -> str | None:
    """The first group whose ``definition`` is one of ours."""
    for name in scan.names("/")[:100]:
        text = scan.text(f"{name}/definition") if f"{name}/definition" in scan else None
        if text is not None and text.strip().lower() in DEFINITIONS:
            return name
    return None


def read(scan: Hdf5Scan) -> FileContents:
    """Patterns of the first detector with frames, positions of the sample, energy of the beam, distance, pixel, mask."""
    entry = _entry(scan) or ""
    groups = _by_class(scan, entry)
    detector = next((name for name in groups.get("NXdetector", []) if _is_stack(scan, f"{name}/data")), None)
    if detector is None:
        raise InputError(
            file=scan.path, field=entry, found="no NXdetector with frames", expected="a detector with data (n, N, N)"
        )
    frames, field = scan.frames(None, f"{detector}/data")
    grid = frames.raster or frames.shape[:1]
    width, height = (_quantity(scan, f"{detector}/{axis}_pixel_size", LENGTHS) for axis in "xy")
    mask = scan.read_optional(f"{detector}/mask", f"{detector}/pixel_mask")
    if mask is not None:
        mask = set_pixels(mask)
        mask = np.asarray(mask.any(axis=0)) if mask.ndim == 3 else mask
    places, names = _positions(scan, groups, grid)
    unit, unknown = _unit(scan, names)
    return FileContents(
        frames=frames,
        frames_field=field,
        positions=None if places is None else places * (1.0 if unit is None else unit),
        positions_in_metres=not (names and is_pixels(str(scan.attribute(names[0], "units") or ""))),
        positions_unit=unit,
        units_unknown=unknown,
        domain="intensity",
        bad_pixels=mask,
        energy_eV=_energy(scan, groups),
        detector_distance_m=_quantity(scan, f"{detector}/distance", LENGTHS),
        detector_pixel_m=square_pixel(width, height, scan.path, f"{detector}/x_pixel_size, y_pixel_size"),
        pixel_size_m=scan.number(f"{entry}/ptycho_ray/pixel_size_m"),
        electrons=_electrons(scan, groups),
    )


def _electrons(scan: Hdf5Scan, groups: dict[str, list[str]]) -> bool | None:
    """Whether the source says that its particles are electrons."""
    said = next((text for group in groups.get("NXsource", []) if (text := scan.text(f"{group}/probe"))), None)
    return None if said is None else "electron" in said.lower()


def _by_class(scan: Hdf5Scan, entry: str) -> dict[str, list[str]]:
    """Paths of the groups of an entry by their NX_class, nearest first; links to other files are not searched."""
    found: dict[str, list[str]] = {}
    waiting: list[tuple[str, int]] = [(entry, 0)]
    seen: set[Any] = set()
    while waiting and len(seen) < 1000:
        here, depth = waiting.pop(0)
        group = scan.file[here] if here in scan else None
        if not isinstance(group, h5py.Group) or group.id in seen:
            continue
        seen.add(group.id)
        kind = scan.attribute(here, "NX_class")
        found.setdefault(kind if isinstance(kind, str) else "", []).append(here)
        if depth < DEEPEST:
            links = {name: group.get(name, getlink=True) for name in list(group)[:200]}
            waiting += [
                (f"{here}/{name}", depth + 1) for name, link in links.items() if isinstance(link, h5py.HardLink)
            ]
    return found


def _is_stack(scan: Hdf5Scan, name: str) -> bool:
    return name in scan and isinstance(scan.file[name], h5py.Dataset) and scan.file[name].ndim in (3, 4)


def _quantity(scan: Hdf5Scan, name: str, units: dict[str, float]) -> float | None:
    """One number in metres or electronvolts; the mean of several. None, and a note, for a unit that is not known."""
    if name not in scan:
        return None
    values = scan.read(name)
    if values.size == 0 or values.dtype.kind not in "biuf":
        raise InputError(file=scan.path, field=name, found=f"{values.dtype} {values.shape}", expected="a number")
    unit = str(scan.attribute(name, "units") or "").strip()
    factor = factor_of(unit, units) if unit else 1.0
    if factor is None:
        scan.notes.append(
            f"{scan.path}: {name}: {unit!r} is no unit that is known, and the number is not used (--energy-eV, "
            "--detector-distance-m or --detector-pixel-m states it)"
        )
        return None
    return float(values.mean()) * factor


def _energy(scan: Hdf5Scan, groups: dict[str, list[str]]) -> float | None:
    """Energy of the photons or electrons in eV. That of an NXsource is the energy of the machine and is not used. Joules are
    recognised by their magnitude."""
    for group in groups.get("NXbeam", []) + groups.get("NXmonochromator", []):
        for name in ("incident_energy", "incident_beam_energy", "energy"):
            value = _quantity(scan, f"{group}/{name}", ENERGIES)
            if value:
                return value / JOULE_PER_EV if value < 1e-10 else value
        for name in ("incident_wavelength", "wavelength"):
            value = _quantity(scan, f"{group}/{name}", LENGTHS)
            if value:
                return beam_energy_eV(value, electrons=_electrons(scan, groups))
    return None


def _unit(scan: Hdf5Scan, names: list[str]) -> tuple[NDArray[np.float64] | None, str]:
    """The units of rows and columns in metres, None if none is stated; and what they are called if it is no unit of length."""
    stated = [scan.attribute(name, "units") for name in names]
    found = [unit_of_positions(unit or stated[0]) for unit in stated]
    unknown = next((said for _, said in found if said), "")
    if unknown or not any(factor for factor, _ in found):
        return None, unknown
    return np.resize(np.array([factor for factor, _ in found], dtype=np.float64), 2), ""


def _positions(
    scan: Hdf5Scan, groups: dict[str, list[str]], grid: tuple[int, ...]
) -> tuple[NDArray[np.float64] | None, list[str]]:
    """Positions [n, 2] (row, column) as stored, and the names of their arrays."""
    for group in groups.get("NXsample", []) + groups.get("NXdata", []):
        for place in PLACES:
            table = f"{group}/{place}/translation".replace("//", "/")
            if table in scan and isinstance(scan.file[table], h5py.Dataset):
                values = scan.read(table)
                if values.ndim == 2 and values.shape[1] in (2, 3):
                    return values[:, [1, 0]].astype(np.float64), [table]
            for y, x in AXES:
                names = [f"{group}/{place}/{name}".replace("//", "/") for name in (y, x)]
                if all(name in scan and isinstance(scan.file[name], h5py.Dataset) for name in names):
                    rows, columns = (scan.read(name) for name in names)
                    return _on_grid(np.squeeze(rows), np.squeeze(columns), grid, scan.path, ", ".join(names)), names
    return None, []


def _on_grid(rows: NDArray, columns: NDArray, grid: tuple[int, ...], path: Path, field: str) -> NDArray[np.float64]:
    if len(grid) == 2 and rows.size == grid[0] and columns.size == grid[1] and rows.size * columns.size > rows.size:
        rows, columns = np.meshgrid(rows.ravel(), columns.ravel(), indexing="ij")
    return pairs(rows.ravel(), columns.ravel(), path, field)


def write(raw: Scan, path: Path) -> None:
    """Write a scan as NXcxi_ptycho, with the object pixel in our own group. InputError without a pixel size."""
    raw = completed(raw)
    pixel = pixel_size_of(raw)
    with new_hdf5(path) as file:
        classes = {
            "entry_1": "NXentry",
            "entry_1/instrument_1": "NXinstrument",
            "entry_1/instrument_1/beam_1": "NXbeam",
            "entry_1/instrument_1/detector_1": "NXdetector",
            "entry_1/sample_1": "NXsample",
            "entry_1/sample_1/transformations": "NXtransformations",
            "entry_1/ptycho_ray": "NXcollection",
        }
        for name, kind in classes.items():
            file.create_group(name).attrs["NX_class"] = kind
        file["entry_1/definition"] = "NXcxi_ptycho"
        detector = file["entry_1/instrument_1/detector_1"]
        write_patterns(detector, "data", raw)
        if raw.electrons:
            file.create_group("entry_1/instrument_1/source_1").attrs["NX_class"] = "NXsource"
            file["entry_1/instrument_1/source_1/probe"] = "electron"
        if raw.energy_eV is not None:
            _put(file, "entry_1/instrument_1/beam_1/energy", raw.energy_eV, "eV")
        if raw.detector_distance_m is not None:
            _put(detector, "distance", raw.detector_distance_m, "m")
        for axis in "xy" if raw.detector_pixel_m is not None else "":
            _put(detector, f"{axis}_pixel_size", raw.detector_pixel_m, "m")
        if raw.bad_pixels is not None:
            detector["mask"] = raw.bad_pixels.astype(np.uint32)
        for axis, column in (("y", 0), ("x", 1)):
            place = f"entry_1/sample_1/transformations/translation_{axis}"
            _put(file, place, raw.positions_px[:, column] * pixel, "m")
        file["entry_1/ptycho_ray/pixel_size_m"] = pixel


def _put(group: h5py.Group, name: str, value: object, unit: str) -> None:
    group[name] = value
    group[name].attrs["units"] = unit


_HOLDS = {"patterns", "positions", "bad pixels", "pixel size", "energy", "distance", "detector pixel", "electrons"}
NEXUS = Format("nexus", "NeXus NXcxi_ptycho", ("hdf5",), recognise, read, write, frozenset(_HOLDS))
