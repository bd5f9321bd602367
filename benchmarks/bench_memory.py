"""Resident memory while the core trains on, and reconstructs from, a scan on disk: does it grow with the scan?

    python benchmarks/bench_memory.py

Writes HDF5 scans of 1,500 and 6,000 patterns of 64 x 64 (uint16), and for each measures, in a process of its own, the peak
of resident memory over what the program needs before it opens the scan. One line of JSON; ``growth`` is the ratio of
the two peaks (the scans differ by a factor of 4), ``in_memory_mb`` what the larger scan takes as float32.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

PATTERNS, N = (1_500, 6_000), 64


def write_scan(path: Path, n: int) -> None:
    rng = np.random.default_rng(0)
    squared = ((np.indices((N, N)) - N // 2) ** 2).sum(axis=0)
    mean = 200 * np.exp(-squared / 60) + 0.2
    side = n**0.5 * 4
    with h5py.File(path, "w") as file:
        data = file.create_dataset("diffraction", (n, N, N), dtype="uint16", chunks=(16, N, N), compression="lzf")
        for start in range(0, n, 500):
            count = min(500, n - start)
            data[start : start + count] = rng.poisson(mean, (count, N, N))
        file["xcoords"], file["ycoords"] = rng.uniform(0, side, n), rng.uniform(0, side, n)
        file["probeGuess"] = np.exp(-squared / 100).astype(np.complex64)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def use_scan(path: str) -> None:
    """In a process of its own: one epoch over the scan, then its reconstruction."""
    import torch

    from ptycho_ray.config import ModelConfig, TrainingConfig
    from ptycho_ray.data import load_data
    from ptycho_ray.workflow import run_cdi_example

    torch.set_num_threads(2)
    before = peak_mb()
    scan = load_data(path)
    config = TrainingConfig(
        model=ModelConfig(N=N, n_filters_scale=1), n_groups=len(scan), nepochs=1, validation_fraction=0.02
    )
    run_cdi_example(scan, scan, config, do_stitching=True, keep_patches=False)
    print(json.dumps({"before": before, "peak": peak_mb()}))


def main() -> None:
    if len(sys.argv) > 1:
        use_scan(sys.argv[1])
        return
    extra = []
    with tempfile.TemporaryDirectory() as folder:
        for n in PATTERNS:
            path = Path(folder) / f"scan{n}.h5"
            write_scan(path, n)
            command = [sys.executable, __file__, str(path)]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            measured = json.loads(output.splitlines()[-1])
            extra.append(measured["peak"] - measured["before"])
    print(
        json.dumps(
            {
                "benchmark": "memory",
                "extra_mb_1500_patterns": round(extra[0]),
                "extra_mb_6000_patterns": round(extra[1]),
                "growth": round(extra[1] / extra[0], 2),
                "in_memory_mb": round(PATTERNS[1] * N * N * 4 / 2**20),
            }
        )
    )


if __name__ == "__main__":
    main()
