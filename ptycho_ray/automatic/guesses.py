"""Probes to begin with where the file has none, or a wrong one.

Probes are modes [P, N, N]; widths are in object pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from ptycho_ray.automatic.trials import Assumption
from ptycho_ray.data.raw_data import RawData
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


def from_mean_pattern(amplitude: NDArray[np.float64], diameters_px: list[float]) -> list[Probe]:
    """Probes that diffract to the mean pattern: its square root (``amplitude`` [N, N], zero frequency at N//2) carried back
    to the sample and out of focus until the probe is as wide as asked for, on either side of the focus."""
    wave = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(amplitude), norm="ortho"))
    made: list[Probe] = []
    for diameter in diameters_px:
        low, high = 0.0, 4.0 * amplitude.shape[-1]
        if probe_diameter_px(wave[None]) >= diameter:
            made.append(wave[None].astype(np.complex64))
            continue
        for _ in range(30):
            middle = (low + high) / 2
            wide = probe_diameter_px(fresnel_propagate(wave, middle)[None])
            low, high = (middle, high) if wide < diameter else (low, middle)
        made += [fresnel_propagate(wave, sign * high)[None].astype(np.complex64) for sign in (1, -1)]
    return made


#: Widths that are tried where the file has no probe, as shares of the window.
WIDTHS = (0.12, 0.2, 0.3, 0.42)


def first_probes(scan: RawData) -> list[Assumption]:
    """The probe of the file; where there is none, probes of several widths that diffract to the mean pattern."""
    if not scan.probe_is_guess:
        return [Assumption("probe of the file", scan.probe)]
    amplitude = np.sqrt(scan.patterns.intensity().mean(axis=0, dtype=np.float64))
    made = from_mean_pattern(amplitude, [share * scan.N for share in WIDTHS])
    return [Assumption(f"probe from the mean pattern, {probe_diameter_px(probe):.3g} px wide", probe) for probe in made]
