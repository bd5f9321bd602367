"""EMD files: py4DSTEM (emdfile), Berkeley and Prismatic, and Velox (Thermo Fisher).

The first three keep a cube ``data`` (Prismatic: ``datacube``) beside one array of coordinates for each axis, ``dim0`` or
``dim1`` first. Its last two axes are the detector's; in the other two the beam is scanned. Velox keeps stacks of images
(rows, columns, n).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.formats.far_field_geometry import pixel_size_of
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.formats.optics_metadata import optics_facts, optics_in, optics_of_angle
from ptycho_ray.data.formats.ptychopinn import write_patterns
from ptycho_ray.data.hdf5 import Hdf5Scan, new_hdf5
from ptycho_ray.errors import InputError
from ptycho_ray.physics.units import LENGTHS, factor_of

if TYPE_CHECKING:
    from ptycho_ray.data.scan import Scan

CUBES = ("data", "datacube")
OURS = "ptycho_ray"
#: Where py4DSTEM keeps its calibration, and Prismatic the parameters of a simulation (kV, mrad).
CALIBRATIONS = ("datacube_root/metadatabundle/calibration", "datacube_root/datacube/_calibration/calibration")
SIMULATED = "4DSTEM_simulation/metadata/metadata_0/original/simulation_parameters"
DEEPEST, MOST_GROUPS = 6, 2000


def recognise(scan: Hdf5Scan) -> bool:
    return _cube(scan) is not None


def _cube(scan: Hdf5Scan) -> tuple[str, str] | None:
    """Group and name of the first array with three or four axes that has its coordinates beside it."""
    waiting, seen = [("", 0)], 0
    while waiting and seen < MOST_GROUPS:
        here, depth = waiting.pop(0)
        group = scan.file[here or "/"]
        seen += 1
        members = {name for name in group if isinstance(group.get(name, getlink=True), h5py.HardLink)}
        for name in CUBES:
            cube = group[name] if name in members and {"dim0", "dim1"} & members else None
            if isinstance(cube, h5py.Dataset) and cube.ndim in (3, 4) and cube.dtype.kind in "biuf":
                return here, name
        if depth < DEEPEST:
            waiting += [
                (f"{here}/{name}".strip("/"), depth + 1)
                for name in sorted(members)[:200]
                if isinstance(group.get(name), h5py.Group)
            ]
    return None


def read(scan: Hdf5Scan) -> FileContents:
    """Frames, and as far as the coordinates say: the raster's steps, and the detector's pixel as an angle or spatial
    frequency."""
    group, name = _cube(scan) or ("", "")
    frames, field = scan.frames(None, f"{group}/{name}")
    first = 0 if f"{group}/dim0" in scan else 1
    ndim = scan.dataset(f"{group}/{name}").ndim
    axes = [_axis(scan, f"{group}/dim{number + first}") for number in range(ndim)]
    made = FileContents(frames=frames, frames_field=field, raster=frames.raster, domain="intensity", electrons=True)
    volts = scan.number(f"{group}/beam_energy_eV", f"{OURS}/energy_eV")
    made.energy_eV = volts or _beam_energy(scan)
    steps = [factor * step for step, unit in axes[:2] if step and (factor := factor_of(unit, LENGTHS))]
    if ndim == 4 and len(steps) == 2 and frames.axes == "rcyx":
        made.step_m = (abs(steps[0]), abs(steps[1]))
    set_detector(made, axes[-1][0], axes[-1][1])
    _take_calibration(made, scan)
    if f"{OURS}/positions_m" in scan:
        made.positions, made.positions_in_metres = scan.read(f"{OURS}/positions_m").astype(np.float64), True
        made.electrons = bool(scan.number(f"{OURS}/electrons"))
        made.pixel_size_m = scan.number(f"{OURS}/pixel_size_m")
        made.optics = optics_in(scan, f"{OURS}/")
        made.probe, made.bad_pixels = scan.read_optional(f"{OURS}/probe"), scan.read_optional(f"{OURS}/bad_pixels")
    return made


def set_detector(made: FileContents, step: float, unit: str) -> None:
    """What a detector pixel of ``step`` in ``unit`` is: an angle (mrad), or a spatial frequency (1/A, 1/nm), of which the
    object pixel follows without an energy."""
    assert made.frames is not None
    word = unit.strip("[]() ").replace("_", "").replace(" ", "").replace("$", "").replace("{", "").replace("}", "")
    angles = {"mrad": 1e-3, "rad": 1.0, "urad": 1e-6, "deg": np.pi / 180}
    if not step or not np.isfinite(step):
        return
    if word in angles:
        made.angle_per_pixel = abs(step) * angles[word]
        return
    base = word.removeprefix("1/").replace("^-1", "").replace("⁻¹", "").replace("-1", "")
    length = factor_of(base, LENGTHS) if base != word else None
    if length and made.frames.shape[1] == made.frames.shape[2]:
        made.pixel_size_m = length / (made.frames.shape[-1] * abs(step))
    elif length:  # the object pixel follows when a square has been cut out
        made.frequency_per_pixel = abs(step) / length


def _take_calibration(made: FileContents, scan: Hdf5Scan) -> None:
    """Steps, detector pixel and semi-angle of a py4DSTEM calibration, and the semi-angle of a Prismatic simulation, as far as
    the axes do not say them."""
    place = next((name for name in CALIBRATIONS if f"{name}/Q_pixel_size" in scan), None)
    if place is not None:
        size, unit = scan.number(f"{place}/R_pixel_size"), scan.text(f"{place}/R_pixel_units")
        factor = factor_of(unit or "", LENGTHS)
        if made.step_m is None and made.raster is not None and size and factor:
            made.step_m = (size * factor, size * factor)
        size, unit = scan.number(f"{place}/Q_pixel_size"), scan.text(f"{place}/Q_pixel_units")
        if made.pixel_size_m is None and made.angle_per_pixel is None and made.frequency_per_pixel is None:
            set_detector(made, size or 0.0, unit or "")
        made.optics = optics_of_angle((scan.number(f"{place}/convergence_semiangle_mrad") or 0.0) * 1e-3)
    if SIMULATED in scan:
        milliradian, kilovolts = (scan.attribute(SIMULATED, name) for name in ("sa", "E"))
        if isinstance(milliradian, float | np.floating):
            made.optics = optics_of_angle(float(milliradian) * 1e-3)
        if made.energy_eV is None and isinstance(kilovolts, float | np.floating) and 0 < kilovolts < 5000:
            made.energy_eV = float(kilovolts) * 1e3


def _axis(scan: Hdf5Scan, name: str) -> tuple[float, str]:
    """Step and unit of an axis, 0 and '' where it has none."""
    if name not in scan or not isinstance(scan.file[name], h5py.Dataset):
        return 0.0, ""
    values = np.asarray(scan.read(name), dtype=np.float64).ravel()
    unit = scan.attribute(name, "units")
    step = float(values[1] - values[0]) if values.size > 1 else 0.0
    return (step if np.isfinite(step) else 0.0), str(unit) if unit is not None else ""


def _beam_energy(scan: Hdf5Scan) -> float | None:
    """The accelerating voltage in eV, where the file has one under a name that says so."""
    for name, _, _ in scan.arrays(400):
        last = name.rpartition("/")[2].lower()
        if last in ("beam_energy", "accelerating_voltage", "acceleration_voltage", "voltage", "e0"):
            value = scan.number(name) if scan.file[name].size == 1 else None
            if value:
                return value * 1e3 if value < 2000 else value
    return None


def recognise_velox(scan: Hdf5Scan) -> bool:
    return any(_velox(scan))


def _velox(scan: Hdf5Scan) -> list[str]:
    return [
        f"Data/Image/{name}"
        for name in scan.names("Data/Image")
        if f"Data/Image/{name}/Data" in scan and scan.file[f"Data/Image/{name}/Data"].ndim == 3
    ]


def read_velox(scan: Hdf5Scan) -> FileContents:
    """The stack with most frames; voltage, semi-angle and the detector's pixel from its metadata."""
    group = max(_velox(scan), key=lambda name: scan.file[f"{name}/Data"].shape[2])
    frames, field = scan.frames(None, f"{group}/Data", axes="yxn")
    made = FileContents(frames=frames, frames_field=field, domain="intensity", electrons=True)
    told = _json(scan, f"{group}/Metadata")
    try:
        made.energy_eV = float(told["Optics"]["AccelerationVoltage"]) or None
    except (KeyError, TypeError, ValueError):
        made.energy_eV = None
    try:
        made.optics = optics_of_angle(told["Optics"]["BeamConvergence"])
        pixel = told["BinaryResult"]
        set_detector(made, float(pixel["PixelSize"]["width"]), str(pixel["PixelUnitX"]))
    except (KeyError, TypeError, ValueError):
        pass
    return made


