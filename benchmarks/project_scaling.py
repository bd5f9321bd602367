"""How far data-parallel training scales: from a measured step, the bytes of its gradients and stated links.

    python benchmarks/project_scaling.py [--n-filters-scale 2] [--patterns-per-device 64] [--sustained-tflops 150]

Measures one step here (CPU-seconds, arithmetic, bytes of gradients), then prints a table for 1 to 1024 devices. A step on n
devices is taken as   arithmetic / sustained rate + launch + ring(n)   with

    ring(n) = 2 (n - 1) / n * bytes / bandwidth + 2 (steps between nodes * 10 us + steps inside a node * 3 us),

bandwidth 200 GB/s inside a node of eight devices (NVLink) and 50 GB/s between nodes (400 Gbit/s), nothing overlapped. The
sustained rate and the launch time of a GPU are assumptions until somebody measures them; the options replace them.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data import Normalisation
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.training.loss import TrainingLoss
from ptycho_ray.training.optimisation import build_optimizer

NODE, INSIDE_BYTES_S, BETWEEN_BYTES_S = 8, 200e9, 50e9
INSIDE_LATENCY_S, BETWEEN_LATENCY_S = 3e-6, 10e-6
DEVICES = (1, 2, 8, 64, 256, 1024)


def measure(n_filters_scale: int, batch: int = 16) -> dict[str, float]:
    """CPU-seconds and arithmetic of a training step for one pattern of 64 x 64, and the bytes of its gradients."""
    torch.set_num_threads(1)
    config = TrainingConfig(model=ModelConfig(N=64, n_filters_scale=n_filters_scale))
    normalisation = Normalisation(1.0, 1.0, 1.0, 1e5, 1e5)
    model = PhysicsInformedModel(config.model, normalisation, torch.ones(1, 64, 64, dtype=torch.complex64))
    loss, optimizer = TrainingLoss(config, normalisation), build_optimizer([model], config, ExecutionConfig())
    photons, relative = torch.rand(batch, 1, 64, 64), torch.zeros(batch, 1, 2)

    def step() -> None:
        optimizer.zero_grad()
        loss(model(photons, relative, 0.0), photons)["loss"].backward()
        optimizer.step()

    with FlopCounterMode(display=False) as counter:
        step()
    seconds = []
    for _ in range(5):
        started = time.process_time()
        step()
        seconds.append(time.process_time() - started)
    gradients = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return {
        "cpu_s_a_pattern": min(seconds) / batch,
        "gflop_a_pattern": counter.get_total_flops() / batch / 1e9,
        "gradient_mb": gradients / 1e6,
    }


def ring_s(devices: int, gradient_bytes: float) -> float:
    """Seconds to add up gradients over so many devices."""
    if devices == 1:
        return 0.0
    nodes = -(-devices // NODE)
    bandwidth = INSIDE_BYTES_S if nodes == 1 else BETWEEN_BYTES_S
    hops = (min(devices, NODE) - 1) * INSIDE_LATENCY_S + (nodes - 1) * BETWEEN_LATENCY_S
    return 2 * (devices - 1) / devices * gradient_bytes / bandwidth + 2 * hops


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n-filters-scale", type=int, default=2)
    parser.add_argument("--patterns-per-device", type=int, default=64)
    parser.add_argument("--sustained-tflops", type=float, default=150.0)
    parser.add_argument("--launch-ms", type=float, default=4.0)
    options = parser.parse_args()
    measured = measure(options.n_filters_scale)
    print(json.dumps({"benchmark": "one step", **{name: round(value, 4) for name, value in measured.items()}}))
    arithmetic = measured["gflop_a_pattern"] * 1e9 / (options.sustained_tflops * 1e12)
    launch = options.launch_ms / 1e3
    print(f"{'devices':>8} {'batch':>7} {'step ms':>8} {'ring ms':>8} {'patterns/s':>11} {'efficiency':>10}")
    alone = 0.0
    for devices in DEVICES:
        ring = ring_s(devices, measured["gradient_mb"] * 1e6)
        step = options.patterns_per_device * arithmetic + launch + ring
        rate = devices * options.patterns_per_device / step
        alone = alone or rate
        print(
            f"{devices:8d} {devices * options.patterns_per_device:7d} {1e3 * step:8.2f} {1e3 * ring:8.3f} "
            f"{rate:11.0f} {rate / devices / alone:10.2f}"
        )


if __name__ == "__main__":
    main()
