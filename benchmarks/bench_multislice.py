"""Processor time of an iteration a pattern and slice, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/bench_multislice.py [--sides 64 128] [--slices 1 10 20]

256 random patterns, adam, object and probe; the least of four iterations. Microseconds a pattern, and a pattern and slice.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from ptycho_ray.data.raw_data import RawData
from ptycho_ray.refinement.solver import Refinement, RefinementConfig

PATTERNS, ITERATIONS = 256, 5


def random_scan(side: int, rng: np.random.Generator) -> RawData:
    """Poisson counts of a disc, at jittered positions of a raster of 6 pixels."""
    across = int(PATTERNS**0.5)
    raster = np.stack(np.meshgrid(np.arange(across), np.arange(across), indexing="ij"), axis=-1).reshape(-1, 2) * 6
    positions = raster + rng.uniform(-1, 1, raster.shape)
    axis = np.arange(side) - side // 2
    squared = axis[:, None] ** 2 + axis**2
    probe = (np.exp(-squared / (side / 6) ** 2) * np.exp(1j * squared / 60)).astype(np.complex64)
    rate = 1e6 * np.exp(-squared / (side / 10) ** 2) / (np.pi * (side / 10) ** 2)
    counts = rng.poisson(np.broadcast_to(rate, (PATTERNS, side, side))).astype(np.float32)
    return RawData(positions[:, 1], positions[:, 0], None, None, counts, probe, domain="intensity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 10, 20])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| N | slices | us a pattern | us a pattern and slice |\n| - | - | - | - |")
    for side in options.sides:
        scan = random_scan(side, np.random.default_rng(0))
        for slices in options.slices:
            thick = {"slices": slices, "slice_distance_px2": 1.0} if slices > 1 else {}
            config = RefinementConfig(
                iterations=ITERATIONS, check_every=99, smooth_gain=0, held_out_fraction=0, **thick
            )
            iterations, times = iter(Refinement(scan, config)), []
            for _ in range(ITERATIONS):
                began = time.process_time()
                next(iterations)
                times.append(time.process_time() - began)
            each = min(times[1:]) / PATTERNS * 1e6
            print(f"| {side} | {slices} | {each:.0f} | {each / slices:.0f} |", flush=True)


if __name__ == "__main__":
    main()
