"""Every setting, typed and checked on construction.

The names, defaults and allowed values are those of the PtychoPINN configuration classes (so that a script ports by
changing an import); the settings that ptycho_ray adds stand last in their class and stay out of the legacy dictionary.
The objects are immutable: ``dataclasses.replace(config, nepochs=10)`` makes a changed copy.
Where values come from (YAML file, environment, command line) is the business of ``ptycho_ray.settings``.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from ptycho_ray.errors import ConfigurationError
from ptycho_ray.fields import (
    DeviceCount,
    FiniteFloat,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PatternSide,
    PositiveFloat,
    PositiveInt,
    PowerOfTwo,
    ValidationShare,
    settings,
    split_list,
    without_tpu,
)

Architecture = Literal[
    "cnn",
    "ffno",
    "fno",
    "fno_vanilla",
    "neuralop_uno",
    "hybrid",
    "stable_hybrid",
    "hybrid_resnet",
    "hybrid_resnet_ffno_ptychoblock_encoder",
    "hybrid_resnet_ptychoblock_ffno_encoder",
    "hybrid_resnet_ffno_bottleneck",
    "hybrid_resnet_convnext_bottleneck",
    "spectral_resnet_bottleneck_net",
    "spectral_resnet_bottleneck_linear_decoder",
]
Schedule = Literal["Default", "Exponential", "WarmupCosine", "ReduceLROnPlateau"]
Backend = Literal["tensorflow", "pytorch"]
ClipAlgorithm = Literal["norm", "value", "agc"]

DEFAULT_TRAINING_GROUPS = 512


@settings
class ModelConfig:
    """The network and the physics around it."""

    N: PatternSide = 64
    """Side of a diffraction pattern in pixels: a multiple of 8, at least 32. It must be that of the file."""
    gridsize: PositiveInt = 1
    """Patterns are handed to the network in groups of gridsize x gridsize overlapping neighbours."""
    n_filters_scale: PositiveInt = 2
    """Width of the network: every layer's number of filters is multiplied by it."""
    model_type: Literal["pinn", "supervised"] = "pinn"
    """'pinn' learns from diffraction alone; 'supervised' learns from known objects."""
    architecture: Architecture = "cnn"
    """Which network turns diffraction into an object patch."""
    fno_modes: PositiveInt = 12
    """Fourier modes kept in each direction by the spectral layers (Fourier architectures)."""
    fno_width: PositiveInt = 32
    """Hidden channels (Fourier architectures)."""
    fno_blocks: PositiveInt = 4
    """Number of spectral blocks (Fourier architectures)."""
    fno_cnn_blocks: NonNegativeInt = 2
    """Number of convolutional blocks after the spectral ones (fno, ffno)."""
    learned_input_channels: PositiveInt = 1
    """Input channels for each pattern (Fourier architectures)."""
    max_hidden_channels: PositiveInt | None = None
    """Upper limit of the channels of the hybrid architectures; none if not given."""
    resnet_width: PositiveInt | None = None
    """Channels of the residual bottleneck of the hybrid_resnet family; from fno_width if not given."""
    fno_input_transform: Literal["none", "sqrt", "log1p", "instancenorm"] = "none"
    """What is applied to the input before the first layer (Fourier architectures)."""
    generator_output_mode: Literal["real_imag", "amp_phase_logits", "amp_phase"] = "real_imag"
    """How the Fourier architectures express the object; 'cnn' always yields amplitude and phase."""
    amp_activation: Literal["sigmoid", "swish", "softplus", "relu"] = "sigmoid"
    """Last function of the amplitude branch."""
    object_big: bool = True
    """Merge the overlapping patches of a group into one object before the diffraction is computed."""
    probe_big: bool = True
    """Let the network fill the whole N x N patch and not only its central half."""
    probe_mask: bool = False
    """Multiply the probe by a disc of diameter N/2."""
    probe_mask_sigma: NonNegativeFloat = 1.0
    """Softness of the edge of that disc in pixels."""
    probe_mask_diameter: PositiveFloat | None = None
    """Diameter of that disc in pixels; N/2 if not given."""
    pad_object: bool = True
    """Confine the network's object to the central half of the patch (the rest comes from probe_big)."""
    probe_scale: PositiveFloat = 4.0
    """Mean probe amplitude inside the network's units is 1 / probe_scale."""
    gaussian_smoothing_sigma: NonNegativeFloat = 0.0
    """Standard deviation in pixels of a Gaussian that smooths the exit wave; 0 for none."""
    # What PtychoPINN does not have:
    merge: Literal["weighted", "central_mask"] = "weighted"
    """How overlapping patches of a group are averaged: 'weighted' divides by the sum of the weights, 'central_mask'
    is the formula of PtychoPINN, kept for comparison."""


