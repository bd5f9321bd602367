"""The flat dictionary of PtychoPINN, as a view of the typed configuration.

It exists for code that still reads ``params.cfg``; nothing in ptycho_ray does. The dictionary is derived from the
configuration objects, never the reverse. Keys and values are those of the reference (PtychoPINN chain, callchain 2.6
and 2.7); the settings that ptycho_ray added do not appear.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ptycho_ray.config.model import ModelConfig
from ptycho_ray.config.porting import KEY_MAPPINGS
from ptycho_ray.config.training import InferenceConfig, TrainingConfig

OUR_FIELDS = frozenset(
    {
        "object_layout",
        "training_canvas",
        "training_patch_weighting",
        "merge",
        "probe_conditioning",
        "retrieval_steps",
        "unrolled_iterations",
        "cnn_output_mode",
        "hybrid_downsample",
        "hybrid_downsample_steps",
        "hybrid_skip",
        "hybrid_fusion",
        "hybrid_branches",
        "hybrid_layerscale",
        "resnet_blocks",
        "resnet_scale",
        "resnet_scale_trainable",
        "ffno_encoder_blocks",
        "ffno_encoder_modes",
        "ffno_encoder_share_weights",
        "ffno_encoder_gate_init",
        "ffno_encoder_norm",
        "ffno_encoder_mlp_ratio",
        "spectral_bottleneck_blocks",
        "spectral_bottleneck_modes",
        "spectral_bottleneck_share_weights",
        "spectral_bottleneck_gate_init",
        "spectral_bottleneck_gate_mode",
        "initial_model",
        "seed",
        "validation_fraction",
        "gaussian_amplitude_weight",
        "gaussian_intensity_weight",
        "likelihood",
        "likelihood_weight",
        "readout_noise_photons",
        "tv_kind",
        "consistency_weight",
        "label_amplitude_weight",
        "label_phase_weight",
        "loss_schedule",
        "intensity_scale_learning_rate",
        "intensity_scale_start_epoch",
        "positions_trainable",
        "position_learning_rate",
        "position_start_epoch",
        "position_limit_px",
        "tv_weight",
        "include_seed_point",
        "group_random_stream",
        "probe_learning_rate",
        "probe_start_epoch",
        "further_train_data_files",
        "scan_sampling",
        "probe_defocus_m",
        "probe_defocus_px2",
        "probe_modes",
        "position_scale",
        "position_rotation_rad",
        "position_shear",
        "position_axes",
        "object_pixel_size_m",
        "refinement_iterations",
        "ensemble_members",
    }
)

_DEFAULTS: dict[str, Any] = {
    "N": 128,
    "amp_activation": "sigmoid",
    "batch_size": 16,
    "big_gridsize": 10,
    "data_source": "generic",
    "debug": True,
    "default_probe_scale": 0.7,
    "gaussian_smoothing_sigma": 0.0,
    "gridsize": 2,
    "h5_path": "wts.h5",
    "intensity_scale.trainable": False,
    "label": "",
    "mae_weight": 0.0,
    "max_position_jitter": 10,
    "model_type": "pinn",
    "n_filters_scale": 2,
    "nepochs": 60,
    "nimgs_test": 3,
    "nimgs_train": 9,
    "nll_weight": 1.0,
    "nphotons": 1e9,
    "npseed": 42,
    "object.big": True,
    "offset": 4,
    "outer_offset_test": None,
    "outer_offset_train": None,
    "output_prefix": "outputs",
    "pad_object": True,
    "positions.provided": False,
    "probe.big": False,
    "probe.mask": True,
    "probe.trainable": False,
    "probe_scale": 10.0,
    "realspace_mae_weight": 0.0,
    "realspace_weight": 0.0,
    "set_phi": False,
    "sim_jitter_scale": 0.0,
    "size": 392,
    "tv_weight": 0.0,
    "use_xla_translate": True,
}


def default_legacy_dict() -> dict[str, Any]:
    """A new copy of the values that ``params.cfg`` holds before any configuration is written to it."""
    return dict(_DEFAULTS)


def dataclass_to_legacy_dict(config: ModelConfig | TrainingConfig | InferenceConfig) -> dict[str, Any]:
    """``config`` as a flat dictionary with the reference's key names; a nested model is flattened, a path becomes text."""
    values = dataclasses.asdict(config)
    values |= values.pop("model", {})
    return {
        KEY_MAPPINGS.get(name, name): str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if name not in OUR_FIELDS
    }


def update_legacy_dict(cfg: dict[str, Any], config: ModelConfig | TrainingConfig | InferenceConfig) -> None:
    """Write ``config`` into ``cfg`` in place. As in the reference, a value of None leaves what ``cfg`` held before."""
    cfg.update({key: value for key, value in dataclass_to_legacy_dict(config).items() if value is not None})


def validate_config(config: ModelConfig | TrainingConfig | InferenceConfig) -> None:
    """Check a configuration again, for scripts that do; it was checked when it was made, and cannot have changed.

    Raises:
        ConfigurationError: a value is out of its range.
    """
    dataclasses.replace(config)


#: The names that PtychoPINN has for it.
validate_model_config = validate_training_config = validate_inference_config = validate_config
