"""The configuration classes: every default and allowed value of PtychoPINN, immutability, messages."""

from __future__ import annotations

import dataclasses
import json
import pickle
import warnings
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptycho_ray.config import (
    Architecture,
    ExecutionConfig,
    InferenceConfig,
    ModelConfig,
    PyTorchExecutionConfig,
    TrainingConfig,
)
from ptycho_ray.config.legacy import OUR_FIELDS
from ptycho_ray.errors import ConfigurationError

MODEL = ModelConfig()
REQUIRED: dict[type, dict[str, Any]] = {
    ModelConfig: {},
    TrainingConfig: {"model": MODEL},
    InferenceConfig: {"model": MODEL, "model_path": Path("wts.h5.zip"), "test_data_file": Path("scan.npz")},
    ExecutionConfig: {},
}

# The tables of the reference: field -> default.
DEFAULTS: dict[type, dict[str, Any]] = {
    ModelConfig: {
        "N": 64,
        "gridsize": 1,
        "n_filters_scale": 2,
        "model_type": "pinn",
        "architecture": "cnn",
        "fno_modes": 12,
        "fno_width": 32,
        "fno_blocks": 4,
        "fno_cnn_blocks": 2,
        "learned_input_channels": 1,
        "max_hidden_channels": None,
        "resnet_width": None,
        "fno_input_transform": "none",
        "generator_output_mode": "real_imag",
        "amp_activation": "sigmoid",
        "object_big": True,
        "probe_big": True,
        "probe_mask": False,
        "probe_mask_sigma": 1.0,
        "probe_mask_diameter": None,
        "pad_object": True,
        "probe_scale": 4.0,
        "gaussian_smoothing_sigma": 0.0,
    },
    TrainingConfig: {
        "model": MODEL,
        "train_data_file": None,
        "test_data_file": None,
        "batch_size": 16,
        "nepochs": 50,
        "mae_weight": 0.0,
        "nll_weight": 1.0,
        "realspace_mae_weight": 0.0,
        "realspace_weight": 0.0,
        "nphotons": 1e9,
        "n_groups": 512,
        "n_images": None,
        "n_subsample": None,
        "subsample_seed": None,
        "neighbor_count": 4,
        "enable_oversampling": False,
        "neighbor_pool_size": None,
        "positions_provided": True,
        "probe_trainable": False,
        "intensity_scale_trainable": True,
        "output_dir": Path("training_outputs"),
        "sequential_sampling": False,
        "backend": "tensorflow",
        "torch_loss_mode": "poisson",
        "torch_mae_pred_l2_match_target": False,
        "gradient_clip_val": None,
        "gradient_clip_algorithm": "norm",
        "optimizer": "adam",
        "momentum": 0.9,
        "weight_decay": 0.0,
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "scheduler": "Default",
        "lr_warmup_epochs": 0,
        "lr_min_ratio": 0.1,
        "plateau_factor": 0.5,
        "plateau_patience": 2,
        "plateau_min_lr": 5e-5,
        "plateau_threshold": 0.0,
    },
    InferenceConfig: {
        "model": MODEL,
        "model_path": Path("wts.h5.zip"),
        "test_data_file": Path("scan.npz"),
        "n_groups": None,
        "n_images": None,
        "n_subsample": None,
        "subsample_seed": None,
        "neighbor_count": 4,
        "enable_oversampling": False,
        "neighbor_pool_size": None,
        "debug": False,
        "output_dir": Path("inference_outputs"),
        "backend": "tensorflow",
    },
    ExecutionConfig: {
        "accelerator": "auto",
        "devices": 1,
        "strategy": "auto",
        "deterministic": True,
        "precision": "32-true",
        "gradient_clip_val": None,
        "gradient_clip_algorithm": "norm",
        "accum_steps": 1,
        "num_workers": 0,
        "pin_memory": False,
        "persistent_workers": False,
        "prefetch_factor": None,
        "learning_rate": 1e-3,
        "scheduler": "Default",
        "enable_progress_bar": False,
        "enable_checkpointing": True,
        "checkpoint_save_top_k": 1,
        "checkpoint_monitor_metric": "val_loss",
        "checkpoint_mode": "min",
        "early_stop_patience": 100,
        "logger_backend": "csv",
        "recon_log_every_n_epochs": None,
        "recon_log_num_patches": 4,
        "recon_log_fixed_indices": None,
        "recon_log_stitch": False,
        "recon_log_max_stitch_samples": None,
        "inference_batch_size": None,
        "middle_trim": 0,
        "pad_eval": False,
    },
}

