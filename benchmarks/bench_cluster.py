"""Ray Train against the plain core, two workers against one, and what another worker costs in memory.

    python benchmarks/bench_cluster.py [overhead] [scaling] [memory]

One line of JSON each; all three without arguments (5 minutes, on an idle machine of two cores).

overhead  seconds a step: under Ray Train with one worker over the plain core, both with one thread. The smallest of the
          epochs counts, and the runs alternate, so that what else the machine does weighs little.
scaling   patterns a second: two workers with one thread each over one worker with one thread; the same global batch.
memory    private resident memory of each worker of two over the size of the shared scan: its program included, and without
          it (the difference from a worker with a small scan).
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.train import train_on_cluster
from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data import RawData
from ptycho_ray.workflow import train_cdi_model

N, ROUNDS = 64, 3


def scan_of(n: int) -> RawData:
    """Patterns without a sample: the numbers do not matter here."""
    rng = np.random.default_rng(0)
    squared = ((np.indices((N, N)) - N // 2) ** 2).sum(axis=0)
    patterns = np.empty((n, N, N), dtype=np.float32)
    for row in range(0, n, 1000):
        patterns[row : row + 1000] = rng.poisson(200 * np.exp(-squared / 60) + 0.2, (min(1000, n - row), N, N))
    side = n**0.5 * 4
    probe = np.exp(-squared / 100).astype(np.complex64)
    return RawData.from_coords_without_pc(
        rng.uniform(0, side, n), rng.uniform(0, side, n), patterns, probe, domain="intensity"
    )


def configuration(folder: str, **settings: Any) -> TrainingConfig:
    defaults: dict[str, Any] = {
        "model": ModelConfig(N=N, n_filters_scale=1),
        "n_groups": 512,
        "batch_size": 32,
        "nepochs": 4,
        "validation_fraction": 0.0,
    }
    return TrainingConfig(output_dir=Path(folder), **{**defaults, **settings})


class EpochSeconds:
    """Seconds that the steps of each epoch took."""

    def __init__(self) -> None:
        self.ends = [0.0]

    def on_step(self, progress: Any, figures: Any, steps_in_epoch: int) -> None:
        pass

    def on_epoch(self, progress: Any, figures: Any, model: Any) -> None:
        self.ends.append(progress.seconds)

    def best(self) -> float:
        return float(np.diff(self.ends)[1:].min())


def seconds_an_epoch(scan: RawData, folder: str, workers: int | None) -> float:
    """The best epoch of a run in this process (None), or of one with so many workers."""
    watch = EpochSeconds()
    config = configuration(folder)
    if workers is None:
        torch.set_num_threads(1)
        train_cdi_model(scan, None, config, checkpoint_dir=Path(folder) / "plain", callbacks=[watch])
    else:
        execution = ExecutionConfig(devices=workers)
        train_on_cluster(scan, None, config, execution=execution, callbacks=[watch], resume=False)
    return watch.best()


def overhead(folder: str) -> dict[str, float]:
    scan = scan_of(256)
    plain, on_ray = [], []
    for _ in range(ROUNDS):
        plain.append(seconds_an_epoch(scan, folder, None))
        on_ray.append(seconds_an_epoch(scan, folder, 1))
    return {"step_s_plain": min(plain) / 8, "step_s_ray": min(on_ray) / 8, "ratio": min(on_ray) / min(plain)}


def scaling(folder: str) -> dict[str, float]:
    scan = scan_of(256)
    best = {workers: min(seconds_an_epoch(scan, folder, workers) for _ in range(ROUNDS)) for workers in (1, 2)}
    return {"patterns_s_1": 256 / best[1], "patterns_s_2": 256 / best[2], "ratio": best[1] / best[2]}


class WorkerMemory(EpochSeconds):
    """The private memory of every worker in mid-run, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.private: list[int] = []

    def on_epoch(self, progress: Any, figures: Any, model: Any) -> None:
        self.private = [max(old, new) for old, new in zip(self.private or [0, 0], private_bytes(), strict=True)]


def private_bytes() -> list[int]:
    from ray.util.state import list_actors

    filters = [("class_name", "=", "RayTrainWorker"), ("state", "=", "ALIVE")]
    found = []
    for actor in list_actors(ray.get_runtime_context().gcs_address, filters=filters):
        lines = Path(f"/proc/{actor.pid}/smaps_rollup").read_text().splitlines()
        found.append(1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_")))
    return found


def memory(folder: str) -> dict[str, float]:
    private, sizes = [], []
    for n in (1_000, 150_000):
        scan = scan_of(n)
        watch = WorkerMemory()
        config = configuration(folder, n_groups=min(n, 4096), nepochs=1)
        train_on_cluster(scan, None, config, execution=ExecutionConfig(devices=2), callbacks=[watch], resume=False)
        private.append(max(watch.private))
        sizes.append(scan.patterns.nbytes)
    return {
        "scan_mb": sizes[1] / 2**20,
        "private_mb_a_worker": private[1] / 2**20,
        "ratio": private[1] / sizes[1],
        "private_mb_with_a_small_scan": private[0] / 2**20,
        "ratio_without_the_program": (private[1] - private[0]) / sizes[1],
    }


def main() -> None:
    wanted = sys.argv[1:] or ["overhead", "scaling", "memory"]
    with tempfile.TemporaryDirectory() as folder, connected(ExecutionConfig()):
        for name in wanted:
            started = time.monotonic()
            figures = {"overhead": overhead, "scaling": scaling, "memory": memory}[name](folder)
            rounded = {key: round(value, 4) for key, value in figures.items()}
            load = round(os.getloadavg()[0], 1)
            print(
                json.dumps(
                    {"benchmark": f"cluster {name}", **rounded, "load": load, "s": round(time.monotonic() - started)}
                )
            )


if __name__ == "__main__":
    main()
