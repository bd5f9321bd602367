"""A scan with electrons in the figures of a microscopist: kV, mrad, angstrom, electrons per square angstrom."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ptycho_ray.data.inspection import Problem, photons_per_unit
from ptycho_ray.data.placing import nearest_distances
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.physics.aberrations import ABERRATIONS
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import probe_diameter_px

#: A probe wider than this part of its window reaches over its edge; a disc narrower than the second part wastes the detector.
WIDEST, NARROWEST = 0.8, 0.125


def electron_facts(scan: RawData) -> dict[str, float | str | None]:
    """The geometry and dose of a scan with electrons; None for what is not known.

    The radius of the bright-field disc is the one that the semi-angle has on this detector, the probe's diameter that of the
    circle with 90 % of it, ``geometric_probe_angstrom`` what semi-angle and defocus give, the dose all detected electrons over
    the scanned area and half a step around it.
    """
    wavelength, pixel, optics = scan.wavelength_m, scan.pixel_size_m, scan.optics
    angle = wavelength / (scan.N * pixel) if wavelength and pixel else None
    semiangle = None if optics is None else optics.semiangle_rad
    step = float(np.median(nearest_distances(scan.positions_px)))
    counts = photons_per_unit(scan)
    electrons = None if counts is None else float(scan.pattern_energies().mean()) * counts
    dose = None
    if electrons is not None and pixel:
        sides = np.ptp(scan.positions_px, axis=0) + step
        dose = electrons * len(scan) / float(np.prod(sides * pixel * 1e10))
    return {
        "voltage_kV": scan.energy_eV and scan.energy_eV / 1e3,
        "wavelength_pm": wavelength and wavelength * 1e12,
        "semiangle_mrad": semiangle and semiangle * 1e3,
        "defocus_nm": None if optics is None or optics.defocus_m is None else optics.defocus_m * 1e9,
        "aberrations": _aberrations(optics) if optics is not None else None,
        "mrad_per_pixel": angle and angle * 1e3,
        "detector_edge_mrad": angle and angle * 1e3 * (scan.N // 2),
        "bright_field_disc_px": semiangle / angle if semiangle and angle else None,
        "object_pixel_angstrom": pixel and pixel * 1e10,
        "step_angstrom": pixel and step * pixel * 1e10,
        "probe_diameter_angstrom": pixel and probe_diameter_px(scan.probe) * pixel * 1e10,
        "geometric_probe_angstrom": optics.diameter_m(wavelength) * 1e10 if optics is not None and wavelength else None,
        "counts_per_electron": None if counts is None else 1 / counts,
        "electrons_a_pattern": electrons,
        "dose_per_square_angstrom": dose,
    }


def _aberrations(optics: ElectronOptics) -> str | None:
    """The aberrations and the partial coherence of a lens, for people; None where there are none."""
    found = []
    for name, (length, azimuth) in optics.aberrations.items():
        size = f"{name} {length * 1e9:.4g} nm" if abs(length) < 1e-6 else f"{name} {length * 1e6:.4g} um"
        found.append(size + (f" at {math.degrees(azimuth):.3g} deg" if ABERRATIONS[name][1] else ""))
    if optics.source_size_m:
        found.append(f"source {optics.source_size_m * 1e10:.3g} angstrom")
    if optics.defocus_spread_m:
        found.append(f"defocus spread {optics.defocus_spread_m * 1e9:.3g} nm")
    return ", ".join(found) or None


def electron_problems(scan: RawData) -> Iterator[Problem]:
    """Suspected problems that only a scan with electrons has."""
    if not scan.electrons:
        return
    facts: dict[str, Any] = electron_facts(scan)
    if facts["voltage_kV"] is None:
        yield Problem("the accelerating voltage is not known", "--voltage-kV")
    if facts["semiangle_mrad"] is None:
        yield Problem("the convergence semi-angle is not known", "--semiangle-mrad, or --vacuum FILE")
    wide, pixel, disc = facts["geometric_probe_angstrom"], facts["object_pixel_angstrom"], facts["bright_field_disc_px"]
    if wide is not None and pixel is not None and wide > WIDEST * scan.N * pixel:
        yield Problem(
            f"the probe is {wide:.4g} angstrom wide at this defocus, in a window of {scan.N * pixel:.4g} angstrom",
            "a smaller defocus, or finer angles of the detector (a longer camera length, less binning)",
        )
    if disc is not None and disc < NARROWEST * scan.N:
        yield Problem(
            f"the bright-field disc has a radius of {disc:.3g} px on a detector of {scan.N}",
            f"if little is scattered beyond twice the disc, ptycho-ray prepare --size {_even(6 * disc)} is faster",
        )


def _even(side: float) -> int:
    return max(16, 2 * round(side / 2))
