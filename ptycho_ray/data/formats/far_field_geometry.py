"""The geometry that formats in metres need, completed from what the scan states.

In the far field  object pixel = wavelength * distance / (N * detector pixel).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError, to_type
from ptycho_ray.physics.optics import PLANCK_TIMES_LIGHT_EV_M, beam_energy_eV

if TYPE_CHECKING:
    from ptycho_ray.data.scan import Scan

PROBE_IN_PHOTONS = "probe in sqrt(photons): the sum of |P|^2 is the photons of a pattern (orthonormal FFT)"
"""Marks, in their comments, the files that we write, whose probe is used as stored; others are rescaled."""


def _with(source: str, missing: list[str]) -> str:
    """The command that writes a scan with what it does not state."""
    words = {"pixel_size_m": "--pixel-size-m METRES", "energy_eV": "--energy-eV EV"}
    words |= {"detector_distance_m": "--detector-distance-m METRES", "detector_pixel_m": "--detector-pixel-m METRES"}
    return to_type(source or "SCAN", "OUTPUT", *(words[name] for name in missing), program="convert")


@dataclass(frozen=True)
class Geometry:
    """Lengths in metres, energy in electronvolts."""

    pixel_size_m: float
    energy_eV: float
    detector_distance_m: float
    detector_pixel_m: float


def pixel_size_of(raw: Scan) -> float:
    """The object pixel of a scan in metres. InputError if it states none."""
    if raw.pixel_size_m is None:
        raise InputError(
            file=raw.source or None,
            field="pixel_size_m",
            found="a scan with positions in pixels only",
            expected="the object pixel size in metres, since this format stores positions in metres",
            hint=_with(raw.source, ["pixel_size_m"]),
        )
    return raw.pixel_size_m


def geometry_of(raw: Scan) -> Geometry:
    """Pixel, energy, distance and detector pixel; one that is missing follows from the others in the far field.

    Raises InputError if too little is known.
    """
    pixel, energy = raw.pixel_size_m, raw.energy_eV
    distance, detector = raw.detector_distance_m, raw.detector_pixel_m
    known = {"pixel_size_m": pixel, "energy_eV": energy, "detector_distance_m": distance, "detector_pixel_m": detector}
    missing = [name for name, value in known.items() if value is None]
    if len(missing) > 1:
        raise InputError(
            file=raw.source or None,
            field=", ".join(missing),
            found="not known",
            expected="the geometry of the experiment, which this format requires",
            hint=_with(raw.source, missing[:-1]),  # one follows from the others
        )
    wavelength = raw.wavelength_m
    if pixel is None and wavelength and distance and detector:
        pixel = wavelength * abs(distance) / (raw.N * detector)
    elif energy is None and pixel and distance and detector:
        energy = beam_energy_eV(raw.N * detector * pixel / abs(distance), electrons=raw.electrons)
    elif distance is None and pixel and wavelength and detector:
        distance = raw.N * detector * pixel / wavelength
    elif detector is None and pixel and wavelength and distance:
        detector = wavelength * abs(distance) / (raw.N * pixel)
    if not (pixel and energy and distance and detector):
        raise InputError(file=raw.source or None, field="geometry", found=known, expected="lengths and energy above 0")
    return Geometry(pixel, energy, distance, detector)


def as_photons(raw: Scan) -> Scan:
    """The scan for a format that knows photons only: of the same wavelength, where the beam consists of electrons."""
    wavelength = raw.wavelength_m
    if not raw.electrons or wavelength is None:
        return raw
    made = copy.copy(raw)
    made.energy_eV, made.electrons, made.optics = PLANCK_TIMES_LIGHT_EV_M / wavelength, False, None
    return made


def completed(raw: Scan) -> Scan:
    """The scan with the one of the four lengths that it does not state, where it follows from the others."""
    stated = (raw.pixel_size_m, raw.energy_eV, raw.detector_distance_m, raw.detector_pixel_m)
    if sum(value is None for value in stated) != 1 or raw.far_field is False:
        return raw
    geometry, made = geometry_of(raw), copy.copy(raw)
    made.pixel_size_m, made.energy_eV = geometry.pixel_size_m, geometry.energy_eV
    made.detector_distance_m, made.detector_pixel_m = geometry.detector_distance_m, geometry.detector_pixel_m
    return made


def half_pixel(N: int) -> float:
    """Offset from the centre of a patch, (N - 1) / 2, to its pixel N // 2."""
    return N // 2 - (N - 1) / 2


def object_of(raw: Scan) -> NDArray[np.complex64]:
    """The object of a scan, or an empty one (ones) that covers it."""
    if raw.object_truth is not None:
        return raw.object_truth
    height, width = np.ceil(raw.positions_px.max(axis=0)).astype(int) + raw.N - raw.N // 2 + 1
    if height < 1 or width < 1 or height * width > 2**28:
        raise InputError(
            file=raw.source or None,
            field="positions",
            found=f"positions that need an object of {height} x {width} pixels",
            expected="positions counted from the corner of the object",
        )
    return np.ones((height, width), dtype=np.complex64)
