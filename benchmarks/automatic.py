"""The automatic reconstruction on scans whose answer is known, as they are and with what goes wrong in experiments.

    python benchmarks/automatic.py [SCAN ...] [--seeds 5] [--disturb all|NAME,...] [--table FILE]

SCAN is a name in ``shared/data`` beside the project; all of ``SCANS`` if none is given. A row: what was disturbed, the error
(``refinement_metric.py``; none for measured scans), the verdict's figures, what was chosen, processor seconds. One thread.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from bench_refinement import benchmark_scan
from refinement_metric import distance_to_truth

from ptycho_ray.automatic.reconstruct import reconstruct_scan
from ptycho_ray.data import load_data
from ptycho_ray.data.loading import estimate_probe
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.physics.optics import probe_diameter_px
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.simulation.probes import disc

SCANS = ("sim64_1e6", "sim128_1e6", "hard64_1e6", "lcls_run1084", "aps_siemens", "rotavirus_train")
Error = Callable[[StitchedObject], float]


def known_scan(path: Path) -> tuple[RawData, Error | None]:
    """A scan, and how far an image is from its truth; None for measured ones."""
    if path.stem.startswith(("sim", "hard")):
        scan, arrays = benchmark_scan(path)
        truth, edges = arrays["obj"], [int(edge) for edge in arrays["roi"]]
    else:
        scan = load_data(path)
        if not path.stem.startswith("lcls"):
            return scan, None
        assert scan.object_truth is not None
        low, high = np.ceil(scan.positions_px.min(axis=0)), np.floor(scan.positions_px.max(axis=0))
        truth, edges = scan.object_truth, [int(edge) for edge in (low[0], high[0], low[1], high[1])]
    roi = (edges[0], edges[1], edges[2], edges[3])
    return scan, lambda image: distance_to_truth(image.image, image.origin_px, truth, roi).nrmse


def disturbed(scan: RawData, how: str, rng: np.random.Generator) -> RawData:
    """The scan with one thing wrong."""
    intensity, positions, probe = scan.patterns.intensity(), scan.positions_px.copy(), scan.probe
    middle, counts_are_photons, guess = positions.mean(axis=0), scan.counts_are_photons, False
    if how == "no probe":
        probe, guess = estimate_probe(scan.patterns), True
    elif how == "disc 1.3 times as wide":
        diameter = min(1.3 * probe_diameter_px(probe) / 0.95, 0.9 * scan.N)
        probe = disc(scan.N, rng, diameter_px=diameter)[None]
    elif how == "axes exchanged":
        positions = positions[:, ::-1]
    elif how == "scale 3 % off":
        positions = middle + 1.03 * (positions - middle)
    elif how == "counts of 0.01 photon":
        intensity, counts_are_photons = intensity * 100, None
    elif how == "1 px and 5 %":
        positions = positions + rng.normal(0, 1, positions.shape)
        factor = 1 + 0.05 * rng.normal(size=(len(scan), 1, 1))
        intensity = rng.poisson(intensity * np.clip(factor, 0.5, None)).astype(np.float32)
    elif how == "1 % dead pixels":
        intensity[:, rng.random(intensity.shape[1:]) < 0.01] = 0
    elif how == "background of 2 %":
        level = 0.02 * intensity.sum(axis=(1, 2)).mean() / scan.N**2
        intensity = intensity + rng.poisson(level, intensity.shape).astype(np.float32)
    elif how != "as it is":
        raise SystemExit(f"there is no disturbance {how!r}; the names are {', '.join(DISTURBANCES)}")
    made = RawData(
        positions[:, 1], positions[:, 0], None, None, intensity.astype(np.float32), probe, domain="intensity",
        counts_are_photons=counts_are_photons, bad_pixels=scan.bad_pixels,
    )  # fmt: skip
    made.probe_is_guess = guess
    return made


DISTURBANCES = (
    "as it is", "no probe", "disc 1.3 times as wide", "axes exchanged", "scale 3 % off", "counts of 0.01 photon",
    "1 px and 5 %", "1 % dead pixels", "background of 2 %",
)  # fmt: skip


def row(path: Path, how: str, seed: int) -> str:
    """One reconstruction, as a row of the table."""
    scan, error = known_scan(path)
    began = time.process_time()
    made = reconstruct_scan(disturbed(scan, how, np.random.default_rng(1)), seed=seed)
    seconds, verdict = time.process_time() - began, made.verdict
    if error is None:
        found = "-"
    elif how == "axes exchanged" and np.linalg.det(made.plan.choice.assumption.matrix) > 0:
        found = "axes not found"
    else:
        found = f"{error(made.refinement.stitched):.4f}"
    noise, times = "unknown", "-"
    if verdict.r_factor_of_photon_noise is not None and verdict.times_noise is not None:
        noise, times = f"{verdict.r_factor_of_photon_noise:.4f}", f"{verdict.times_noise:.2f}"
    r_factors = f"{verdict.r_factor:.4f} ({noise}, {verdict.r_factor_of_a_flat_object:.4f})"
    chosen = "; ".join(line.split(":")[0] for line in made.plan.choice.decisions) or "-"
    trusted = "" if verdict.trusted else "not to be trusted; "
    return f"| {path.stem} | {how} | {seed} | {found} | {r_factors} | {times} | {seconds:.0f} | {trusted}{chosen} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scans", nargs="*", default=SCANS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--disturb", default="as it is")
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        print(f"no folder {folder}: the benchmark scans are not part of the repository")
        return
    lines = [
        "| scan | with | seed | error | R (noise, flat) | times noise | CPU s | chosen |",
        "| - | - | - | - | - | - | - | - |",
    ]
    print("\n".join(lines), flush=True)
    names = DISTURBANCES if options.disturb == "all" else options.disturb.split(",")
    for name in options.scans:
        for how in names:
            for seed in range(options.seeds):
                lines.append(row(folder / f"{name}.npz", how, seed))
                print(lines[-1], flush=True)
    if options.table is not None:
        options.table.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
