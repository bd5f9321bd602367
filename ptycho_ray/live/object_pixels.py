"""Positions of a source in pixels of the object, as the service takes them."""

from __future__ import annotations

from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.live.wire_events import Begin
from ptycho_ray.physics.optics import wavelength_m
from ptycho_ray.physics.units import LENGTHS, PIXELS, factor_of


def object_pixel_m(begin: Begin | None, side: int) -> float | None:
    """wavelength * distance / (N * detector pixel), if the source announces all of it; ``side`` is N."""
    if begin is None or not (begin.energy_eV and begin.detector_distance_m and begin.detector_pixel_m):
        return None
    return wavelength_m(begin.energy_eV) * begin.detector_distance_m / (side * begin.detector_pixel_m)


def pixels_per_unit(unit: str, pixel_size_m: float | None, source: str) -> float:
    """Object pixels in a unit of the positions: px, m, um, nm ...

    Raises:
        ConfigurationError: the unit is none.
        InputError: it is a length, and the pixel size is not known.
    """
    if unit in PIXELS:
        return 1.0
    if (metres := factor_of(unit, LENGTHS)) is None:
        raise ConfigurationError(field="units", found=unit, expected="px, m, mm, um, nm, angstrom")
    if pixel_size_m is None:
        raise InputError(
            file=source,
            field="pixel_size_m",
            found=f"positions in {unit}, and a source that does not say energy, distance and detector pixel",
            expected="--pixel-size-m",
        )
    return metres / pixel_size_m
