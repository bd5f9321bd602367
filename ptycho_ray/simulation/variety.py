"""Random scans of many kinds, on which a network is pretrained."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.raw_data import RawData
from ptycho_ray.physics.optics import fresnel_propagate, tilted_modes
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe, with_photons, zernike_polynomial
from ptycho_ray.simulation.simulate import simulate_scan

#: Drawn objects only: pictures, stars and points are left out, so that tests on them show an unseen kind.
OBJECT_KINDS = ("lines", "dead_leaves", "grf", "diagonals")
#: Largest phase range of an object in radians; small ones are more frequent.
LARGEST_PHASE_RANGE = 2.5
#: Share of the objects whose phase has up to a whole turn.
STRONG_PHASES = 0.15
#: Shares of the scans whose probe is a lens out of focus, an aberrated disc, or a plain one; and with two modes.
LENSES, ABERRATED, TWO_MODES = 0.35, 0.45, 0.25
#: Share of the scans whose probe is not quite the one that the file tells, and the most by which it is out of focus: radians
#: where its spectrum has twice its mean square width.
WRONG_PROBES, WRONG_FOCUS_RAD = 0.15, 0.5


def random_scan(rng: np.random.Generator, N: int, n_patterns: int, photons: tuple[float, float]) -> RawData:
    """A scan of ``n_patterns`` patterns of side N at different, random whole pixels, with its truth.

    Object, its amplitudes (0.1 to 1) and phases, probe, one or two modes and the dose (logarithm uniform within ``photons``)
    all vary; about a sixth of the objects do not absorb, and another sixth do not shift the phase. The probe that some scans
    tell is a little out of focus. Positions are whole pixels, so that the truth at each needs no interpolation.
    """
    highest = rng.uniform(0.4, 1)
    lowest = rng.uniform(0.1, highest)  # never so dark that a pattern of the lowest dose has no photon
    largest = 2 * np.pi if rng.random() < STRONG_PHASES else LARGEST_PHASE_RANGE
    phase = largest * rng.uniform() ** 2
    flat = rng.integers(6)
    sample = make_object(
        OBJECT_KINDS[rng.integers(len(OBJECT_KINDS))],
        (int(rng.uniform(1.5, 3.0) * N),) * 2,
        rng,
        amplitude_range=(1.0, 1.0) if flat == 0 else (float(lowest), float(highest)),
        phase_range=(0.0, 0.0) if flat == 1 else (0.0, float(phase)),
    )
    modes = tilted_modes(random_probe(rng, N), 1 + int(rng.random() < TWO_MODES), rng)
    probe = with_photons(modes, float(np.exp(rng.uniform(*np.log(photons)))))
    side = sample.shape[0] - N + 1
    places = np.unravel_index(rng.choice(side**2, n_patterns, replace=False), (side, side))
    positions = N // 2 + np.stack(places, axis=1).astype(np.float64)
    scan = simulate_scan(sample, probe, positions, rng=rng, sub_pixel="integer")
    if rng.random() < WRONG_PROBES:
        scan = scan.at(scan.positions_px, _out_of_focus(scan.probe, WRONG_FOCUS_RAD * rng.uniform(-1, 1)))
    return scan


def random_probe(rng: np.random.Generator, N: int) -> NDArray[Any]:
    """The wave of one mode, complex [N, N], a fifth to three fifths of the window wide.

    A pattern determines its object only if the probe has structure: with a real, symmetric probe an object and the conjugate of
    its point reflection diffract alike. Few of these are drawn.
    """
    kind, diameter = rng.random(), rng.uniform(0.2, 0.6) * N
    if kind < LENSES:
        return _lens(rng, N, diameter)
    if kind < LENSES + ABERRATED:
        rms_rad = float(rng.uniform(0.5, 2.5))
        return make_probe("zernike", N, rng, diameter_px=float(diameter), rms_rad=rms_rad)[0]
    plain = ("disc", "gaussian")[rng.integers(2)]
    return make_probe(plain, N, rng, diameter_px=float(diameter), defocus_m=float(rng.uniform(-1e-4, 1e-4)))[0]


def _out_of_focus(probe: NDArray[Any], rad: float) -> NDArray[np.complex64]:
    """Modes [P, N, N] with so much more phase where their spectra have twice their mean square width."""
    frequency = np.fft.fftfreq(probe.shape[-1])
    square = frequency[:, None] ** 2 + frequency**2
    power = np.abs(np.fft.fft2(probe)) ** 2
    width = (power * square).sum() / power.sum()
    return fresnel_propagate(probe, -rad / (2 * np.pi * width)).astype(np.complex64)


def _lens(rng: np.random.Generator, N: int, diameter: float) -> NDArray[np.complex128]:
    """A round pupil, with or without central stop and aberrations, so far out of focus that its beam has ``diameter`` pixels.

    A quadratic phase of a radians at the rim of a pupil of R pixels displaces its light by N a / (pi R) pixels.
    """
    pupil_radius = rng.uniform(0.08, 0.3) * N
    axis = (np.arange(N) - N // 2) / pupil_radius
    radius, angle = np.hypot(axis[:, None], axis), np.arctan2(axis[:, None], axis)
    stop = rng.uniform(0.15, 0.45) if rng.random() < 0.4 else 0.0
    pupil = np.clip(0.5 + (1 - radius) * pupil_radius, 0, 1) * np.clip(0.5 + (radius - stop) * pupil_radius, 0, 1)
    phase = np.pi * pupil_radius * diameter / (2 * N) * rng.choice((-1, 1)) * radius**2
    for n, m in ((2, 2), (2, -2), (3, 1), (3, -1), (4, 0)):
        phase = phase + rng.uniform(0, 0.5) * rng.standard_normal() * zernike_polynomial(
            n, m, np.minimum(radius, 1), angle
        )
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil * np.exp(1j * phase))))
