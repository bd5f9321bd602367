"""Scans of every kind, drawn at random: what a network is pretrained on."""

from __future__ import annotations

import numpy as np

from ptycho_ray.simulation.spec import ObjectName, ProbeName, SimulationSpec

#: Drawn objects only: pictures, stars and points are left out, so that tests on them show an unseen kind.
OBJECT_KINDS: tuple[ObjectName, ...] = ("lines", "dead_leaves", "grf", "diagonals")
PROBE_KINDS: tuple[ProbeName, ...] = ("disc", "gaussian", "zernike", "zone_plate", "default")
#: Largest phase range of an object in radians.
LARGEST_PHASE_RANGE = 2.5
#: Largest distance of the sample from the probe's own plane, as a part of where light from the edge would leave the window.
LARGEST_DEFOCUS = 0.8


def random_spec(rng: np.random.Generator, N: int, n_patterns: int, photons: tuple[float, float]) -> SimulationSpec:
    """The description of a scan of ``n_patterns`` patterns of side N at random positions.

    Object, its amplitudes (0 to 1) and phases, probe, defocus, one or two modes and the dose (logarithm uniform within
    ``photons``) all vary; about a sixth of the objects do not absorb, and another sixth do not shift the phase.
    """
    amplitude = np.sort(rng.uniform(0, 1, 2))
    phase = rng.uniform(0, LARGEST_PHASE_RANGE)
    flat = rng.integers(6)
    probe = PROBE_KINDS[rng.integers(len(PROBE_KINDS))]
    pixel_m, energy_eV = 20e-9, 10_000.0
    wavelength_m = 1.24e-6 / energy_eV
    reach_m = LARGEST_DEFOCUS * N * pixel_m**2 / wavelength_m / 2
    return SimulationSpec(
        object=OBJECT_KINDS[rng.integers(len(OBJECT_KINDS))],
        object_size=int(rng.uniform(1.5, 3.0) * N),
        amplitude_range=(1.0, 1.0) if flat == 0 else (float(amplitude[0]), float(amplitude[1])),
        phase_range=(0.0, 0.0) if flat == 1 else (0.0, float(phase)),
        N=N,
        probe=probe,
        probe_diameter_px=None if probe in ("zone_plate", "default") else float(rng.uniform(0.2, 0.6) * N),
        defocus_m=float(rng.uniform(-reach_m, reach_m)),
        energy_eV=energy_eV,
        pixel_size_m=pixel_m,
        modes=1 + int(rng.random() < 0.25),
        scan="random",
        n_patterns=n_patterns,
        photons=float(np.exp(rng.uniform(*np.log(photons)))),
        seed=int(rng.integers(2**31)),
        probe_seed=int(rng.integers(2**31)),
    )
