"""Make the two scans of the wheel again: ``python examples/make_scans.py aps_siemens.npz``.

``measured.npz`` is a part of the scan of a Siemens star that is among the test data of tike (APS Velociprobe; its licence lies
beside it): the patterns nearest to the middle of the star. ``simulated.npz`` has a known object. Both hold counts as whole
numbers, which pack to a third of their square roots.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from ptycho_ray.data import RawData, load_data
from ptycho_ray.simulation import SimulationSpec, simulate

FOLDER = Path(__file__).parents[1] / "ptycho_ray" / "examples"
PATTERNS = 200


def write(name: str, scan: RawData, **arrays: object) -> None:
    """The scan with its counts as whole numbers."""
    rows, columns = scan.positions_px.T
    kept = {
        "diff3d": np.rint(scan.patterns.intensity()).astype(np.uint16),
        "xcoords": columns.astype(np.float32),
        "ycoords": rows.astype(np.float32),
        "probeGuess": scan.probe,
        "counts_are_photons": True,
        "pixel_size_m": scan.pixel_size_m,
        "energy_eV": scan.energy_eV,
        **arrays,
    }
    np.savez_compressed(FOLDER / name, **{name: value for name, value in kept.items() if value is not None})


def main(star: str) -> None:
    whole = load_data(star)
    middle = (whole.positions_px.min(axis=0) + whole.positions_px.max(axis=0)) / 2
    nearest = np.argsort(np.abs(whole.positions_px - middle).max(axis=1), kind="stable")[:PATTERNS]
    part = whole.select(np.sort(nearest))
    write("measured.npz", part)
    spec = SimulationSpec(object="siemens", object_size=168, n_patterns=256, photons=1e5, seed=22)
    made = simulate(spec)
    write("simulated.npz", made, objectGuess=made.object_truth.astype(np.complex64))


if __name__ == "__main__":
    main(sys.argv[1])