def _model_from_mapping(value: Any) -> Any:
    """Let ``TrainingConfig(**asdict(config))`` give the same configuration back."""
    return ModelConfig(**value) if isinstance(value, Mapping) else value


@settings
class TrainingConfig:
    """Training: data, losses, optimiser, schedule."""

    model: Annotated[ModelConfig, BeforeValidator(_model_from_mapping)]
    """The network."""
    train_data_file: Path | None = None
    """The scan to train on (NPZ, HDF5 or CXI)."""
    test_data_file: Path | None = None
    """A second scan, to be reconstructed after training."""
    batch_size: PowerOfTwo = 16
    """Groups in one batch: a power of two."""
    nepochs: PositiveInt = 50
    """How many times the training data are gone through."""
    mae_weight: Fraction = 0.0
    """Weight of the amplitude loss (mean absolute difference of diffraction amplitudes), 0 to 1."""
    nll_weight: Fraction = 1.0
    """Weight of the Poisson likelihood of the photon counts, 0 to 1."""
    realspace_mae_weight: NonNegativeFloat = 0.0
    """Weight of the difference to a known object, where there is one."""
    realspace_weight: NonNegativeFloat = 0.0
    """Weight of all real-space losses."""
    nphotons: PositiveFloat = 1e9
    """Mean photons of a pattern. A file of photon counts, or one that states the number, takes precedence."""
    n_groups: PositiveInt | None = None
    """How many groups of patterns are used. 512 if not given."""
    n_images: PositiveInt | None = None
    """Deprecated name of n_groups."""
    n_subsample: PositiveInt | None = None
    """Use only that many patterns, drawn at random; all if not given."""
    subsample_seed: NonNegativeInt | None = None
    """Seed of that draw."""
    neighbor_count: PositiveInt = 4
    """From how many nearest neighbours the members of a group are drawn."""
    enable_oversampling: bool = False
    """Allow more groups than there are patterns, by other choices of neighbours."""
    neighbor_pool_size: PositiveInt | None = None
    """From how many neighbours oversampling draws; neighbor_count if not given."""
    positions_provided: bool = True
    """Whether the file holds measured positions."""
    probe_trainable: bool = False
    """Let training improve the probe."""
    intensity_scale_trainable: bool = True
    """Let training improve the overall intensity scale."""
    output_dir: Path = Path("training_outputs")
    """Folder for everything that is written."""
    sequential_sampling: bool = False
    """Take the first patterns of the scan and not random ones."""
    backend: Backend = "tensorflow"
    """Whose calling conventions are followed. It computes nothing else: ptycho_ray always computes with PyTorch."""
    torch_loss_mode: Literal["poisson", "mae"] = "poisson"
    """Kept from PtychoPINN, where it chose the loss of one backend. Here mae_weight and nll_weight decide."""
    torch_mae_pred_l2_match_target: bool = False
    """In the amplitude loss, first scale the prediction to the energy of the measurement."""
    gradient_clip_val: PositiveFloat | None = None
    """Gradients are clipped at this value; not clipped if not given."""
    gradient_clip_algorithm: ClipAlgorithm = "norm"
    """Clip the total norm, each value, or adaptively by the norm of each parameter ('agc')."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """The optimiser; its learning rate is execution.learning_rate."""
    momentum: Fraction = 0.9
    """Momentum of sgd."""
    weight_decay: NonNegativeFloat = 0.0
    """Weight decay."""
    adam_beta1: Fraction = 0.9
    """First decay rate of adam and adamw."""
    adam_beta2: Fraction = 0.999
    """Second decay rate of adam and adamw."""
    scheduler: Schedule = "Default"
    """How the learning rate changes over the epochs; 'Default' keeps it constant."""
    lr_warmup_epochs: NonNegativeInt = 0
    """WarmupCosine: epochs of linear increase."""
    lr_min_ratio: Fraction = 0.1
    """WarmupCosine: last learning rate as a part of the first."""
    plateau_factor: Fraction = 0.5
    """ReduceLROnPlateau: factor by which the learning rate is lowered."""
    plateau_patience: NonNegativeInt = 2
    """ReduceLROnPlateau: epochs without improvement before it is lowered."""
    plateau_min_lr: NonNegativeFloat = 5e-5
    """ReduceLROnPlateau: lowest learning rate."""
    plateau_threshold: NonNegativeFloat = 0.0
    """ReduceLROnPlateau: what counts as an improvement."""
    # What PtychoPINN does not have:
    seed: NonNegativeInt = 0
    """Seed of grouping, weights and shuffling: the same seed gives the same image."""
    validation_fraction: ValidationShare = 0.05
    """Part of the scan that is kept out of training, 0 to 0.5; it overlaps no training group."""
    tv_weight: NonNegativeFloat = 0.0
    """Weight of the total variation of the object among the real-space losses (realspace_weight must be above 0)."""
    include_seed_point: bool = True
    """Every pattern is a member of its own group (in PtychoPINN it is not)."""
    group_random_stream: Literal["generator", "numpy_legacy"] = "generator"
    """'numpy_legacy' draws the groups exactly as PtychoPINN does with the same seed."""
    probe_learning_rate: PositiveFloat = 1e-2
    """Learning rate of a trainable probe, relative to its largest amplitude."""
    probe_start_epoch: NonNegativeInt = 0
    """Epoch at which a trainable probe starts to move."""
    further_train_data_files: Annotated[tuple[Path, ...], BeforeValidator(split_list)] = ()
    """More scans, or folders of scans, to train one network on; each scan keeps its own probe and scales."""
    scan_sampling: Literal["proportional", "even"] = "proportional"
    """Training on several scans: an epoch visits every group once, or every scan equally often."""
    probe_defocus_m: FiniteFloat = 0.0
    """The file's probe is carried this far in free space, metres; needs its energy and pixel size (docs/tune.md)."""
    probe_defocus_px2: FiniteFloat = 0.0
    """The same without units: wavelength * distance / pixel size**2."""
    probe_modes: PositiveInt | None = None
    """Incoherent modes of the probe: the first ones of the file's, or more made from its first; its own if not given."""
    position_scale: PositiveFloat = 1.0
    """Factor on the distances of the scan positions from their mean."""
    position_rotation_rad: FiniteFloat = 0.0
    """Rotation of the scan positions about their mean, rows towards columns."""
    position_shear: FiniteFloat = 0.0
    """Share of a position's column that is added to its row, about the mean."""
    object_pixel_size_m: PositiveFloat | None = None
    """Size of an object pixel in place of the file's; scan positions are measured again with it."""

    def __post_init__(self) -> None:
        _replace_deprecated_n_images(self)
        if self.n_groups is None:
            object.__setattr__(self, "n_groups", DEFAULT_TRAINING_GROUPS)
        for name in ("tv_weight", "realspace_mae_weight"):
            if getattr(self, name) and not self.realspace_weight:
                raise ConfigurationError(
                    f"it multiplies {name}, which is {getattr(self, name)}",
                    field="realspace_weight",
                    found=0,
                    expected="a number above 0",
                )
        weights = ("mae_weight", "nll_weight", "realspace_weight")
        if not any(getattr(self, name) for name in weights):
            raise ConfigurationError(
                "no loss is left", field="nll_weight", found=0, expected=f"one of {', '.join(weights)} above 0"
            )
        _check_neighbours(self, include_seed_point=self.include_seed_point)


