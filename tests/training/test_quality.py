"""Does training reach an image? Minutes, so only under ``make test-all``; the full table is ``benchmarks/quality.py``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ptycho_ray.config import TrainingConfig
from ptycho_ray.config.sources import resolve_config
from ptycho_ray.data import load_data
from ptycho_ray.evaluation import crop_truth, eval_reconstruction
from ptycho_ray.workflow import run_cdi_example

CONFIGS = Path(__file__).resolve().parents[2] / "configs/train"


@pytest.mark.slow
def test_eight_epochs_show_an_unseen_object(shared_data):
    """A flat object has errors of 0.064 in amplitude and 0.074 rad in phase here."""
    training, test = (load_data(shared_data(f"lines64_{name}.npz")) for name in ("train", "test"))
    resolved = resolve_config(TrainingConfig, CONFIGS / "lines64-half.yaml", environment={})
    config = replace(resolved.config, nepochs=8)
    results = run_cdi_example(
        training, test, config, do_stitching=True, execution=resolved.execution, keep_patches=False
    )[2]
    stitched = results["stitched"]
    low = np.ceil(test.positions_px.min(axis=0)).astype(int)
    high = np.floor(test.positions_px.max(axis=0)).astype(int)
    top, left = low - np.array(stitched.origin_px).astype(int)
    height, width = (int(side) for side in high - low)
    image = stitched.image[top : top + height, left : left + width]
    truth = crop_truth(test.object_truth, (float(low[0]), float(low[1])), (height, width))
    amplitude_error, phase_error = eval_reconstruction(image[..., None], truth[..., None])["mae"]
    assert amplitude_error < 0.045
    assert phase_error < 0.05
