"""What every network costs, how far it fits six patterns in 120 steps, and how fast some are: the tables of docs/networks.md.

    python benchmarks/networks.py cost     # parameters and operations
    python benchmarks/networks.py fit      # a few minutes
    python benchmarks/networks.py speed [compiled]    # patterns a CPU second; torch.compile takes minutes for each network

The fit is the one of tests/models/test_networks.py: side 32, n_filters_scale 1 or fno_width 8, a soft random object of
strong phase, 1e7 photons a pattern. It tells whether a network learns at all and ends with a structured object, not how well it
generalises. Speed is that of single patterns to transmissions in batches of 16, the retrieval included, one thread.
"""

from __future__ import annotations

import functools
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from bench_throughput import BATCH, cpu_seconds

from ptycho_ray.config import ModelConfig
from ptycho_ray.data import Normalisation
from ptycho_ray.models.cost import network_cost
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.registry import ARCHITECTURES
from ptycho_ray.models.retrieval import SETTLING_STEPS

SIDES = (64, 128)
RECOMMENDED: dict[str, dict[str, Any]] = {
    "unet, fno_width 16, retrieval of 30 steps": {
        "architecture": "unet", "fno_width": 16, "probe_conditioning": "retrieval", "retrieval_steps": 30,
    },
    "unet, fno_width 8, retrieval of 60 steps": {
        "architecture": "unet", "fno_width": 8, "probe_conditioning": "retrieval", "retrieval_steps": 60,
    },
}  # fmt: skip


def retrieval_flops(config: ModelConfig) -> int:
    """Operations of the retrieval before the network and of the steps after it, with it and without, or of the kernel in it:
    two Fourier transforms of one mode a step."""
    steps = config.retrieval_steps + 2 * SETTLING_STEPS if config.probe_conditioning == "retrieval" else 0
    steps = config.unrolled_iterations if config.solves_scans else steps
    pixels = config.N**2
    return round(steps * 2 * 5 * pixels * math.log2(pixels))


def cost() -> None:
    print("| network | parameters, N = 64 | N = 128 | MFLOP, N = 64 | N = 128 |")
    print("| --- | --- | --- | --- | --- |")
    rows = [(name, {"architecture": name}) for name in ARCHITECTURES]
    rows.insert(1, ("cnn, n_filters_scale 1", {"n_filters_scale": 1}))
    rows.append(("hybrid_resnet, fno_width 16", {"architecture": "hybrid_resnet", "fno_width": 16}))
    rows.append(("unrolled, fno_width 8", {"architecture": "unrolled", "fno_width": 8}))
    for name, settings in [*rows, *RECOMMENDED.items()]:
        configs = [ModelConfig(N=n, **settings) for n in SIDES]  # type: ignore[arg-type]
        costs = [network_cost(config) for config in configs]
        parameters = " | ".join(f"{found.parameters:,}" for found in costs)
        flops = [(found.flops + retrieval_flops(config)) / 1e6 for found, config in zip(costs, configs, strict=True)]
        print(f"| {name} | {parameters} | {' | '.join(f'{number:,.0f}' for number in flops)} |")


def fit() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "models"))
    from test_networks import HEADS, learn, scan_of_six_patterns, small

    print("| network | R-factor, amplitude and phase | real and imaginary part | CPU s |")
    print("| --- | --- | --- | --- |")
    scan = scan_of_six_patterns()
    for name in ARCHITECTURES:
        started, cells = time.process_time(), []
        for head in HEADS:
            fitted, _, amplitude, phase = learn(small(name, head, ffno_encoder_blocks=4), scan, 120)
            cells.append(f"{fitted:.3f} ({amplitude:.3f}, {phase:.2f})")
        print(f"| {name} | {' | '.join(cells)} | {(time.process_time() - started) / 2:.0f} |", flush=True)


def speed(compiled: bool) -> None:
    """As it is used (channels last), in the usual layout, with convolutions of 16 bits, and compiled where asked for."""
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {"cnn": {}, "cnn, n_filters_scale 1": {"n_filters_scale": 1}, **RECOMMENDED}
    print(f"| network | N | MFLOP | patterns a CPU second | usual layout | bf16 |{' compiled |' * compiled}")
    print("|" + " --- |" * (6 + compiled))
    for name, settings in rows.items():
        for n in SIDES:
            config = ModelConfig(N=n, **settings)
            mflop = (network_cost(config).flops + retrieval_flops(config)) / 1e6
            rates = " | ".join(f"{rate:.0f}" for rate in rates_of(config, compiled))
            print(f"| {name} | {n} | {mflop:,.0f} | {rates} |", flush=True)


@torch.inference_mode()
def rates_of(config: ModelConfig, compiled: bool) -> list[float]:
    photons = 100 * torch.rand(BATCH, 1, config.N, config.N, generator=torch.Generator().manual_seed(0))
    mean = float(photons.sum(dim=(-2, -1)).mean())
    probe = torch.full((1, config.N, config.N), mean**0.5 / config.N, dtype=torch.complex64)
    model = PhysicsInformedModel(config, Normalisation(1.0, 1 / 10, 1.0, mean, mean), probe).eval()

    def rate() -> float:
        return BATCH / cpu_seconds(lambda: model.transmission_patches(photons))

    found = [rate()]
    model.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload] # missing in torch's stubs
    found.append(rate())
    model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.network_dtype = torch.bfloat16
    found.append(rate())
    if compiled:
        model.network_dtype = None
        model.network = torch.compile(model.network)  # type: ignore[assignment]
        found.append(rate())
    return found


TABLES = {
    ("cost",): cost,
    ("fit",): fit,
    ("speed",): functools.partial(speed, False),
    ("speed", "compiled"): functools.partial(speed, True),
}


def main() -> int:
    table = TABLES.get(tuple(sys.argv[1:]))
    if table is None:
        print(__doc__)
        return 2
    table()
    return 0


if __name__ == "__main__":
    sys.exit(main())
