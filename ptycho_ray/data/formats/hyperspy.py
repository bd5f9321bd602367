"""HyperSpy signals (.hspy): one experiment, an array and a group ``axis-N`` for each of its axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.formats.emd import set_detector
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.formats.optics_metadata import optics_of_angle
from ptycho_ray.data.hdf5 import Hdf5Scan
from ptycho_ray.errors import InputError, to_type
from ptycho_ray.physics.units import LENGTHS, factor_of


def recognise(scan: Hdf5Scan) -> bool:
    return any(f"Experiments/{name}/data" in scan for name in scan.names("Experiments"))


def read(scan: Hdf5Scan) -> FileContents:
    """Frames of the first experiment with a stack, steps of the scanned axes, the detector's pixel, the beam's energy."""
    places = [f"Experiments/{name}" for name in scan.names("Experiments") if f"Experiments/{name}/data" in scan]
    place = next((name for name in places if scan.file[f"{name}/data"].ndim in (3, 4)), None)
    if place is None:
        shape = scan.file[f"{places[0]}/data"].shape
        raise InputError(
            file=scan.path,
            field=f"{places[0]}/data",
            found=f"a HyperSpy signal of shape {shape}, a single image and no scan",
            expected="patterns with three or four axes",
            hint=f"The mask of a scan, or its probe (--probe)? {to_type(Path('SCAN'), f'--mask {scan.path}')}",
        )
    axes = sorted(
        (name for name in scan.names(place) if name.startswith("axis-") and name[5:].isdigit()),
        key=lambda name: int(name[5:]),
    )
    facts = [_axis(scan, f"{place}/{name}") for name in axes]
    ndim = scan.file[f"{place}/data"].ndim
    frames, field = scan.frames(None, f"{place}/data", axes=letters_of(facts, ndim))
    made = FileContents(frames=frames, frames_field=field, raster=frames.raster, domain="intensity", electrons=True)
    scanned = [fact for fact in facts if fact[2]]
    steps = [step * factor for step, unit, _ in scanned if step and (factor := factor_of(unit, LENGTHS))]
    if frames.raster is not None and len(steps) == 2:
        made.step_m = (abs(steps[0]), abs(steps[1]))
    seen = [fact for fact in facts if not fact[2]]
    if seen:
        set_detector(made, seen[-1][0], seen[-1][1])
    beam = f"{place}/metadata/Acquisition_instrument/TEM"
    energy = scan.attribute(beam, "beam_energy") if beam in scan else None
    made.energy_eV = float(energy) * 1e3 if isinstance(energy, float | int | np.number) and energy > 0 else None
    made.optics = optics_of_angle(_milliradian(scan.attribute(beam, "convergence_angle")) if beam in scan else None)
    return made


def _milliradian(value: object) -> float | None:
    return float(value) * 1e-3 if isinstance(value, float | int | np.number) else None


def _axis(scan: Hdf5Scan, name: str) -> tuple[float, str, bool]:
    """Scale, unit and whether the beam is scanned along an axis."""
    scale, unit, scanned = (scan.attribute(name, key) for key in ("scale", "units", "navigate"))
    number = float(scale) if isinstance(scale, float | int | np.number) and np.isfinite(scale) else 0.0
    return number, unit if isinstance(unit, str) else "", bool(scanned)


def letters_of(facts: list[tuple[float, str, bool]], ndim: int) -> str | None:
    """Axes of the array by which of them are scanned; None where that does not fit patterns."""
    scanned = [k for k, fact in enumerate(facts) if fact[2]]
    if len(facts) != ndim or len(scanned) != ndim - 2:
        return None
    letters = [""] * ndim
    for k, letter in zip(scanned, "n" if ndim == 3 else "rc", strict=True):
        letters[k] = letter
    for k, letter in zip([k for k in range(ndim) if k not in scanned], "yx", strict=True):
        letters[k] = letter
    return "".join(letters)


HYPERSPY = Format("hyperspy", "HyperSpy signal", ("hdf5",), recognise, read)
