"""Networks by the training sets of the contracts; the recipe of each fits 90 minutes on two cores."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.field.contracts import lines128_training
from benchmarks.quality import Log
from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.data import RawData
from ptycho_ray.workflow import save_inference_bundle, train_cdi_model


@dataclass(frozen=True)
class Recipe:
    """The training scans for a data folder and a seed, and the settings."""

    scans: Callable[[Path, int], list[RawData]]
    config: TrainingConfig
    execution: ExecutionConfig


RECIPES = {
    "lines128": Recipe(
        lines128_training,
        TrainingConfig(
            model=ModelConfig(
                N=128, architecture="unet", fno_width=8, probe_conditioning="retrieval", retrieval_steps=60
            ),
            n_groups=4489,
            nepochs=5,
            mae_weight=1.0,
            nll_weight=0.0,
            scheduler="WarmupCosine",
            lr_min_ratio=0.02,
            gradient_clip_val=1.0,
        ),
        ExecutionConfig(learning_rate=1e-3, precision="bf16-mixed"),
    ),
}


def train(contract: str, seed: int, data: Path, folder: Path, epochs: int | None = None) -> None:
    """Train by the recipe of a contract and write the bundle, with the processor seconds in its provenance."""
    recipe = RECIPES[contract]
    config = replace(recipe.config, seed=seed, nepochs=epochs or recipe.config.nepochs)
    scans = recipe.scans(data, seed)
    began = time.process_time()
    found = train_cdi_model(scans, None, config, execution=recipe.execution, callbacks=[Log()])
    seconds = round(time.process_time() - began)
    save_inference_bundle(folder, found, config, {"contract": contract, "seed": seed, "cpu_seconds": seconds})
    print(f"{folder}: {seconds} processor seconds")