@settings
class InferenceConfig:
    """Reconstruction with a trained model."""

    model: Annotated[ModelConfig, BeforeValidator(_model_from_mapping)]
    """The network."""
    model_path: Path
    """The trained model: a bundle (wts.h5.zip) or the folder that holds it."""
    test_data_file: Path
    """The scan to reconstruct."""
    n_groups: PositiveInt | None = None
    """How many groups of patterns are used; every pattern if not given."""
    n_images: PositiveInt | None = None
    """Deprecated name of n_groups."""
    n_subsample: PositiveInt | None = None
    """Use only that many patterns, drawn at random; all if not given."""
    subsample_seed: NonNegativeInt | None = None
    """Seed of that draw."""
    neighbor_count: PositiveInt = 4
    """From how many nearest neighbours the members of a group are drawn."""
    enable_oversampling: bool = False
    """Allow more groups than there are patterns, by other choices of neighbours."""
    neighbor_pool_size: PositiveInt | None = None
    """From how many neighbours oversampling draws; neighbor_count if not given."""
    debug: bool = False
    """Write the merged patch of every group beside the image (patches.npz)."""
    output_dir: Path = Path("inference_outputs")
    """Folder for everything that is written."""
    backend: Backend = "tensorflow"
    """Whose calling conventions are followed. It computes nothing else: ptycho_ray always computes with PyTorch."""

    def __post_init__(self) -> None:
        _replace_deprecated_n_images(self)
        _check_neighbours(self, include_seed_point=True)