OURS: dict[type, dict[str, Any]] = {
    ModelConfig: {
        "object_layout": None,
        "training_canvas": None,
        "training_patch_weighting": None,
        "merge": "weighted",
        "probe_conditioning": "none",
        "retrieval_steps": 30,
        "unrolled_iterations": 12,
        "cnn_output_mode": "amp_phase",
        "hybrid_downsample": "stride_conv",
        "hybrid_downsample_steps": 2,
        "hybrid_skip": "none",
        "hybrid_fusion": "baseline",
        "hybrid_branches": "both",
        "hybrid_layerscale": 0.1,
        "resnet_blocks": 6,
        "resnet_scale": 0.1,
        "resnet_scale_trainable": True,
        "ffno_encoder_blocks": 24,
        "ffno_encoder_modes": 12,
        "ffno_encoder_share_weights": True,
        "ffno_encoder_gate_init": 0.1,
        "ffno_encoder_norm": "instance",
        "ffno_encoder_mlp_ratio": 2.0,
        "spectral_bottleneck_blocks": 6,
        "spectral_bottleneck_modes": 12,
        "spectral_bottleneck_share_weights": True,
        "spectral_bottleneck_gate_init": 0.1,
        "spectral_bottleneck_gate_mode": "shared",
    },
    TrainingConfig: {
        "initial_model": None,
        "seed": 0,
        "validation_fraction": 0.05,
        "gaussian_amplitude_weight": 0.0,
        "gaussian_intensity_weight": 0.0,
        "likelihood": "",
        "likelihood_weight": 1.0,
        "readout_noise_photons": 0.0,
        "tv_kind": "squared",
        "consistency_weight": 0.0,
        "label_amplitude_weight": 1.0,
        "label_phase_weight": 1.0,
        "loss_schedule": (),
        "intensity_scale_learning_rate": None,
        "intensity_scale_start_epoch": 0,
        "positions_trainable": False,
        "position_learning_rate": 1e-2,
        "position_start_epoch": 0,
        "position_limit_px": 2.0,
        "tv_weight": 0.0,
        "include_seed_point": True,
        "group_random_stream": "generator",
        "probe_learning_rate": 1e-2,
        "probe_start_epoch": 0,
        "further_train_data_files": (),
        "scan_sampling": "proportional",
        "probe_defocus_m": 0.0,
        "probe_defocus_px2": 0.0,
        "probe_modes": None,
        "position_scale": 1.0,
        "position_rotation_rad": 0.0,
        "position_shear": 0.0,
        "position_axes": "as stored",
        "object_pixel_size_m": None,
        "refinement_iterations": 0,
        "ensemble_members": 1,
    },
    InferenceConfig: {"refinement_iterations": 0},
    ExecutionConfig: {
        "min_devices": None,
        "split": "auto",
        "cpus_per_device": 1,
        "gpu_share": 1.0,
        "max_failures": 3,
        "address": None,
        "storage_path": None,
        "wait_for_nodes_s": 0.0,
    },
}

SCHEDULES = ["Default", "Exponential", "WarmupCosine", "ReduceLROnPlateau"]
# Every value of every field that offers a choice.
CHOICES: list[tuple[type, str, list[Any]]] = [
    (ModelConfig, "model_type", ["pinn", "supervised"]),
    (ModelConfig, "architecture", [*get_args(Architecture)]),
    (ModelConfig, "fno_input_transform", ["none", "sqrt", "log1p", "instancenorm"]),
    (ModelConfig, "generator_output_mode", ["real_imag", "amp_phase_logits", "amp_phase"]),
    (ModelConfig, "amp_activation", ["sigmoid", "swish", "softplus", "relu"]),
    (ModelConfig, "merge", ["weighted", "central_mask"]),
    (ModelConfig, "probe_conditioning", ["none", "channels", "retrieval"]),
    (ModelConfig, "cnn_output_mode", ["amp_phase", "real_imag"]),
    (ModelConfig, "hybrid_downsample", ["stride_conv", "avgpool", "blurpool"]),
    (ModelConfig, "hybrid_skip", ["none", "add", "concat", "gated_add"]),
    (ModelConfig, "hybrid_fusion", ["baseline", "layerscale", "branch_gated", "branch_gated_layerscale"]),
    (ModelConfig, "hybrid_branches", ["both", "conv_only", "spectral_only"]),
    (ModelConfig, "ffno_encoder_norm", ["instance", "none"]),
    (TrainingConfig, "backend", ["tensorflow", "pytorch"]),
    (InferenceConfig, "backend", ["tensorflow", "pytorch"]),
    (TrainingConfig, "torch_loss_mode", ["poisson", "mae"]),
    (TrainingConfig, "gradient_clip_algorithm", ["norm", "value", "agc"]),
    (TrainingConfig, "optimizer", ["adam", "adamw", "sgd"]),
    (TrainingConfig, "scheduler", SCHEDULES),
    (TrainingConfig, "group_random_stream", ["generator", "numpy_legacy"]),
    (TrainingConfig, "tv_kind", ["squared", "isotropic"]),
    (ExecutionConfig, "split", ["auto", "data", "tiles"]),
    (ExecutionConfig, "accelerator", ["auto", "cpu", "gpu", "cuda", "mps"]),
    (ExecutionConfig, "precision", ["32-true", "16-mixed", "bf16-mixed"]),
    (ExecutionConfig, "gradient_clip_algorithm", ["norm", "value", "agc"]),
    (ExecutionConfig, "scheduler", SCHEDULES),
    (ExecutionConfig, "checkpoint_mode", ["min", "max"]),
    (ExecutionConfig, "logger_backend", ["csv", "tensorboard", "mlflow", "none"]),
    (ModelConfig, "spectral_bottleneck_gate_mode", ["shared", "per_block"]),
]

