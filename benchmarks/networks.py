"""What every network costs, and how far it fits six patterns in 120 steps; prints the two tables of docs/networks.md.

    python benchmarks/networks.py

The fit is the one of tests/models/test_networks.py: side 32, n_filters_scale 1 or fno_width 8, a soft random object of strong
phase,
1e7 photons a pattern. It tells whether a network learns at all and ends with a structured object, not how well it
generalises.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ptycho_ray.config import ModelConfig
from ptycho_ray.models.cost import network_cost
from ptycho_ray.models.registry import ARCHITECTURES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from test_networks import HEADS, learn, scan_of_six_patterns, small


def main() -> int:
    print("| network | parameters, N = 64 | N = 128 | MFLOP, N = 64 | N = 128 |")
    print("| --- | --- | --- | --- | --- |")
    rows = [(name, {"architecture": name}) for name in ARCHITECTURES]
    rows.insert(1, ("cnn, n_filters_scale 1", {"n_filters_scale": 1}))
    rows.append(("hybrid_resnet, fno_width 16", {"architecture": "hybrid_resnet", "fno_width": 16}))
    for name, settings in rows:
        costs = [network_cost(ModelConfig(N=n, **settings)) for n in (64, 128)]  # type: ignore[arg-type]
        parameters = " | ".join(f"{cost.parameters:,}" for cost in costs)
        print(f"| {name} | {parameters} | {' | '.join(f'{cost.flops / 1e6:,.0f}' for cost in costs)} |")
    print()
    print("| network | R-factor, amplitude and phase | real and imaginary part | CPU s |")
    print("| --- | --- | --- | --- |")
    scan = scan_of_six_patterns()
    for name in ARCHITECTURES:
        started, cells = time.process_time(), []
        for head in HEADS:
            fitted, _, amplitude, phase = learn(small(name, head, ffno_encoder_blocks=4), scan, 120)
            cells.append(f"{fitted:.3f} ({amplitude:.3f}, {phase:.2f})")
        print(f"| {name} | {' | '.join(cells)} | {(time.process_time() - started) / 2:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
