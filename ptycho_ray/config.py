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
    DownsamplingSteps,
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
from ptycho_ray.loss_terms import check_terms

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
    "unet",
]
Schedule = Literal["Default", "Exponential", "WarmupCosine", "ReduceLROnPlateau"]
Backend = Literal["tensorflow", "pytorch"]
ClipAlgorithm = Literal["norm", "value", "agc"]

DEFAULT_TRAINING_GROUPS = 512
#: In place of a model's file: the model that comes with the program.
PRETRAINED = "pretrained"


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
    """'pinn' learns from diffraction; 'supervised' from the true object in the scan's file, and from no diffraction."""
    architecture: Architecture = "cnn"
    """Which network turns diffraction into an object patch."""
    fno_modes: PositiveInt = 12
    """Fourier modes kept in each direction by the spectral layers (all networks but 'cnn')."""
    fno_width: PositiveInt = 32
    """Hidden channels at full resolution (all networks but 'cnn')."""
    fno_blocks: PositiveInt = 4
    """Number of spectral blocks (all networks but 'cnn' and 'neuralop_uno')."""
    fno_cnn_blocks: NonNegativeInt = 2
    """Number of convolutional blocks after the spectral ones (fno, ffno)."""
    learned_input_channels: PositiveInt = 1
    """Kept from PtychoPINN; only 1 is possible. Further input channels come from probe_conditioning."""
    max_hidden_channels: PositiveInt | None = None
    """Upper limit of the channels of the hybrid architectures; none if not given."""
    resnet_width: PositiveInt | None = None
    """Channels of the bottleneck of the hybrid_resnet family, a multiple of 4; those of its encoder if not given."""
    fno_input_transform: Literal["none", "sqrt", "log1p", "instancenorm"] = "none"
    """What is applied to the input before the first layer (all networks but 'cnn')."""
    generator_output_mode: Literal["real_imag", "amp_phase_logits", "amp_phase"] = "real_imag"
    """How the networks other than 'cnn' express the object; the two that say amp_phase are the same here."""
    amp_activation: Literal["sigmoid", "swish", "softplus", "relu"] = "sigmoid"
    """Last function of the amplitude branch."""
    object_big: bool = True
    """Merge the overlapping patches of a group into one object before the diffraction is computed."""
    probe_big: bool = True
    """Let 'cnn' fill the whole N x N patch and not only its central half; the other networks always do."""
    probe_mask: bool = False
    """Multiply the probe by a disc of diameter N/2."""
    probe_mask_sigma: NonNegativeFloat = 1.0
    """Softness of the edge of that disc in pixels."""
    probe_mask_diameter: PositiveFloat | None = None
    """Diameter of that disc in pixels; N/2 if not given."""
    pad_object: bool = True
    """Confine the object of 'cnn' to the central half of the patch (the rest comes from probe_big)."""
    probe_scale: PositiveFloat = 4.0
    """Mean probe amplitude inside the network's units is 1 / probe_scale."""
    gaussian_smoothing_sigma: NonNegativeFloat = 0.0
    """Standard deviation in pixels of a Gaussian that smooths the exit wave; 0 for none."""
    # What PtychoPINN does not have:
    merge: Literal["weighted", "central_mask"] = "weighted"
    """How overlapping patches of a group are averaged: 'weighted' divides by the sum of the weights, 'central_mask'
    is the formula of PtychoPINN, kept for comparison."""
    probe_conditioning: Literal["none", "channels", "retrieval"] = "none"
    """Whether the network sees the probe: 'channels' adds its wave and its diffraction to the input; 'retrieval' shows the
    object that probe and pattern yield by themselves, for the network to improve. A network that sees the probe can
    reconstruct scans with other probes than those it was trained on."""
    retrieval_steps: PositiveInt = 30
    """Steps of that retrieval."""
    cnn_output_mode: Literal["amp_phase", "real_imag"] = "amp_phase"
    """How 'cnn' expresses the object."""
    hybrid_downsample: Literal["stride_conv", "avgpool", "blurpool"] = "stride_conv"
    """How the hybrid architectures halve the resolution: a 2 x 2 convolution, or a mean or blur and a 1 x 1 convolution."""
    hybrid_downsample_steps: DownsamplingSteps = 2
    """How often the hybrid_resnet family halves the resolution, 1 or 2."""
    hybrid_skip: Literal["none", "add", "concat", "gated_add"] = "none"
    """How the decoder of the hybrid_resnet family takes in the encoder's maps."""
    hybrid_fusion: Literal["baseline", "layerscale", "branch_gated", "branch_gated_layerscale"] = "baseline"
    """Learned factors in the spectral blocks of the hybrid architectures: on their whole step for each channel (layerscale), on
    the spectral and the local branch (branch_gated)."""
    hybrid_branches: Literal["both", "conv_only", "spectral_only"] = "both"
    """Which branches the spectral blocks of the hybrid architectures have."""
    hybrid_layerscale: PositiveFloat = 0.1
    """First value of the factors of layerscale."""
    resnet_blocks: PositiveInt = 6
    """Residual blocks of the bottleneck of the hybrid_resnet family."""
    resnet_scale: PositiveFloat = 0.1
    """First value of the one factor that those blocks share."""
    resnet_scale_trainable: bool = True
    """Let training change that factor."""
    # PtychoPINN has these among the execution settings, but a stored network cannot be built again without them.
    ffno_encoder_blocks: PositiveInt = 24
    """Blocks of the factorised Fourier stack of the hybrid architectures that have one."""
    ffno_encoder_modes: PositiveInt = 12
    """Its Fourier modes."""
    ffno_encoder_share_weights: bool = True
    """Whether its blocks share their spectral weights."""
    ffno_encoder_gate_init: PositiveFloat = 0.1
    """First value of the gate that its blocks share."""
    ffno_encoder_norm: Literal["instance", "none"] = "instance"
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
    """One gate for all blocks, or one each (the spectral_resnet architectures)."""


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
    """Weight of the difference to the true object in the scan's file, among the real-space losses (realspace_weight)."""
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
    initial_model: Path | None = None
    """Start from the network of this bundle and not from random weights; 'pretrained' is the one that comes with the
    program. The settings of the network are then those of the bundle."""
    seed: NonNegativeInt = 0
    """Seed of grouping, weights and shuffling: the same seed gives the same image."""
    validation_fraction: ValidationShare = 0.05
    """Part of the scan that is kept out of training, 0 to 0.5; it overlaps no training group."""
    gaussian_amplitude_weight: NonNegativeFloat = 0.0
    """Weight of the Gaussian likelihood of diffraction amplitudes (docs/losses.md)."""
    gaussian_intensity_weight: NonNegativeFloat = 0.0
    """Weight of the Gaussian likelihood of photon counts."""
    readout_noise_photons: NonNegativeFloat = 0.0
    """Standard deviation of the detector's own noise in a pixel, in photons, for all likelihoods."""
    tv_kind: Literal["squared", "isotropic"] = "squared"
    """Total variation: sum of squared steps, which blurs edges, or of the lengths of the gradient, which keeps them."""
    consistency_weight: NonNegativeFloat = 0.0
    """Weight of the disagreement with an overlapping group, among the real-space losses (realspace_weight)."""
    label_amplitude_weight: NonNegativeFloat = 1.0
    """Supervised training: weight of the mean absolute error of the transmission's amplitude."""
    label_phase_weight: NonNegativeFloat = 1.0
    """Supervised training: weight of the mean absolute error of its phase in radians."""
    loss_schedule: Annotated[tuple[str, ...], BeforeValidator(split_list)] = ()
    """Factors on weights over the epochs, term=epoch:factor/epoch:factor, linear between: tv=0:0/10:1 (docs/losses.md)."""
    intensity_scale_learning_rate: PositiveFloat | None = None
    """Learning rate of the intensity scale's logarithm; that of the network if not given."""
    intensity_scale_start_epoch: NonNegativeInt = 0
    """Epoch at which a trainable intensity scale starts to move."""
    positions_trainable: bool = False
    """Let training improve the scan positions."""
    position_learning_rate: PositiveFloat = 1e-2
    """Learning rate of the positions in object pixels."""
    position_start_epoch: NonNegativeInt = 0
    """Epoch at which trainable positions start to move."""
    position_limit_px: PositiveFloat = 2.0
    """A trainable position stays within so many object pixels of the measured one, along each axis."""
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
    refinement_iterations: NonNegativeInt = 0
    """Refine the stitched image by that many iterations of the solver (docs/refinement.md); 0 for none."""
    ensemble_members: PositiveInt = 1
    """Train so many networks that differ in their seeds; their spread is the uncertainty of the image (docs/uncertainty.md)."""

    def __post_init__(self) -> None:
        _replace_deprecated_n_images(self)
        if self.n_groups is None:
            object.__setattr__(self, "n_groups", DEFAULT_TRAINING_GROUPS)
        check_terms(self)
        if self.positions_trainable and self.model.gridsize == 1 and not self.consistency_weight:
            raise ConfigurationError(
                "a single pattern does not tell where it was taken",
                field="positions_trainable",
                found="gridsize 1 without consistency_weight",
                expected="gridsize 2 or more, or consistency_weight (with realspace_weight) above 0",
            )
        _check_neighbours(self, include_seed_point=self.include_seed_point)


@settings
class InferenceConfig:
    """Reconstruction with a trained model."""

    model: Annotated[ModelConfig, BeforeValidator(_model_from_mapping)]
    """The network."""
    test_data_file: Path
    """The scan to reconstruct."""
    model_path: Path = Path(PRETRAINED)
    """The trained model: a bundle (wts.h5.zip) or the folder that holds it; if not given, the one that comes with the
    program."""
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
    # What PtychoPINN does not have:
    refinement_iterations: NonNegativeInt = 0
    """Refine the stitched image by that many iterations of the solver (docs/refinement.md); 0 for none."""

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
    """Number format of the network; the physics is always computed with 32 bits. On a processor without bfloat16 arithmetic
    'bf16-mixed' is '32-true'."""
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
