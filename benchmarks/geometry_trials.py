"""Which kind of trial tells wrong positions of a scan: the table of docs/tune.md.

    python benchmarks/geometry_trials.py [SCAN] [--only WORD]

SCAN is a file of ``shared/data`` beside the project with ``probe`` and ``probe_guess``; sim64_1e6 if not given. A row: standard
errors by which held-out patterns prefer the right positions to wrong ones, and seconds of one trial. One thread.
"""

from __future__ import annotations

import argparse
import logging
import time

import numpy as np
import torch
from bench_refinement import benchmark_scan, folder_of_scans
from numpy.typing import NDArray

from ptycho_ray.automatic.trials import drawn, surrounded
from ptycho_ray.data.position_maps import position_matrix, transformed_positions
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.refinement.direct import DirectSolver
from ptycho_ray.refinement.solver import Refinement, RefinementConfig

#: Scale and rotation of the positions.
WRONG = {
    "3 % too far apart": (1.03, 0.0), "1 % too far apart": (1.01, 0.0), "3 % too near": (0.97, 0.0),
    "rotated by 0.01": (1.0, 0.01),
}  # fmt: skip
#: Iterations, patterns per update, patterns of the scan (0 for all), whether positions are refined.
REFINED = (
    (12, 32, 0, False), (24, 32, 0, False), (24, 16, 0, False), (12, 8, 0, False), (36, 32, 200, False), (36, 16, 0, True),
)  # fmt: skip


def moved(scan: RawData, scale: float, rotation_rad: float) -> RawData:
    return scan.at(transformed_positions(scan.positions_px, position_matrix(scale, rotation_rad)))


def misfits(
    scan: RawData, judges: NDArray[np.int64], iterations: int, batch: int, positions: bool
) -> NDArray[np.float64]:
    """Of each judge, after a refinement of object and probe; with ``positions`` of these too, then by half of its pixels."""
    start = 2 if positions else None
    config = RefinementConfig(iterations=iterations, batch_size=batch, position_start=start, check_every=iterations)
    refinement = Refinement(scan, config, held_out=judges)
    for _ in refinement:
        pass
    return refinement.judge_unseen(judges, 1.0).misfit


def direct_misfits(scan: RawData, judges: NDArray[np.int64], probe: NDArray[np.complex64]) -> NDArray[np.float64]:
    """Of each judge, after 40 passes with the probe held."""
    learn = np.ones(len(scan), dtype=bool)
    learn[judges] = False
    photons = torch.from_numpy(scan.patterns.intensity())
    solver = DirectSolver(photons, scan.positions_px, torch.from_numpy(probe), learn=learn)
    for _ in range(40):
        solver.step()
    return np.concatenate(
        [(each.rate.sqrt() - each.counts.sqrt()).square().sum(dim=(1, 2)).numpy() for each in solver.explained(judges)]
    ).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scan", nargs="?", default="sim64_1e6")
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    data = folder_of_scans()
    if data is None:
        return
    scan, arrays = benchmark_scan(data / f"{options.scan}.npz")
    probes = {"the file": scan.probe, "the truth": arrays["probe"].astype(np.complex64)}
    rows = [
        (f"direct, probe of {name} held", 0, lambda s, j, p=p: direct_misfits(s, j, p)) for name, p in probes.items()
    ]
    for iterations, batch, most, free in REFINED:
        name = f"refined, {iterations} of {batch} patterns, {most or 'all'}{', positions too' if free else ''}"
        rows.append((name, most, lambda s, j, i=iterations, b=batch, f=free: misfits(s, j, i, b, f)))
    print(f"| trial | {' | '.join(WRONG)} | s |\n| - |{' - |' * (len(WRONG) + 1)}")
    for name, most, trial in rows:
        if options.only not in name:
            continue
        distance = np.linalg.norm(scan.positions_px - np.median(scan.positions_px, axis=0), axis=1)
        part = scan.select(np.sort(np.argsort(distance, kind="stable")[: most or None]))
        judges = drawn(surrounded(part.positions_px), max(24, len(part) // 10), np.random.default_rng(0))
        began = time.process_time()
        right = trial(part, judges)
        seconds, cells = time.process_time() - began, []
        for scale, rotation in WRONG.values():
            ratios = np.log(trial(moved(part, scale, rotation), judges) / right)
            cells.append(f"{ratios.mean() / (ratios.std(ddof=1) / np.sqrt(len(ratios))):.1f}")
        print(f"| {name} | {' | '.join(cells)} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
