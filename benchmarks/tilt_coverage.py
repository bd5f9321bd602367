"""Whether the error told of a tilt is true: small simulated crystals whose tilt is drawn at random.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/tilt_coverage.py [--scans 12]

SrTiO3 of 80, 120 and 160 Angstrom at 1e4, 1e5 and 1e6 electrons a square Angstrom by turns, 12 x 12 positions, the right
thickness and lens, eight slices. Printed are the tilt, what is found, and the deviations over the error told: their root mean
square is one if the error is true.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.solver import refine
from ptycho_ray.simulation.electrons import ElectronSpec, simulate_electrons

THICKNESSES, DOSES, MOST_MRAD = (80.0, 120.0, 160.0), (1e4, 1e5, 1e6), 6.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng, deviations = np.random.default_rng(5), []
    for number in range(options.scans):
        row, column = rng.uniform(-MOST_MRAD, MOST_MRAD, 2).round(1).tolist()
        spec = ElectronSpec(
            raster=(12, 12), phonons=2, tilt_mrad=(row, column), thickness_angstrom=THICKNESSES[number % 3],
            dose_e_per_A2=DOSES[number // 3 % 3], seed=100 + number,
        )  # fmt: skip
        made = simulate_electrons(spec)
        config = RefinementConfig(
            slices=8, thickness_angstrom=made.truth["thickness_angstrom"], depth_smoothing_slices=1.0, iterations=30,
            tilt_start=5,
        )  # fmt: skip
        slab = refine(made.scan, config).slab
        assert slab is not None
        found, error = np.array(slab.tilt_mrad), np.array(slab.tilt_error_mrad)
        deviations.append((found - (row, column)) / error)
        print(f"({row}, {column}) mrad, {spec.thickness_angstrom:g} A, {spec.dose_e_per_A2:.0e}: ", end="")
        print(f"{found.round(2)} +- {error.round(2)}, off by {deviations[-1].round(1)} errors", flush=True)
    every = np.abs(deviations)
    print(
        f"rms {np.sqrt(np.mean(every**2)):.2f}, within one {np.mean(every < 1):.0%}, within two {np.mean(every < 2):.0%}"
    )


if __name__ == "__main__":
    main()
