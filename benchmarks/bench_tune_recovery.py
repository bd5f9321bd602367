"""A wrong defocus and wrong positions, found without a truth: `python benchmarks/bench_tune_recovery.py [SEED ...]`.

For each seed a scan is simulated whose file holds the focus of the zone plate in place of the defocused probe that lit the
sample, and positions that are 2 % too far apart. ``ptycho-ray tune`` gets 40 trials to find both from held-out patterns. The
file holds no truth. Prints one JSON line a seed; exits with 1 if a seed misses 10 % of the defocus or 0.2 % of the scale, or
takes more than 15 minutes.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml

from ptycho_ray.commands import tune
from ptycho_ray.data import RawData
from ptycho_ray.data.position_maps import position_matrix, transformed_positions
from ptycho_ray.simulation import make_object, make_probe, make_scan, propagate, simulate_scan

DEFOCUS_M, SCALE, TRIALS = 6e-5, 1.02, 40
OPTICS = {"energy_eV": 10e3, "pixel_size_m": 20e-9}
SPACE = {
    "trial": "direct",
    "objective": "likelihood",
    "parameters": {"probe_defocus_m": {"uniform": [-2e-4, 2e-4]}, "position_scale": {"uniform": [0.95, 1.05]}},
    "settings": {"nepochs": 40, "validation_fraction": 0.15},
}


def wrong_scan(seed: int) -> RawData:
    """The scan, without its truth."""
    rng = np.random.default_rng(seed)
    image = make_object("dead_leaves", (200, 200), rng)
    focus = make_probe("zone_plate", 64, rng, photons=1e6, **OPTICS)
    lit = propagate(focus, DEFOCUS_M, **OPTICS).astype(np.complex64)
    positions = make_scan("fermat", (200, 200), 64, rng, n_patterns=400)
    recorded = transformed_positions(positions, position_matrix(SCALE))
    scan = simulate_scan(image, lit, positions, rng=rng, recorded_positions_n2=recorded, **OPTICS)
    scan.probe, scan.object_truth = focus, None
    return scan


def recovered(seed: int) -> dict[str, float]:
    """Run the sweep for one seed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wrong_scan(seed).to_file(folder / "scan.npz")
        (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))
        words = [str(folder / "scan.npz"), "--space", str(folder / "space.yaml"), "--trials", str(TRIALS)]
        result = tune.run([*words, "--seed", str(seed), "--output-dir", str(folder / "out")])
    best = result["best"]
    return {
        "seed": seed,
        "trials": result["trials"],
        "seconds": result["seconds"],
        "defocus_error": best["probe_defocus_m"] / DEFOCUS_M - 1,
        "scale_error": best["position_scale"] * SCALE - 1,
        "best_trial": best["trial"],
        "likelihood": best["likelihood"],
    }


def main() -> int:
    good = True
    for seed in [int(word) for word in sys.argv[1:]] or [0, 1, 2]:
        found = recovered(seed)
        print(json.dumps(found), flush=True)
        good &= abs(found["defocus_error"]) < 0.1 and abs(found["scale_error"]) < 0.002 and found["seconds"] < 900
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