def _json(scan: Hdf5Scan, name: str) -> Any:
    """The metadata of the first frame: a column of bytes."""
    if name not in scan or scan.file[name].ndim != 2 or scan.file[name].shape[0] > 2**22:
        return {}
    try:
        return json.loads(bytes(np.asarray(scan.file[name][:, 0], np.uint8)).split(b"\0")[0].decode(errors="replace"))
    except (json.JSONDecodeError, RecursionError, ValueError):
        return {}


def write(raw: Scan, path: Path) -> None:
    """Write a scan as EMD 1.0 (emdfile, py4DSTEM): a cube (n, 1, N, N), with positions, probe and mask in a group of our
    own, since EMD knows rasters only. InputError without an object pixel size."""
    pixel = pixel_size_of(raw)
    if raw.patterns.shape[0] < 1:
        raise InputError(file=path, field="patterns", found="none", expected="patterns")
    with new_hdf5(path) as file:
        file.attrs.update(
            {"emd_group_type": "file", "version_major": 1, "version_minor": 0, "authoring_program": "ptycho_ray"}
        )
        root = file.create_group("datacube_root")
        root.attrs.update({"emd_group_type": "root", "python_class": "Root"})
        cube = root.create_group("datacube")
        cube.attrs.update({"emd_group_type": "array", "python_class": "DataCube"})
        write_patterns(cube, "data", raw, grid=True)
        cube["data"].attrs["units"] = "counts"
        for number, (name, step, unit) in enumerate(
            [
                ("Rx", 1.0, "pixels"),
                ("Ry", 1.0, "pixels"),
                *[(q, 1e-10 / (raw.N * pixel), "A^-1") for q in ("Qx", "Qy")],
            ]
        ):
            axis = cube.create_dataset(f"dim{number}", data=np.array([0.0, step]))
            axis.attrs.update({"name": name, "units": unit})
        ours = file.create_group(OURS)
        ours["positions_m"], ours["pixel_size_m"] = raw.positions_px * pixel, pixel
        ours["probe"], ours["electrons"] = raw.probe, float(raw.electrons)
        if raw.bad_pixels is not None:
            ours["bad_pixels"] = raw.bad_pixels
        if raw.energy_eV is not None:
            ours["energy_eV"] = raw.energy_eV
        for name, fact in optics_facts(raw).items():
            ours[name] = fact


_HOLDS = frozenset(
    {"patterns", "positions", "probe", "probe modes", "bad pixels", "pixel size", "energy", "electrons", "optics"}
)
EMD = Format("emd", "EMD (py4DSTEM, Berkeley, Prismatic)", ("hdf5",), recognise, read, write, _HOLDS)
VELOX = Format("velox", "EMD of Velox", ("hdf5",), recognise_velox, read_velox)