@settings
class ExecutionConfig:
    """How the computation runs: device, precision, batches, checkpoints. Nothing here changes the physics."""

    accelerator: Annotated[Literal["auto", "cpu", "gpu", "cuda", "mps"], BeforeValidator(without_tpu)] = "auto"
    """Device; 'auto' takes a GPU if there is one."""
    devices: DeviceCount = 1
    """Number of devices, each with a worker of its own on a Ray cluster; 'auto' takes all that the cluster has."""
    strategy: Literal["auto", "ddp"] = "auto"
    """How several devices share the work: each takes a part of every batch, and the gradients are added up."""
    deterministic: bool | Literal["warn"] = True
    """Only algorithms that give the same numbers every time; 'warn' reports the others and goes on."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Number format of the network; the physics is always computed with 32 bits."""
    gradient_clip_val: PositiveFloat | None = None
    """Overrides the training setting of that name."""
    gradient_clip_algorithm: ClipAlgorithm = "norm"
    """Used together with gradient_clip_val of this section."""
    accum_steps: PositiveInt = 1
    """Batches whose gradients are added before the optimiser steps."""
    num_workers: NonNegativeInt = 0
    """Processes that load data beside the training process."""
    pin_memory: bool = False
    """Page-locked host memory, for a faster copy to a GPU."""
    persistent_workers: bool = False
    """Keep the loading processes between epochs."""
    prefetch_factor: PositiveInt | None = None
    """Batches that each loading process prepares ahead."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of the network."""
    scheduler: Schedule = "Default"
    """Overrides the training setting of that name unless it is 'Default'."""
    enable_progress_bar: bool = False
    """Show a progress bar even where the output is no terminal."""
    enable_checkpointing: bool = True
    """Write checkpoints while training."""
    checkpoint_save_top_k: NonNegativeInt = 1
    """How many of the best checkpoints are kept, beside the last; on a cluster one more, in case that is damaged."""
    checkpoint_monitor_metric: str = "val_loss"
    """By which figure checkpoints and early stopping judge."""
    checkpoint_mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""
    early_stop_patience: PositiveInt = 100
    """Epochs without improvement after which training stops."""
    logger_backend: Literal["csv", "tensorboard", "mlflow", "none"] = "csv"
    """Where the figures of each epoch are recorded."""
    recon_log_every_n_epochs: PositiveInt | None = None
    """Record the reconstructed image every so many epochs, with a logger that keeps pictures; never if not given."""
    recon_log_num_patches: PositiveInt = 4
    """Accepted for compatibility, without effect: the whole image is recorded and not example patches."""
    recon_log_fixed_indices: Annotated[tuple[NonNegativeInt, ...] | None, BeforeValidator(split_list)] = None
    """Accepted for compatibility, without effect."""
    recon_log_stitch: bool = False
    """Accepted for compatibility, without effect: the recorded image is always stitched."""
    recon_log_max_stitch_samples: PositiveInt | None = None
    """Make the recorded image of at most that many groups."""
    ffno_encoder_blocks: PositiveInt = 24
    """Blocks of the factorised Fourier stack of the hybrid architectures that have one."""
    ffno_encoder_modes: PositiveInt = 12
    """Its Fourier modes."""
    ffno_encoder_share_weights: bool = True
    """Whether its blocks share their spectral weights."""
    ffno_encoder_gate_init: PositiveFloat = 0.1
    """First value of its gates."""
    ffno_encoder_norm: str = "instance"
    """Its normalisation."""
    ffno_encoder_mlp_ratio: PositiveFloat = 2.0
    """Widening of its pointwise layers."""
    spectral_bottleneck_blocks: PositiveInt = 6
    """Blocks of the spectral bottleneck of the architectures that have one."""
    spectral_bottleneck_modes: PositiveInt = 12
    """Its Fourier modes."""
    spectral_bottleneck_share_weights: bool = True
    """Whether its blocks share their spectral weights."""
    spectral_bottleneck_gate_init: FiniteFloat = 0.1
    """First value of its gates."""
    spectral_bottleneck_gate_mode: Literal["shared", "per_block"] = "shared"
    """One gate for all blocks, or one each."""
    inference_batch_size: PositiveInt | None = None
    """Groups in one batch of a reconstruction; batch_size if not given."""
    middle_trim: NonNegativeInt = 0
    """Accepted for compatibility, without effect (as in PtychoPINN)."""
    pad_eval: bool = False
    """Accepted for compatibility, without effect (as in PtychoPINN)."""
    # What PtychoPINN does not have:
    min_devices: PositiveInt | None = None
    """Go on with as few devices as that when others are lost, and grow again to 'devices' when they come back."""
    cpus_per_device: PositiveInt = 1
    """Processor cores of each worker."""
    max_failures: NonNegativeInt = 3
    """How many losses of a worker a run survives; it goes on from its last checkpoint."""
    address: str | None = None
    """Ray cluster to run on, as host:port or 'auto'; the environment variable RAY_ADDRESS if not given, and without
    either a cluster of this machine alone."""
    storage_path: str | None = None
    """Folder or URI (s3://..., gs://...) for the checkpoints of a run on a cluster; every node must reach it. 'ray' in the
    output folder if not given."""
    wait_for_nodes_s: NonNegativeFloat = 0.0
    """How long to wait for an autoscaling cluster to start enough nodes; 0 refuses at once what does not fit."""


PyTorchExecutionConfig = ExecutionConfig


def _replace_deprecated_n_images(config: Any) -> None:
    if config.n_images is not None and config.n_groups is None:
        warnings.warn("n_images is the deprecated name of n_groups", DeprecationWarning, stacklevel=5)
        object.__setattr__(config, "n_groups", config.n_images)


def _check_neighbours(config: Any, *, include_seed_point: bool) -> None:
    """A group has gridsize**2 members; all but the seed point (or all) are drawn from its neighbours."""
    needed = config.model.gridsize**2 - (1 if include_seed_point else 0)
    for name in ("neighbor_count", "neighbor_pool_size"):
        value = getattr(config, name)
        if config.model.gridsize > 1 and value is not None and value < needed:
            raise ConfigurationError(
                field=name, found=value, expected=f"at least {needed} for gridsize {config.model.gridsize}"
            )


def flat_fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields of a settings class by name, without the nested ``model``."""
    return {field.name: field for field in dataclasses.fields(cls) if field.name != "model"}
