"""Probes to begin with where the file has none, or a wrong one.

Probes are modes [P, N, N]; widths are in object pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from ptycho_ray.automatic.trials import Assumption
from ptycho_ray.data.inspection import near_field_px2, pixels_disagree
from ptycho_ray.data.loading import estimate_probe
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.physics.optics import fresnel_propagate, probe_diameter_px

Probe = NDArray[np.complex64]


def turned_in_time(probe: Probe) -> Probe:
    """The probe of the other sign of defocus: its complex conjugate, turned so that it diffracts to the same places."""
    twin = np.conj(np.roll(probe[..., ::-1, ::-1], (1, 1), axis=(-2, -1)))
    return np.ascontiguousarray(twin)


def rescaled_probe(probe: Probe, factor: float) -> Probe:
    """A probe ``factor`` times as wide, with the same photons."""
    side = probe.shape[-1]
    at = (np.indices((side, side)) - side // 2) / factor + side // 2
    made = np.stack(
        [
            map_coordinates(mode.real, at, order=1) + 1j * map_coordinates(mode.imag, at, order=1)
            for mode in probe.astype(np.complex128)
        ]
    )
    photons = [np.sum(np.abs(each) ** 2, dtype=np.float64) for each in (probe, made)]
    return (made * np.sqrt(photons[0] / photons[1])).astype(np.complex64)


def out_of_focus(focus: Probe, diameters_px: list[float]) -> list[Probe]:
    """A probe that is carried out of focus until it is as wide as asked for, on either side; ``focus`` where it is already."""
    made: list[Probe] = []
    for diameter in diameters_px:
        low, high = 0.0, 4.0 * focus.shape[-1]
        if probe_diameter_px(focus) >= diameter:
            made.append(focus)
            continue
        for _ in range(30):
            middle = (low + high) / 2
            wide = probe_diameter_px(fresnel_propagate(focus, middle))
            low, high = (middle, high) if wide < diameter else (low, middle)
        made += [fresnel_propagate(focus, sign * high).astype(np.complex64) for sign in (1, -1)]
    return made


#: Widths that are tried where the file has no probe, as shares of the window.
WIDTHS = (0.12, 0.2, 0.3, 0.42)


def first_probes(scan: RawData, given: Mapping[str, Any]) -> list[Assumption]:
    """The probe of the file; where there is none, probes of several widths that diffract to the mean pattern. In the near
    field, and where the numbers of the file may mean one, the mean pattern propagated back to the sample.

    Raises:
        InputError: the scan is of the near field, and neither its file nor ``given`` says how near.
    """
    settings = {name: value for name, value in given.items() if name != "near_field_px2"}
    near, only_near = given.get("near_field_px2"), scan.far_field is False
    if near is not None:
        only_near = True
    elif only_near or ("near_field_px2" not in given and scan.far_field is None and pixels_disagree(scan)):
        near = near_field_px2(scan)
    probes = []
    if near is not None:
        probe = estimate_probe(scan.patterns, near)
        name = "near field, probe from the mean pattern"
        probes.append(Assumption(name, probe, settings | {"near_field_px2": near}))
    if only_near:
        if not probes:
            raise InputError(
                file=scan.source or None,
                field="near_field_px2",
                found="a near-field scan without energy, distance, and the pixels of detector and object",
                expected="wavelength * effective distance / object pixel**2",
                hint="ptycho-ray reconstruct SCAN --refinement.near-field-px2 NUMBER",
            )
        return probes
    if not scan.probe_is_guess:
        return [*probes, Assumption("probe of the file", scan.probe, settings)]
    made = out_of_focus(estimate_probe(scan.patterns), [share * scan.N for share in WIDTHS])
    name = "probe from the mean pattern, {:.3g} px wide"
    return [*probes, *(Assumption(name.format(probe_diameter_px(probe)), probe, settings) for probe in made)]
