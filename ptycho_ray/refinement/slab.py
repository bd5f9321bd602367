"""The space between the slices of a thick object: its thickness and tilt, from the units of a microscope.

Slice k is the k-th that the beam meets. The probe is that at the first slice, the entrance surface; each slice stands for the
``thickness / slices`` below it. The slices are pixels of the *sample*: with a tilt above zero a column of atoms that appears at
the same pixel of every slice runs towards higher rows (or columns) of the microscope as the beam goes down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.refinement.config import RefinementConfig

ANGSTROM = 1e-10
#: Radians by which the wave at the edge of the detector turns from the first slice to the last, below which no pattern tells
#: them apart; and the thinnest slice of an electron's sample, half an atom.
LEAST_TURN, THINNEST_ANGSTROM = 0.05, 0.5


@dataclass(frozen=True)
class Slab:
    """What lies between a slice and the next.

    Attributes:
        distance_px2: wavelength * distance / pixel size**2.
        shift_px: (row, column), how far the next slice lies sideways.
        slice_thickness_angstrom, tilt_mrad: the same in the units of a microscope; None if the scan has no pixel size or no
            wavelength.
        tilt_error_mrad: standard error of the tilt, for this thickness; None if it was not refined.
    """

    distance_px2: float
    shift_px: tuple[float, float]
    slice_thickness_angstrom: float | None = None
    tilt_mrad: tuple[float, float] | None = None
    tilt_error_mrad: tuple[float, float] | None = None

    def shifted(self, shift_px: Iterable[float], error_px: Iterable[float], pixel_m: float) -> Slab:
        """With another shift (row, column), known to ``error_px``, of pixels of that size."""
        assert self.slice_thickness_angstrom is not None
        length_px = self.slice_thickness_angstrom * ANGSTROM / pixel_m
        row, column = shift_px
        tilt, error = ([1e3 * math.atan(each / length_px) for each in pair] for pair in ((row, column), error_px))
        return replace(self, shift_px=(row, column), tilt_mrad=(tilt[0], tilt[1]), tilt_error_mrad=(error[0], error[1]))


def slab_between(scan: RawData, config: RefinementConfig) -> Slab | None:
    """What the settings say of the space between two slices; None for a thin object.

    Raises:
        ConfigurationError: the settings are in units, and the scan has none; the slices are too thin to be told apart.
    """
    if config.slices == 1:
        return None
    tilt = (config.tilt_row_mrad, config.tilt_column_mrad)
    if not (scan.pixel_size_m and scan.wavelength_m):
        in_units = {"thickness_angstrom": config.thickness_angstrom, "tilt_row_mrad": any(tilt)}
        in_units["tilt_start"] = config.tilt_start is not None
        for field, given in in_units.items():
            if given:
                raise _without_units(scan, field)
        return _told_apart(Slab(config.slice_distance_px2, (0.0, 0.0)), config, least_angstrom=0.0)
    to_px2 = scan.wavelength_m / scan.pixel_size_m**2
    length = config.slice_distance_px2 / to_px2
    if config.thickness_angstrom is not None:
        length = config.thickness_angstrom * ANGSTROM / config.slices
    row, column = (length * math.tan(1e-3 * angle) / scan.pixel_size_m for angle in tilt)
    slab = Slab(length * to_px2, (row, column), length / ANGSTROM, tilt)
    return _told_apart(slab, config, THINNEST_ANGSTROM if scan.electrons else 0.0)


def _told_apart(slab: Slab, config: RefinementConfig, least_angstrom: float) -> Slab:
    """``slab``, if its slices are no thinner than so much and patterns can tell them apart."""
    thickness, turn = config.thickness_angstrom, math.pi / 4 * abs(slab.distance_px2) * (config.slices - 1)
    field, given = (
        ("slice_distance_px2", config.slice_distance_px2) if thickness is None else ("thickness_angstrom", thickness)
    )
    if turn < LEAST_TURN:
        raise ConfigurationError(
            field=field,
            found=f"{given:g} with {config.slices} slices: from the first to the last the wave at the edge of the detector "
            f"turns by {turn:.2g} rad",
            expected=f"at least {given * LEAST_TURN / turn:.2g}, for {LEAST_TURN:g} rad: no pattern tells thinner ones apart",
            hint="A thinner sample takes --slices 1",
        )
    if slab.slice_thickness_angstrom is not None and slab.slice_thickness_angstrom < least_angstrom:
        most = int(slab.slice_thickness_angstrom * config.slices / least_angstrom)
        raise ConfigurationError(
            field=field,
            found=f"{given:g}: {config.slices} slices of {slab.slice_thickness_angstrom:.2g} Angstrom",
            expected=f"at least {least_angstrom:g} Angstrom a slice, half an atom",
            hint=f"Type --slices {max(1, most)} at the most",
        )
    return slab


def _without_units(scan: RawData, field: str) -> ConfigurationError:
    units = {"pixel size": scan.pixel_size_m, "wavelength": scan.wavelength_m}
    return ConfigurationError(
        field=field,
        found=f"a scan without {' and '.join(name for name, value in units.items() if not value)}",
        expected="both, to know how far the beam spreads from a slice to the next",
        hint="For electrons add --voltage-kV KV with --semiangle-mrad MRAD or --pixel-size-m METRES; for X-rays --energy-eV EV "
        "--pixel-size-m METRES; or give --slice-distance-px2, which needs neither",
    )
