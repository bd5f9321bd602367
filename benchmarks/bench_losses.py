"""What the terms of the loss and the detector of collapse cost: CPU-seconds of a training step and of an epoch's look.

    python benchmarks/bench_losses.py

Network cnn, N=64, gridsize 1, batch 16, one thread; the best of six.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ptycho_ray.config import ModelConfig, TrainingConfig
from ptycho_ray.data import RawData
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan
from ptycho_ray.training.forward import predict_piece
from ptycho_ray.training.health import health_figures
from ptycho_ray.training.loss import TrainingLoss
from ptycho_ray.training.scan_training import GroupList
from ptycho_ray.workflow import scans_to_train

BATCH = 16
TERMS: dict[str, dict[str, Any]] = {
    "nll": {},
    "every likelihood": {"mae_weight": 1.0, "gaussian_amplitude_weight": 1.0, "gaussian_intensity_weight": 1.0},
    "nll, tv": {"realspace_weight": 1.0, "tv_weight": 1.0},
    "nll, object_mae": {"realspace_weight": 1.0, "realspace_mae_weight": 1.0},
    "nll, consistency": {"realspace_weight": 1.0, "consistency_weight": 1.0},
}


def cpu_seconds(function: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(6):
        started = time.process_time()
        function()
        best = min(best, time.process_time() - started)
    return best


def measure(scan: RawData, config: TrainingConfig, term: str) -> dict[str, float | str]:
    prepared = scans_to_train(scan, replace(config, **TERMS[term]))[0]
    loss = TrainingLoss(replace(config, **TERMS[term]), prepared.training.normalisation)
    groups = GroupList([prepared.training], labels=loss.needs_labels, partners=loss.needs_partners)
    groups.choose_partners(np.random.default_rng(0))

    def step() -> None:
        piece = groups.read(np.arange(BATCH))[0]
        prediction, evidence = predict_piece(prepared.model, piece, 0.0)
        loss(prediction, piece.photons, evidence)["loss"].backward()

    assert prepared.validation is not None
    held_out = prepared.validation
    look = cpu_seconds(lambda: health_figures(prepared.model, held_out))
    return {
        "benchmark": "losses",
        "terms": term,
        "cpu_seconds_a_step": round(cpu_seconds(step), 4),
        "cpu_seconds_of_the_detector": round(look, 4),
    }


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    image, probe = make_object("lines", (192, 192), rng), make_probe("disc", 64, rng, photons=1e6)
    scan = simulate_scan(image, probe, rng.uniform(33, 159, (512, 2)), rng=rng)
    config = TrainingConfig(model=ModelConfig(N=64))
    for term in TERMS:
        print(json.dumps(measure(scan, config, term)), flush=True)


if __name__ == "__main__":
    main()
