"""The learned prior in the solver, with a truth to compare: sparse scans, and lines64 over the dose.

    python benchmarks/learned_prior.py DATA_FOLDER sparse|PHOTONS [SEEDS [PRIOR]]

``sparse``: object and probe of sim64_1e6.npz (pictures that the shipped prior has not seen), 1e6 photons a pattern in the
beam, a grid with a jitter of 1.5 px and a stated linear overlap (1 - step / diameter of the circle that holds 90 % of the
photons), probe known, flat start, method 'accelerated', 200 iterations. NRMSE as in refinement_metric.py inside the ``roi``
of the file; FRC is the frequency (cycles a pixel; 0.5 is the highest) at which the ring correlation with the truth first
falls below a half. PHOTONS (1e4): lines64 with the true probe, 40 iterations of the default method; figures as in
docs/quality.md. The first row of each scan is the solver alone with all detector pixels; with the prior, one in twenty is
unseen and judges its strength. Seeds draw positions, noise and batches.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from quality import score
from refinement_metric import matched_to_truth

from ptycho_ray.data import RawData, load_data
from ptycho_ray.evaluation.frc import fourier_ring_correlation
from ptycho_ray.physics.optics import probe_diameter_px
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.solver import RefinementConfig, refine
from ptycho_ray.simulation.probes import with_photons
from ptycho_ray.simulation.scan_patterns import make_scan
from ptycho_ray.simulation.simulate import simulate_scan

JITTER_PX = 1.5


def sparse_scan(data: Path, overlap: float, seed: int) -> tuple[RawData, tuple[int, int, int, int]]:
    """A scan of the object of sim64_1e6.npz, and the part of the truth that counts."""
    with np.load(data / "sim64_1e6.npz") as file:
        sample, probe, roi = file["obj"], file["probe"], file["roi"]
    rng = np.random.default_rng((seed, 11))
    step = (1 - overlap) * probe_diameter_px(probe)
    positions = make_scan("grid", sample.shape, 64, rng, step_px=step)
    positions += rng.uniform(-JITTER_PX, JITTER_PX, positions.shape)
    positions = np.clip(positions, 32, sample.shape[0] - 32)
    scan = simulate_scan(sample, with_photons(probe, 1e6), positions, rng=rng)
    top, bottom, left, right = (int(edge) for edge in roi)
    return scan, (top, bottom, left, right)


def lines64(data: Path, photons: float, seed: int) -> RawData:
    """The unseen scan of lines64 with another dose in the beam."""
    scan = load_data(data / "lines64_test.npz")
    rng = np.random.default_rng(seed)
    return simulate_scan(
        scan.object_truth, scan.probe, scan.positions_px, photons=photons, rng=rng, sub_pixel="bilinear"
    )


def sparse_figures(image: StitchedObject, scan: RawData, roi: tuple[int, int, int, int]) -> dict[str, float]:
    assert scan.object_truth is not None
    made, truth, _ = matched_to_truth(image.image, image.origin_px, scan.object_truth, roi)
    curve = fourier_ring_correlation(made, truth)
    below = np.flatnonzero(curve.correlation[1:] < 0.5)
    return {
        "NRMSE": float(np.linalg.norm(made - truth) / np.linalg.norm(truth)),
        "FRC 1/2": float(curve.frequency[1 + below[0]]) if len(below) else 0.5,
    }


def dose_figures(image: StitchedObject, scan: RawData) -> dict[str, float]:
    figures = score(image, scan)
    return {name: figures[name] for name in ("amplitude_mae", "amplitude_ssim", "phase_mae", "phase_ssim")}


def row(
    name: str, scan: RawData, config: RefinementConfig, figures: Callable[[StitchedObject], dict[str, float]]
) -> None:
    began = time.process_time()
    found = refine(scan, config)
    seconds = time.process_time() - began
    strength = "none" if config.prior == "none" else f"chosen {found.prior.strength:g}" if found.prior else ""
    cells = " | ".join(f"{value:.4f}" for value in figures(found.stitched).values())
    print(f"| {name} | {len(scan)} | {config.seed} | {strength} | {cells} | {seconds:.1f} |", flush=True)


def main() -> int:
    if len(sys.argv) < 3:
        print(__doc__)
        return 2
    torch.set_num_threads(1)
    data, which = Path(sys.argv[1]), sys.argv[2]
    seeds = range(int(sys.argv[3]) if len(sys.argv) > 3 else 3)
    prior = sys.argv[4] if len(sys.argv) > 4 else "pretrained"
    for seed in seeds:
        config = RefinementConfig(probe_start=None, held_out_fraction=0.0, seed=seed)
        if which == "sparse":
            config = replace(config, method="accelerated", iterations=200)
            for overlap, asked in ((0.2, "none"), (0.2, prior), (0.62, "none")):
                scan, roi = sparse_scan(data, overlap, seed)
                row(
                    f"overlap {overlap:.0%}",
                    scan,
                    replace(config, prior=asked),
                    partial(sparse_figures, scan=scan, roi=roi),
                )
            continue
        for asked in ("none", prior):
            scan = lines64(data, float(which), seed)
            row(f"lines64, {which} photons", scan, replace(config, prior=asked), partial(dose_figures, scan=scan))
    return 0


if __name__ == "__main__":
    sys.exit(main())
