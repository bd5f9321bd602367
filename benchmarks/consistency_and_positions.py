"""What consistency between overlapping groups does to an image, and whether training finds wrong positions. Minutes.

    python benchmarks/consistency_and_positions.py

A simulated scan of patterns of side 32 with 1e7 photons, half the filters, one seed: a hint, no study.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch

from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data import RawData
from ptycho_ray.evaluation import evaluate_reconstruction
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan
from ptycho_ray.workflow import run_cdi_example, train_cdi_model

EXECUTION = ExecutionConfig(learning_rate=2e-3)
COMMON: dict[str, Any] = {"batch_size": 8, "scheduler": "WarmupCosine"}


def scan_of(n_patterns: int, rng: np.random.Generator) -> RawData:
    image, probe = make_object("test_image", (96, 96), rng), make_probe("default", 32, rng, photons=1e7)
    return simulate_scan(image, probe, rng.uniform(17, 79, (n_patterns, 2)), rng=rng)


def image_with(weight: float) -> dict[str, float | str]:
    """Single patterns, held together by ``consistency_weight``."""
    scan = scan_of(300, np.random.default_rng(1))
    model = ModelConfig(N=32, n_filters_scale=1)
    config = TrainingConfig(
        model=model, nepochs=12, validation_fraction=0.1, realspace_weight=1.0, consistency_weight=weight, **COMMON
    )
    _, _, results = run_cdi_example(scan, scan, config, do_stitching=True, execution=EXECUTION, keep_patches=False)
    image = results["stitched"]
    assert scan.object_truth is not None
    found = evaluate_reconstruction(
        image.image, scan.object_truth, origin_px=image.origin_px, region=image.covered(), register=False
    )
    return {
        "benchmark": "consistency",
        "consistency_weight": weight,
        "amplitude_mae": round(found.amplitude.mae, 4),
        "amplitude_ssim": round(found.amplitude.ssim, 3),
        "phase_mae": round(found.phase.mae, 4),
        "phase_ssim": round(found.phase.ssim, 3),
        "val_r_factor": round(results["history"]["val_r_factor"][-1], 4),
    }


def positions_with(rate: float) -> dict[str, float | str]:
    """Groups of four whose positions are wrong by 1 px (standard deviation along each axis)."""
    rng = np.random.default_rng(1)
    scan = scan_of(250, rng)
    error = rng.normal(0, 1.0, (250, 2))
    y, x = (scan.positions_px + error).T
    wrong = RawData(x, y, None, None, scan.patterns, scan.probe)
    config = TrainingConfig(
        model=ModelConfig(N=32, n_filters_scale=1, gridsize=2), neighbor_count=6, nepochs=16, validation_fraction=0.0,
        positions_trainable=True, position_start_epoch=4, position_learning_rate=rate, position_limit_px=3.0, **COMMON,
    )  # fmt: skip
    results = train_cdi_model(wrong, None, config, execution=EXECUTION, keep_patches=False)
    left = error + results["model_instance"].positions.centred_px()
    return {
        "benchmark": "positions",
        "position_learning_rate": rate,
        "rms_error_before_px": round(float((error - error.mean(axis=0)).std()), 3),
        "rms_error_after_px": round(float((left - left.mean(axis=0)).std()), 3),
    }


def main() -> None:
    torch.set_num_threads(1)
    for weight in (0.0, 0.1, 1.0):
        print(json.dumps(image_with(weight)), flush=True)
    print(json.dumps(positions_with(0.02)), flush=True)


if __name__ == "__main__":
    main()
