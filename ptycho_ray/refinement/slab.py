"""The space between the slices of a thick object: its thickness and tilt, from the units of a microscope.

Slice k is the k-th that the beam meets. The probe is that at the first slice, the entrance surface; each slice stands for the
``thickness / slices`` below it. The slices are pixels of the *sample*: with a tilt above zero a column of atoms that appears at
the same pixel of every slice runs towards higher rows (or columns) of the microscope as the beam goes down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.refinement.config import RefinementConfig

ANGSTROM = 1e-10


@dataclass(frozen=True)
class Slab:
    """What lies between a slice and the next.

    Attributes:
        distance_px2: wavelength * distance / pixel size**2.
        shift_px: (row, column), how far the next slice lies sideways.
        slice_thickness_angstrom, tilt_mrad: the same in the units of a microscope; None if the scan has no pixel size or no
            wavelength.
    """

    distance_px2: float
    shift_px: tuple[float, float]
    slice_thickness_angstrom: float | None = None
    tilt_mrad: tuple[float, float] | None = None


def slab_between(scan: RawData, config: RefinementConfig) -> Slab | None:
    """What the settings say of the space between two slices; None for a thin object.

    Raises:
        ConfigurationError: the settings are in units, and the scan has none.
    """
    if config.slices == 1:
        return None
    tilt = (config.tilt_row_mrad, config.tilt_column_mrad)
    if not (scan.pixel_size_m and scan.wavelength_m):
        if config.thickness_angstrom or any(tilt):
            raise _without_units(scan, "thickness_angstrom" if config.thickness_angstrom else "tilt_row_mrad")
        return Slab(config.slice_distance_px2, (0.0, 0.0))
    to_px2 = scan.wavelength_m / scan.pixel_size_m**2
    length = config.slice_distance_px2 / to_px2
    if config.thickness_angstrom is not None:
        length = config.thickness_angstrom * ANGSTROM / config.slices
    row, column = (length * math.tan(1e-3 * angle) / scan.pixel_size_m for angle in tilt)
    return Slab(length * to_px2, (row, column), length / ANGSTROM, tilt)


def _without_units(scan: RawData, field: str) -> ConfigurationError:
    units = {"pixel size": scan.pixel_size_m, "wavelength": scan.wavelength_m}
    return ConfigurationError(
        field=field,
        found=f"a scan without {' and '.join(name for name, value in units.items() if not value)}",
        expected="both, to know how far the beam spreads from a slice to the next",
        hint="For electrons add --voltage-kV KV with --semiangle-mrad MRAD or --pixel-size-m METRES; for X-rays --energy-eV EV "
        "--pixel-size-m METRES; or give --slice-distance-px2, which needs neither",
    )