# A value outside the range of the field, and a part of what the message calls allowed.
BAD: list[tuple[type, str, Any, str]] = [
    (ModelConfig, "N", 100, "a multiple of 8, at least 32"),
    (ModelConfig, "N", 24, "a multiple of 8, at least 32"),
    (ModelConfig, "gridsize", 0, "an integer of at least 1"),
    (ModelConfig, "gridsize", True, "an integer of at least 1"),
    (ModelConfig, "gridsize", 1.5, "an integer of at least 1"),
    (ModelConfig, "gridsize", "two", "an integer of at least 1"),
    (ModelConfig, "gridsize", None, "an integer of at least 1"),
    (ModelConfig, "hybrid_downsample_steps", 3, "1 or 2"),
    (ModelConfig, "n_filters_scale", 0, "an integer of at least 1"),
    (ModelConfig, "probe_scale", 0.0, "a number above 0"),
    (ModelConfig, "gaussian_smoothing_sigma", -0.1, "a number of at least 0"),
    (ModelConfig, "probe_mask_diameter", -3.0, "a number above 0"),
    (ModelConfig, "object_big", "perhaps", "true or false"),
    (TrainingConfig, "batch_size", 3, "a power of two"),
    (TrainingConfig, "batch_size", 0, "a power of two"),
    (TrainingConfig, "nepochs", 0, "an integer of at least 1"),
    (TrainingConfig, "mae_weight", 1.5, "a number from 0 to 1"),
    (TrainingConfig, "nll_weight", -0.1, "a number from 0 to 1"),
    (TrainingConfig, "nphotons", 0, "a number above 0"),
    (TrainingConfig, "nphotons", float("nan"), "a number above 0"),
    (TrainingConfig, "nphotons", float("inf"), "a number above 0"),
    (TrainingConfig, "n_groups", -5, "an integer of at least 1"),
    (TrainingConfig, "validation_fraction", 0.6, "a number from 0 to 0.5"),
    (TrainingConfig, "output_dir", 3, "a path"),
    (ExecutionConfig, "devices", 0, "an integer of at least 1, or 'auto'"),
    (ExecutionConfig, "devices", True, "an integer of at least 1, or 'auto'"),
    (ExecutionConfig, "devices", "all", "an integer of at least 1, or 'auto'"),
    (ExecutionConfig, "accelerator", "tpu", "TPU is not supported"),
    (ExecutionConfig, "deterministic", "maybe", "true or false or 'warn'"),
    (ExecutionConfig, "num_workers", -1, "an integer of at least 0"),
    (ExecutionConfig, "learning_rate", 0.0, "a number above 0"),
    (ExecutionConfig, "inference_batch_size", 0, "an integer of at least 1"),
    (ExecutionConfig, "accum_steps", 0, "an integer of at least 1"),
    (ExecutionConfig, "checkpoint_save_top_k", -1, "an integer of at least 0"),
    (ExecutionConfig, "early_stop_patience", 0, "an integer of at least 1"),
    (ModelConfig, "ffno_encoder_blocks", 0, "an integer of at least 1"),
    (ModelConfig, "spectral_bottleneck_modes", 0, "an integer of at least 1"),
    (ModelConfig, "ffno_encoder_gate_init", 0.0, "a number above 0"),
    (ModelConfig, "spectral_bottleneck_gate_init", float("inf"), "a finite number"),
]


def make(cls: type, **values: Any) -> Any:
    return cls(**{**REQUIRED[cls], **values})


@pytest.mark.parametrize("cls", DEFAULTS)
def test_fields_and_defaults(cls: type) -> None:
    config = make(cls)
    expected = {**DEFAULTS[cls], **OURS[cls]}
    assert {field.name: getattr(config, field.name) for field in dataclasses.fields(cls)} == expected


def test_the_list_of_our_fields_is_complete() -> None:
    """The execution settings are in no legacy dictionary."""
    assert {name for cls, fields in OURS.items() if cls is not ExecutionConfig for name in fields} == OUR_FIELDS


