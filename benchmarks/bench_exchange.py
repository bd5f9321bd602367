"""What summing derivatives over two processes takes of a step: more than that no overlap with the computation can save.

    python benchmarks/bench_exchange.py [--steps 10]

Two processes of one thread each, joined by gloo, as two workers of one machine are. A step of the training of a network
(32-bit, 16 patterns of 64 x 64 for each process) and a batch of a refinement (adam, 4,096 patterns, the usual batch size), the
least of some. The sum is measured after a barrier, so that it has no waiting for the other process in it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import distributed, multiprocessing

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.refinement.run import Run
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.simulation import make_object, make_probe, simulate_scan
from ptycho_ray.training.loop import Trainer
from ptycho_ray.training.parallel import DataParallel
from ptycho_ray.training.scan_source import ScanSource
from ptycho_ray.training.scan_training import scans_to_train

PROCESSES = 2


def made_scan(patterns: int, n: int = 64) -> RawData:
    rng = np.random.default_rng(3)
    side = int(n + np.sqrt(patterns) * n / 8) + 4
    positions = rng.uniform(n / 2 + 1, side - n / 2 - 1, (patterns, 2))
    probe = make_probe("disc", n, rng, photons=1e5)
    return simulate_scan(make_object("lines", (side, side), rng), probe, positions, rng=rng)


class Sums:
    """Measures a function that sums over the processes; arguments and result are its own."""

    def __init__(self, add_up: Callable[..., Any]) -> None:
        self.add_up, self.seconds, self.waited = add_up, [], []

    def __call__(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        distributed.barrier()
        start = time.perf_counter()
        found = self.add_up(*arguments)
        self.seconds.append(time.perf_counter() - start)
        self.waited.append(start - began)
        return found


def figures(sums: Sums, steps: list[float], numbers: int) -> dict[str, float]:
    step, exchange = min(s - w for s, w in zip(steps, sums.waited, strict=True)), min(sums.seconds)
    return {
        "step_ms": round(1e3 * step, 2),
        "exchange_ms": round(1e3 * exchange, 3),
        "share": round(exchange / step, 4),
        "megabytes": round(4e-6 * numbers, 2),
    }


def training(parallel: DataParallel, steps: int) -> dict[str, float]:
    """A step of a training."""
    config = TrainingConfig(model=ModelConfig(N=64, n_filters_scale=2), batch_size=16 * PROCESSES)
    execution = ExecutionConfig(accelerator="cpu")
    scan = made_scan(16 * PROCESSES * (steps + 2))
    source = ScanSource(scans_to_train(scan, config), config, execution)
    trainer = Trainer(source, config, execution, parallel=parallel)
    sums = Sums(parallel.add_up)
    trainer.parallel = type("Measured", (), {"add_up": sums, "share": parallel.share})()
    batches, took = source.batches(0), []
    for batch in batches[:steps]:
        pieces = source.read(parallel.share(batch))
        start = time.perf_counter()
        trainer._step([pieces], len(batch), len(batches))
        took.append(time.perf_counter() - start)
    return figures(sums, took, sum(p.numel() for p in source.module.parameters() if p.requires_grad))


def refinement(parallel: DataParallel, steps: int) -> dict[str, float]:
    """A batch of a refinement."""
    made = Refinement(made_scan(4096), RefinementConfig(held_out_fraction=0.0), parallel=parallel)
    took, count = [], []

    class Measured(Run):
        def add_up(self, tensors: Any) -> None:
            count.append(sum(t.numel() * (2 if t.is_complex() else 1) for t in tensors))
            sums(self, tensors)

    sums = Sums(Run.add_up)
    made.run.__class__ = Measured
    batches = made.run.draw()[:steps]
    with torch.no_grad():
        for batch in batches:
            made.run.only = [batch]
            start = time.perf_counter()
            made.method.iterate(made.run)
            took.append(time.perf_counter() - start)
    return figures(sums, took, int(np.mean(count)))


def work(rank: int, folder: str, steps: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES)
    for measure in (training, refinement):
        found = measure(DataParallel(rank, PROCESSES), steps)
        if rank == 0:
            print(json.dumps({"benchmark": f"exchange of two processes, {measure.__name__}", **found}), flush=True)
    distributed.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(work, (folder, options.steps), nprocs=PROCESSES)


if __name__ == "__main__":
    main()
