"""Cost of stitching: seconds for 10,000 patches of 64 x 64, and how it grows with the number of patches.

    python benchmarks/bench_stitching.py

One line of JSON. ``per_patch_ratio`` compares the time a patch at 10,000 with that at 1,000 (linear: 1). Bringing the
patches to one phase first is timed apart.
"""

from __future__ import annotations

import json
import time

import numpy as np
import torch

from ptycho_ray.reconstruction.phases import PhaseWindow, synchronised_phases
from ptycho_ray.reconstruction.stitching import StitchAccumulator


def seconds(n: int) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    positions = rng.uniform(0, 10 * n**0.5, (n, 2))
    patches = torch.ones(n, 64, 64, dtype=torch.complex64)
    squared = ((np.indices((64, 64)) - 32) ** 2).sum(axis=0)
    weight = torch.from_numpy(np.exp(-squared / 200).astype(np.float32))
    best = []
    for _ in range(3):
        started = time.monotonic()
        accumulator = StitchAccumulator(positions, 64, weight)
        accumulator.add(patches, positions)
        accumulator.result()
        best.append(time.monotonic() - started)
    started = time.monotonic()
    window = PhaseWindow.of(weight.numpy())
    synchronised_phases(window.cut(patches.numpy()), positions, window)
    return min(best), time.monotonic() - started


def main() -> None:
    torch.set_num_threads(2)
    small, _ = seconds(1_000)
    large, phases = seconds(10_000)
    print(
        json.dumps(
            {
                "benchmark": "stitching",
                "seconds_10000_patches": round(large, 3),
                "per_patch_ratio": round(large / 10 / small, 2),
                "seconds_common_phase": round(phases, 3),
            }
        )
    )


if __name__ == "__main__":
    main()