@pytest.mark.parametrize(("cls", "field", "values"), CHOICES)
def test_allowed_values(cls: type, field: str, values: list[Any]) -> None:
    for value in values:
        assert getattr(make(cls, **{field: value}), field) == value
    with pytest.raises(ConfigurationError) as caught:
        make(cls, **{field: "something else"})
    for word in [field, "something else", *values]:
        assert word in str(caught.value)


@pytest.mark.parametrize(("cls", "field", "value", "allowed"), BAD)
def test_message_names_field_value_and_range(cls: type, field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(cls, **{field: value})
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert repr(value) in str(caught.value)
    assert allowed in str(caught.value)


def test_every_bad_field_is_reported() -> None:
    with pytest.raises(ConfigurationError, match=r"N: found 100.*Also gridsize: found 0, expected an integer"):
        ModelConfig(N=100, gridsize=0)


def test_a_typo_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(ConfigurationError, match="gridsiz: unknown setting. Did you mean 'gridsize'?"):
        make(ModelConfig, gridsiz=2)


def test_missing_required_field() -> None:
    with pytest.raises(ConfigurationError, match="test_data_file: found nothing"):
        InferenceConfig(model=MODEL, model_path=Path("model"))  # type: ignore[call-arg]


@given(st.integers(-64, 4096))
def test_pattern_side(side: int) -> None:
    if side >= 32 and side % 8 == 0:
        assert side == ModelConfig(N=side).N
    else:
        with pytest.raises(ConfigurationError):
            ModelConfig(N=side)


@pytest.mark.parametrize("cls", DEFAULTS)
def test_immutable_and_replaceable(cls: type) -> None:
    config = make(cls)
    field = "N" if cls is ModelConfig else "gradient_clip_val" if cls is ExecutionConfig else "n_groups"
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, field, 64)
    assert getattr(dataclasses.replace(config, **{field: 128}), field) == 128
    with pytest.raises(ConfigurationError, match=field):
        dataclasses.replace(config, **{field: -1})


@pytest.mark.parametrize("cls", DEFAULTS)
def test_survives_asdict_pickle_and_hash(cls: type) -> None:
    config = make(cls)
    assert cls(**dataclasses.asdict(config)) == config
    assert cls(**json.loads(json.dumps(dataclasses.asdict(config), default=str))) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert hash(make(cls)) == hash(config)


def test_values_are_converted_to_their_type() -> None:
    config = TrainingConfig(model=MODEL, nphotons="1e7", batch_size=np.int64(8), output_dir="out")  # type: ignore[arg-type]
    assert (config.nphotons, config.batch_size, config.output_dir) == (1e7, 8, Path("out"))
    assert type(config.batch_size) is int


def test_n_images_is_a_deprecated_alias() -> None:
    with pytest.warns(DeprecationWarning, match="n_groups"):
        training = TrainingConfig(model=MODEL, n_images=200)
    assert (training.n_groups, training.n_images) == (200, 200)
    with pytest.warns(DeprecationWarning, match="n_groups"):
        assert make(InferenceConfig, n_images=7).n_groups == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TrainingConfig(model=MODEL, n_images=200, n_groups=100).n_groups == 100


def test_default_neighbours_suit_gridsize_two() -> None:
    assert TrainingConfig(model=ModelConfig(gridsize=2)).neighbor_count == 4


def test_too_few_neighbours_for_the_gridsize() -> None:
    model = ModelConfig(gridsize=3)
    assert TrainingConfig(model=model, neighbor_count=8).neighbor_count == 8
    with pytest.raises(ConfigurationError, match="neighbor_count: found 4; expected at least 8 for gridsize 3"):
        TrainingConfig(model=model)
    with pytest.raises(ConfigurationError, match="neighbor_count: found 8; expected at least 9 for gridsize 3"):
        TrainingConfig(model=model, neighbor_count=8, include_seed_point=False)
    with pytest.raises(ConfigurationError, match="neighbor_pool_size: found 2; expected at least 3 for gridsize 2"):
        TrainingConfig(model=ModelConfig(gridsize=2), neighbor_pool_size=2)
    with pytest.raises(ConfigurationError, match="neighbor_count"):
        make(InferenceConfig, model=model)


def test_some_loss_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="nll_weight: no loss is left"):
        TrainingConfig(model=MODEL, nll_weight=0.0)
    assert TrainingConfig(model=MODEL, nll_weight=0.0, mae_weight=1.0).mae_weight == 1.0


def test_execution_config_has_its_old_name() -> None:
    assert PyTorchExecutionConfig is ExecutionConfig


@pytest.mark.parametrize("name", ["tv_weight", "realspace_mae_weight"])
def test_a_real_space_loss_needs_its_overall_weight(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"realspace_weight.*{name}.*0.1"):
        TrainingConfig(model=ModelConfig(), **{name: 0.1})
    TrainingConfig(model=ModelConfig(), realspace_weight=1.0, **{name: 0.1})
