"""Whether abTEM computes the same diffraction patterns as ``ptycho_ray.simulation.electrons``, and how fine its grid must be.

    python benchmarks/electrons_simulation_check.py grid        # a default scan of 3 x 3 positions, on finer and finer grids

abTEM is no dependency of the program. It lives in an environment of its own, which runs the half of this file that needs it:

    python3 -m venv /tmp/abtem && /tmp/abtem/bin/pip install abtem
    /tmp/abtem/bin/python benchmarks/electrons_simulation_check.py abtem /tmp/abtem.npz
    python benchmarks/electrons_simulation_check.py compare /tmp/abtem.npz

The specimen is SrTiO3 along [001], 4 x 4 cells wide and periodic, atoms at rest, in slices of half a cell: 300 kV, 21.4 mrad,
20 nm underfocus, three positions of the beam. Both use the parametrisation of Lobato & Van Dyck and projected potentials of
whole atoms.
"""

from __future__ import annotations

import sys
import time

import numpy as np

CELL, CELLS, GRID = 3.905, 4, 256
ENERGY_EV, SEMIANGLE_MRAD, DEFOCUS_ANGSTROM = 300e3, 21.4, 200.0
CELLS_DEEP = (1, 10, 30)
SIDE = CELL * CELLS
PLACES = np.array([[0.0, 0.0], [0.7, 0.3], [1.9, 1.1]]) + SIDE / 2
SITES = {"Sr": [(0, 0, 0.25)], "Ti": [(0.5, 0.5, 0.75)], "O": [(0.5, 0.5, 0.25), (0.5, 0, 0.75), (0, 0.5, 0.75)]}


def by_abtem(path: str) -> None:
    """Patterns [positions, GRID, GRID] and projected potentials of all thicknesses."""
    import abtem
    from ase import Atoms

    abtem.config.set({"device": "cpu", "fft": "numpy", "precision": "float64"})
    symbols = [name for name, places in SITES.items() for _ in places]
    cell = Atoms(symbols, scaled_positions=[p for places in SITES.values() for p in places], cell=[CELL] * 3, pbc=True)
    results = {}
    for deep in CELLS_DEEP:
        potential = abtem.Potential(
            cell * (CELLS, CELLS, deep),
            gpts=GRID,
            slice_thickness=CELL / 2,
            parametrization="lobato",
            projection="infinite",
        )
        probe = abtem.Probe(energy=ENERGY_EV, semiangle_cutoff=SEMIANGLE_MRAD, defocus=DEFOCUS_ANGSTROM)
        waves = probe.multislice(potential, scan=abtem.CustomScan(PLACES.tolist())).compute()
        patterns = waves.diffraction_patterns(max_angle=None, block_direct=False)
        results[f"patterns_{deep}"] = np.asarray(patterns.array)
        results[f"potential_{deep}"] = np.asarray(potential.build().compute().array).sum(axis=0)
        middle = abtem.CustomScan([[SIDE / 2, SIDE / 2]])
        probe.grid.match(potential)
        results["probe"] = np.asarray(probe.build(middle).compute().array)[0]
    np.savez(path, version=abtem.__version__, **results)


def compare(path: str) -> None:
    from ptycho_ray.physics.electron_optics import ElectronOptics
    from ptycho_ray.physics.optics import electron_wavelength_m
    from ptycho_ray.simulation.electrons.multislice import diffraction_of_positions
    from ptycho_ray.simulation.electrons.potentials import slice_phases, transmissions
    from ptycho_ray.simulation.electrons.scattering_factors import interaction_constant
    from ptycho_ray.simulation.electrons.specimens import Specimen

    pixel, wavelength = SIDE / GRID, electron_wavelength_m(ENERGY_EV) * 1e10
    optics = ElectronOptics(SEMIANGLE_MRAD * 1e-3, DEFOCUS_ANGSTROM * 1e-10)
    made = optics.probe(GRID, pixel * 1e-10, wavelength * 1e-10)
    given = np.load(path)["probe"]
    given = given / np.linalg.norm(given)
    print(
        f"probes: overlap {np.abs(np.vdot(made, given)):.6f} (their edges of the aperture differ); below, theirs is used"
    )
    probe = given[None].astype(np.complex64)
    lateral = np.stack(np.meshgrid(range(CELLS), range(CELLS), indexing="ij"), -1).reshape(-1, 2)
    angle = np.hypot(*np.meshgrid(*[(np.arange(GRID) - GRID // 2) * wavelength / SIDE * 1e3] * 2))
    print("abTEM", np.load(path)["version"])
    for deep in CELLS_DEEP:
        theirs = np.load(path)[f"patterns_{deep}"]
        ours = np.empty_like(theirs)
        for number, place in enumerate(PLACES):
            placed, symbols = [], []
            for symbol, sites in SITES.items():
                for row, column, depth in sites:
                    for layer in range(deep):
                        in_plane = ((lateral + np.array([row, column])) * CELL - place + SIDE / 2) % SIDE
                        placed.append(np.insert(in_plane, 0, (layer + depth) * CELL, axis=1))
                        symbols += [symbol] * len(in_plane)
            crystal = Specimen(np.concatenate(placed), np.array(symbols), deep * CELL, {}, "Sr")
            phases = slice_phases(crystal, 2 * deep, (GRID, GRID), pixel, ENERGY_EV)
            middle = np.full((1, 2), GRID / 2)
            distance = wavelength * CELL / 2 / pixel**2
            ours[number] = diffraction_of_positions(transmissions(phases), probe, middle, distance, N=GRID)[0]
            if number == 0:
                ours_V = phases.sum(axis=0) / interaction_constant(ENERGY_EV)
        theirs_V = np.load(path)[f"potential_{deep}"]
        print(
            f"{2 * deep:3d} slices: potential correlates {np.corrcoef(ours_V.ravel(), theirs_V.ravel())[0, 1]:.6f}, "
            f"mean {ours_V.mean():.2f} and {theirs_V.mean():.2f} V angstrom"
        )
        for limit in (SEMIANGLE_MRAD, 3 * SEMIANGLE_MRAD):
            seen = angle < limit
            a, b = ours[:, seen] / ours[:, seen].sum(), theirs[:, seen] / theirs[:, seen].sum()
            cosine = np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)
            print(
                f"  below {limit:.1f} mrad: normalised cross-correlation {cosine:.6f}, sum of differences "
                f"{np.abs(a - b).sum() / b.sum():.4f}, largest difference {np.abs(a - b).max() / b.max():.4f} of the maximum; "
                f"electrons {ours[:, seen].sum() / len(PLACES):.4f} and {theirs[:, seen].sum() / len(PLACES):.4f}"
            )


def grid() -> None:
    """Patterns without noise at each oversampling, against those at 6, and the processor time."""
    from ptycho_ray.simulation.electrons import ElectronSpec, simulate_electrons

    patterns, seconds = {}, {}
    for oversampling in (2, 3, 4, 6):
        spec = ElectronSpec(raster=(3, 3), step_angstrom=1.0, noise=False, oversampling=oversampling)
        start = time.process_time()
        patterns[oversampling] = simulate_electrons(spec).frames
        seconds[oversampling] = time.process_time() - start
    for oversampling, found in patterns.items():
        difference = np.abs(found - patterns[6]).sum() / patterns[6].sum()
        print(f"oversampling {oversampling}: sum of differences {difference:.4f}, {seconds[oversampling]:.1f} s")


if __name__ == "__main__":
    {"abtem": by_abtem, "compare": compare, "grid": grid}[sys.argv[1]](*sys.argv[2:])
