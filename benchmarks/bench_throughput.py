"""Training and inference throughput of ``cnn`` (n_filters_scale 2, batch 16), and the share of the processor it uses.

    python benchmarks/bench_throughput.py [THREADS]

One line of JSON for each N and gridsize. Patterns a CPU-second count the network and the physics (forward, backward, Adam),
not the reading of data; patterns of a group of four count four times. ``share`` is the rate of convolution arithmetic
achieved in training over the best that a single large convolution reaches here, in the same number format.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data import Normalisation
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.training.loss import TrainingLoss
from ptycho_ray.training.optimisation import build_optimizer

BATCH = 16
FORMATS = {"float32": None, "bfloat16": torch.bfloat16}


def cpu_seconds(step: Callable[[], object], least: float = 2.0) -> float:
    """CPU-seconds of one call: the smallest mean of three rounds of at least ``least`` seconds together."""
    step()
    rounds = []
    for _ in range(3):
        calls, started, wall = 0, time.process_time(), time.monotonic()
        while time.monotonic() - wall < least / 3:
            step()
            calls += 1
        rounds.append((time.process_time() - started) / calls)
    return min(rounds)


def attainable(dtype: torch.dtype) -> float:
    """Best rate of a 3 x 3 convolution on this processor, GFLOP a CPU-second."""
    best = 0.0
    for channels, side in ((64, 64), (128, 32), (256, 16)):
        x = torch.randn(BATCH, channels, side, side, dtype=dtype).contiguous(memory_format=torch.channels_last)
        kernel = torch.randn(channels, channels, 3, 3, dtype=dtype).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            seconds = cpu_seconds(lambda x=x, kernel=kernel: functional.conv2d(x, kernel, padding=1), 0.6)  # type: ignore[misc]
        best = max(best, 2 * BATCH * channels**2 * 9 * side**2 / seconds / 1e9)
    return best


def measure(n: int, gridsize: int, number_format: str, ceiling: float) -> dict[str, float | int | str]:
    config = TrainingConfig(model=ModelConfig(N=n, gridsize=gridsize), neighbor_count=5)
    channels = gridsize**2
    generator = torch.Generator().manual_seed(0)
    photons = torch.rand(BATCH, channels, n, n, generator=generator) * 100
    relative = (torch.rand(BATCH, channels, 2, generator=generator) - 0.5) * 6 * (gridsize > 1)
    total = float(photons.sum()) / (BATCH * channels)
    normalisation = Normalisation(1.0, (n / 2) / total**0.5, 1.0, total, total)
    probe = torch.ones(1, n, n, dtype=torch.complex64) * (total**0.5 / n)
    model = PhysicsInformedModel(config.model, normalisation, probe)
    model.network_dtype = FORMATS[number_format]
    loss, optimizer = TrainingLoss(config, normalisation), build_optimizer([model], config, ExecutionConfig())

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(model(photons, relative, 3.0), photons)["loss"].backward()
        optimizer.step()

    def infer() -> None:
        with torch.inference_mode():
            model.reconstruct(photons, relative, 3.0)

    with FlopCounterMode(display=False) as counter:
        train()
    flops = sum(count for operation, count in counter.get_flop_counts()["Global"].items() if "conv" in str(operation))
    training, inference = cpu_seconds(train, 4.0), cpu_seconds(infer)
    return {
        "benchmark": "throughput",
        "N": n,
        "gridsize": gridsize,
        "format": number_format,
        "training_patterns_per_cpu_second": round(BATCH * channels / training, 1),
        "inference_patterns_per_cpu_second": round(BATCH * channels / inference, 1),
        "training_conv_gflop_per_cpu_second": round(flops / training / 1e9, 1),
        "attainable_conv_gflop_per_cpu_second": round(ceiling, 1),
        "share": round(flops / training / 1e9 / ceiling, 3),
    }


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    for number_format in FORMATS:
        ceiling = attainable(FORMATS[number_format] or torch.float32)
        for n in (64, 128):
            for gridsize in (1, 2):
                print(json.dumps(measure(n, gridsize, number_format, ceiling)), flush=True)


if __name__ == "__main__":
    main()
