"""The names of PtychoPINN's PyTorch workflow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.interop.ptycho_torch import (
    load_inference_bundle_torch,
    reassemble_cdi_image_torch,
    run_cdi_example_torch,
    save_torch_bundle,
    train_cdi_model_torch,
    with_overrides,
)
from ptycho_ray.workflow import run_cdi_example


def test_an_example_with_overrides_is_that_example_with_these_settings(small_scan, other_scan, tiny_config, tmp_path):
    config = replace(tiny_config, output_dir=tmp_path)
    amplitude, _, results = run_cdi_example_torch(
        small_scan, other_scan, config, do_stitching=True, overrides={"max_epochs": 1, "learning_rate": 1e-4}
    )
    expected = run_cdi_example(
        small_scan,
        other_scan,
        replace(config, nepochs=1),
        do_stitching=True,
        execution=ExecutionConfig(learning_rate=1e-4),
    )
    assert len(results["history"]["train_loss"]) == 1
    assert np.array_equal(amplitude, expected[0])
    assert results["models"]["diffraction_to_obj"] is results["model_instance"]
    assert results["intensity_scale"] == pytest.approx(np.sqrt(1e9) / 16)
    models, params = load_inference_bundle_torch(tmp_path)
    assert params["nepochs"] == 1
    again = save_torch_bundle(models, tmp_path / "again" / "wts.h5", config)
    assert again == tmp_path / "again" / "wts.h5.zip"
    with pytest.raises(KeyError, match="no model 'other'"):
        load_inference_bundle_torch(tmp_path, "other")
    redone, _, _ = reassemble_cdi_image_torch(other_scan, results["config"], train_results=results)
    np.testing.assert_allclose(redone, amplitude, rtol=1e-5)


def test_training_alone(small_scan, tiny_config):
    results = train_cdi_model_torch(small_scan, None, tiny_config, overrides={"nepochs": 1})
    assert results["test_container"] is None
    assert set(results["models"]) == {"diffraction_to_obj", "autoencoder"}


def test_overrides_reach_training_network_and_execution(tiny_config):
    config, execution = with_overrides(
        tiny_config,
        ExecutionConfig(),
        {"epochs": 7, "K": 9, "object_big": False, "accum_steps": 2, "scheduler": "Exponential"},
    )
    assert (config.nepochs, config.neighbor_count, config.model.object_big) == (7, 9, False)
    assert (execution.accum_steps, config.scheduler) == (2, "Exponential")
    with pytest.raises(ConfigurationError, match="learning_rat.*Did you mean 'learning_rate'"):
        with_overrides(tiny_config, None, {"learning_rat": 1.0})
    with pytest.raises(ConfigurationError, match="nepochs.*found 0"):
        with_overrides(tiny_config, None, {"max_epochs": 0})
