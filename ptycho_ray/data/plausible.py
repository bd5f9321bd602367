"""Geometry that cannot be: named before anything is computed from it, with the field that states it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import FileContents, default_max_bytes
from ptycho_ray.data.placing import nearest_distances
from ptycho_ray.errors import InputError, to_type

ENERGIES_EV = (10.0, 1e6)
LARGEST_PIXEL_M, SMALLEST_PIXEL_M = 10e-6, 1e-13
PHOTONS_UP_TO_EV = 45e3
SMALLEST_STEP_PX = 0.05
CANVAS_BYTES = 48
"""Memory that a reconstruction needs for a pixel of its image, roughly."""


def has_geometry(fields: FileContents) -> bool:
    """Whether the object pixel of the far field follows from what a file states."""
    angle = fields.angle_per_pixel or (fields.detector_distance_m and fields.detector_pixel_m)
    return bool((fields.energy_eV and angle) or fields.frequency_per_pixel)


def far_field_pixel(fields: FileContents, N: int) -> float | None:
    """The object pixel in metres: wavelength / (N * angle of a detector pixel). None if too little is known."""
    if fields.far_field is False:
        return None
    angle = detector_angle(fields)
    if fields.wavelength_m is None or angle is None:
        return 1 / (N * fields.frequency_per_pixel) if fields.frequency_per_pixel else None
    return fields.wavelength_m / (N * angle)


def detector_angle(fields: FileContents) -> float | None:
    """What a detector pixel subtends in radian, as far as the file or the user says it; not from an object pixel."""
    distance, pixel = fields.detector_distance_m, fields.detector_pixel_m
    if fields.angle_per_pixel:
        return fields.angle_per_pixel
    if fields.frequency_per_pixel and fields.wavelength_m:
        return fields.frequency_per_pixel * fields.wavelength_m
    return pixel / abs(distance) if distance and pixel else None


def check_energy(fields: FileContents, path: Path, *, needed: bool) -> None:
    """InputError for an energy outside 10 eV to 1 MeV, if the object pixel is ``needed`` and follows from it; else a line."""
    energy = fields.energy_eV
    if energy is None:
        return
    low, high = ENERGIES_EV
    if not low <= energy <= high:
        found, expected = f"{energy:.4g} eV", f"{low:.0f} eV to {high / 1e6:.0f} MeV"
        if needed:
            raise InputError(
                file=path, field="energy_eV", found=found, expected=expected, hint=to_type(path, "--energy-eV EV")
            )
        fields.note(f"{path}: energy_eV: found {found}; expected {expected} (--energy-eV gives the right one)")
    elif energy > PHOTONS_UP_TO_EV and fields.electrons is None:
        fields.note(
            f"{path}: energy_eV: {energy / 1e3:.4g} keV taken for that of photons; are these electrons (--beam electrons)?"
        )


def check_pixel(fields: FileContents, path: Path) -> None:
    """InputError for an object pixel that no ptychography has, with the numbers it was computed from."""
    size = fields.pixel_size_m
    if size is None:
        return
    if not (np.isfinite(size) and size > 0):
        raise InputError(
            file=path,
            field="pixel_size_m",
            found=size,
            expected="a length above 0, in metres",
            hint=to_type(path, "--pixel-size-m METRES"),
        )
    if not SMALLEST_PIXEL_M <= size <= LARGEST_PIXEL_M:
        stated = {
            "energy_eV": fields.energy_eV,
            "detector_distance_m": fields.detector_distance_m,
            "detector_pixel_m": fields.detector_pixel_m,
        }
        said = ", ".join(f"{name} {value:.4g}" for name, value in stated.items() if value is not None)
        raise InputError(
            file=path,
            field="pixel_size_m",
            found=f"{size:.4g} m{f' (from {said})' if said else ''}",
            expected="less than 10 um",
            hint="One of these is in another unit (--energy-eV, --detector-distance-m, --detector-pixel-m). "
            + to_type(path, "--pixel-size-m METRES"),
        )


def check_canvas(positions_px: NDArray[np.float64], N: int, path: Path) -> None:
    """InputError for positions whose image would not fit into the memory."""
    if not np.isfinite(positions_px).all() or not len(positions_px):
        return
    height, width = (float(side) + N for side in np.ptp(positions_px, axis=0))
    if height * width * CANVAS_BYTES > default_max_bytes():
        raise InputError(
            file=path,
            field="positions",
            found=f"a scan that needs an image of {height:.4g} x {width:.4g} pixels, above the memory",
            expected="positions in object pixels, or metres with the right object pixel",
            hint=f"Another unit, or a wrong pixel (--pixel-size-m). {to_type(path, '--units um')}",
        )


def note_overlap(fields: FileContents, positions_px: NDArray[np.float64], diameter_px: float, path: Path) -> None:
    """Name neighbours that do not overlap, their distance being above the probe's diameter, and such that hardly differ."""
    if len(positions_px) < 2 or not np.isfinite(positions_px).all() or diameter_px <= 0:
        return
    step = float(np.median(nearest_distances(positions_px)))
    if step < SMALLEST_STEP_PX:
        fields.note(
            f"{path}: positions: neighbours lie only {step:.2g} px apart; another unit (--units), or a wrong pixel "
            "(--pixel-size-m)?"
        )
    if step > diameter_px:
        fields.note(
            f"{path}: positions: neighbours lie {step:.3g} px apart under a probe of {diameter_px:.3g} px, so they do not "
            "overlap; a near-field scan, another unit (--units), or a wrong pixel (--pixel-size-m)?"
        )
