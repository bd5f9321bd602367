"""Seconds to group 100,000 positions at gridsize 2, and the cost of a position against that of 10,000.

python benchmarks/bench_grouping.py
"""

from __future__ import annotations

import json
import time

import numpy as np

from ptycho_ray.data import group_indices


def seconds(n: int) -> float:
    positions = np.random.default_rng(0).uniform(0, 10 * n**0.5, (n, 2))
    best = []
    for _ in range(3):
        started = time.monotonic()
        group_indices(positions, 2, n, neighbor_count=5, generator=np.random.default_rng(0))
        best.append(time.monotonic() - started)
    return min(best)


def main() -> None:
    small, large = seconds(10_000), seconds(100_000)
    result = {"benchmark": "grouping", "seconds_100000_positions": round(large, 3)}
    print(json.dumps(result | {"per_position_ratio": round(large / 10 / small, 2)}))


if __name__ == "__main__":
    main()
