"""Settings of a training and of a reconstruction with the trained model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from ptycho_ray.config.execution import ClipAlgorithm, Schedule
from ptycho_ray.config.extensions import one_of
from ptycho_ray.config.loss_schedule import DIFFRACTION_TERMS, parse_schedules, schedule_refusal
from ptycho_ray.config.model import ModelConfig, model_from_mapping
from ptycho_ray.config.porting import NO_MEANING
from ptycho_ray.config.types import (
    FiniteFloat,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    PowerOfTwo,
    ValidationShare,
    settings,
    split_list,
)
from ptycho_ray.errors import ConfigurationError

Backend = Literal["tensorflow", "pytorch"]

PositionAxes = Literal[
    "as stored", "flip_x", "flip_y", "flip_x flip_y",
    "swap_xy", "flip_x swap_xy", "flip_y swap_xy", "flip_x flip_y swap_xy",
]  # fmt: skip

DEFAULT_TRAINING_GROUPS = 512
#: In place of a model's file: the model that comes with the program.
PRETRAINED = "pretrained"


@settings
class TrainingConfig:
    """Training: data, losses, optimiser, schedule."""

    WITHOUT_MEANING: ClassVar[Mapping[str, str]] = NO_MEANING

    model: Annotated[ModelConfig, BeforeValidator(model_from_mapping)]
    """The network."""
    train_data_file: Path | None = None
    """The scan to train on (NPZ, HDF5 or CXI)."""
    test_data_file: Path | None = None
    """A second scan, to be reconstructed after training."""
    batch_size: PowerOfTwo = 16
    """Groups per batch: a power of two."""
    nepochs: PositiveInt = 50
    """Number of passes over the training data."""
    mae_weight: Fraction = 0.0
    """Weight of the amplitude loss (mean absolute difference of diffraction amplitudes), 0 to 1."""
    nll_weight: Fraction = 1.0
    """Weight of the Poisson likelihood of the photon counts, 0 to 1."""
    realspace_mae_weight: NonNegativeFloat = 0.0
    """Weight of the difference from the true object in the scan's file, among the real-space losses (realspace_weight)."""
    realspace_weight: NonNegativeFloat = 0.0
    """Weight of all real-space losses."""
    nphotons: PositiveFloat = 1e9
    """Mean photons per pattern. A file that holds photon counts or states this number takes precedence."""
    n_groups: PositiveInt | None = None
    """Number of groups of patterns. 512 if not given."""
    n_images: PositiveInt | None = None
    """Deprecated name of n_groups."""
    n_subsample: PositiveInt | None = None
    """Use only this many patterns, drawn at random; all if not given."""
    subsample_seed: NonNegativeInt | None = None
    """Seed of this random selection."""
    neighbor_count: PositiveInt = 4
    """Number of nearest neighbours from which the members of a group are drawn."""
    enable_oversampling: bool = False
    """Allow more groups than patterns, with different choices of neighbours."""
    neighbor_pool_size: PositiveInt | None = None
    """Number of neighbours from which oversampling draws; neighbor_count if not given."""
    positions_provided: bool = True
    """Whether the file holds measured positions."""
    probe_trainable: bool = False
    """Refine the probe during training."""
    intensity_scale_trainable: bool = True
    """Refine the overall intensity scale during training."""
    output_dir: Path = Path("training_outputs")
    """Output folder."""
    sequential_sampling: bool = False
    """Use the first patterns of the scan instead of random ones."""
    backend: Backend = "tensorflow"
    """Whose calling conventions are followed. The computation is the same: ptycho_ray always uses PyTorch."""
    torch_loss_mode: Literal["poisson", "mae"] = "poisson"
    """Accepted for compatibility, without effect: mae_weight and nll_weight choose the loss."""
    torch_mae_pred_l2_match_target: bool = False
    """In the amplitude loss, first scale the prediction to the total intensity of the measurement."""
    gradient_clip_val: PositiveFloat | None = None
    """Gradient clipping threshold; no clipping if not given."""
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
    """Learning-rate schedule over the epochs; 'Default' keeps the rate constant."""
    lr_warmup_epochs: NonNegativeInt = 0
    """WarmupCosine: epochs of linear increase."""
    lr_min_ratio: Fraction = 0.1
    """WarmupCosine: final learning rate as a fraction of the initial one."""
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
    """Start from the network of this bundle instead of random weights; 'pretrained' is the network shipped with the
    package. The network settings are then those of the bundle."""
    seed: NonNegativeInt = 0
    """Seed of grouping, weights and shuffling: the same seed gives the same image."""
    validation_fraction: ValidationShare = 0.05
    """Fraction of the scan held out of training, 0 to 0.5; it overlaps no training group."""
    gaussian_amplitude_weight: NonNegativeFloat = 0.0
    """Weight of the Gaussian likelihood of diffraction amplitudes (docs/losses.md)."""
    gaussian_intensity_weight: NonNegativeFloat = 0.0
    """Weight of the Gaussian likelihood of photon counts."""
    likelihood: Annotated[str, BeforeValidator(one_of("likelihood", ("",)))] = ""
    """A likelihood of another package (docs/extending.md), a term of the loss beside the others."""
    likelihood_weight: PositiveFloat = 1.0
    """Its weight; nll_weight 0 leaves it alone."""
    readout_noise_photons: NonNegativeFloat = 0.0
    """Standard deviation of the detector's readout noise per pixel, in photons, for all likelihoods."""
    tv_kind: Literal["squared", "isotropic"] = "squared"
    """Total variation: sum of squared differences, which blurs edges, or of gradient magnitudes, which preserves them."""
    consistency_weight: NonNegativeFloat = 0.0
    """Weight of the disagreement with an overlapping group, among the real-space losses (realspace_weight)."""
    label_amplitude_weight: NonNegativeFloat = 1.0
    """Supervised training: weight of the mean absolute error of the transmission's amplitude."""
    label_phase_weight: NonNegativeFloat = 1.0
    """Supervised training: weight of the mean absolute error of its phase in radians."""
    loss_schedule: Annotated[tuple[str, ...], BeforeValidator(split_list)] = ()
    """Factors on the loss weights over the epochs, term=epoch:factor/epoch:factor, linear in between: tv=0:0/10:1
    (docs/losses.md)."""
    intensity_scale_learning_rate: PositiveFloat | None = None
    """Learning rate of the intensity scale's logarithm; that of the network if not given."""
    intensity_scale_start_epoch: NonNegativeInt = 0
    """Epoch from which a trainable intensity scale is updated."""
    positions_trainable: bool = False
    """Refine the scan positions during training."""
    position_learning_rate: PositiveFloat = 1e-2
    """Learning rate of the positions in object pixels."""
    position_start_epoch: NonNegativeInt = 0
    """Epoch from which trainable positions are updated."""
    position_limit_px: PositiveFloat = 2.0
    """Maximum distance of a trainable position from the measured one along each axis, in object pixels."""
    tv_weight: NonNegativeFloat = 0.0
    """Weight of the total variation of the object among the real-space losses (realspace_weight must be above 0)."""
    include_seed_point: bool = True
    """Include each pattern in its own group (PtychoPINN does not)."""
    group_random_stream: Literal["generator", "numpy_legacy"] = "generator"
    """'numpy_legacy' draws the groups exactly as PtychoPINN does with the same seed."""
    probe_learning_rate: PositiveFloat = 1e-2
    """Learning rate of a trainable probe, relative to its largest amplitude."""
    probe_start_epoch: NonNegativeInt = 0
    """Epoch from which a trainable probe is updated."""
    further_train_data_files: Annotated[tuple[Path, ...], BeforeValidator(split_list)] = ()
    """More scans, or folders of scans, to train one network on; each scan keeps its own probe and scales."""
    scan_sampling: Literal["proportional", "even"] = "proportional"
    """Training on several scans: an epoch visits every group once (proportional), or every scan equally often (even)."""
    probe_defocus_m: FiniteFloat = 0.0
    """Propagate the file's probe over this distance in free space, in metres; needs energy and pixel size (docs/tune.md)."""
    probe_defocus_px2: FiniteFloat = 0.0
    """The same in dimensionless form: wavelength * distance / pixel size**2."""
    probe_modes: PositiveInt | None = None
    """Number of incoherent probe modes: the first ones in the file, or further ones generated from its first; as in
    the file if not given."""
    position_scale: PositiveFloat = 1.0
    """Factor on the scan positions about their mean."""
    position_rotation_rad: FiniteFloat = 0.0
    """Rotation of the scan positions about their mean, rows towards columns."""
    position_shear: FiniteFloat = 0.0
    """Shear of the scan positions about their mean: fraction of the column coordinate added to the row."""
    position_axes: PositionAxes = "as stored"
    """Order and signs of the scan axes, as ptycho-ray convert and orient name them: first the signs, then the exchange; before
    the other corrections of the positions."""
    object_pixel_size_m: PositiveFloat | None = None
    """Object pixel size, overriding that of the file; scan positions are converted accordingly."""
    refinement_iterations: NonNegativeInt = 0
    """Refine the stitched image with this many iterations of the solver (docs/refinement.md); 0 for none."""
    ensemble_members: PositiveInt = 1
    """Number of networks to train, with different seeds; their spread is the uncertainty of the image (docs/uncertainty.md)."""

    def __post_init__(self) -> None:
        replace_deprecated_n_images(self)
        if self.n_groups is None:
            object.__setattr__(self, "n_groups", DEFAULT_TRAINING_GROUPS)
        check_terms(self)
        if self.positions_trainable and self.model.gridsize == 1 and not self.consistency_weight:
            raise ConfigurationError(
                "a single pattern does not determine where it was taken",
                field="positions_trainable",
                found="gridsize 1 without consistency_weight",
                expected="gridsize 2 or more, or consistency_weight (with realspace_weight) above 0",
            )
        check_neighbours(self, include_seed_point=self.include_seed_point)


@settings
class InferenceConfig:
    """Reconstruction with a trained model."""

    model: Annotated[ModelConfig, BeforeValidator(model_from_mapping)]
    """The network."""
    test_data_file: Path
    """The scan to reconstruct."""
    model_path: Path = Path(PRETRAINED)
    """The trained model: a bundle (wts.h5.zip) or the folder that holds it; if not given, the pretrained network
    shipped with the package."""
    n_groups: PositiveInt | None = None
    """Number of groups of patterns; every pattern is used if not given."""
    n_images: PositiveInt | None = None
    """Deprecated name of n_groups."""
    n_subsample: PositiveInt | None = None
    """Use only this many patterns, drawn at random; all if not given."""
    subsample_seed: NonNegativeInt | None = None
    """Seed of this random selection."""
    neighbor_count: PositiveInt = 4
    """Number of nearest neighbours from which the members of a group are drawn."""
    enable_oversampling: bool = False
    """Allow more groups than patterns, with different choices of neighbours."""
    neighbor_pool_size: PositiveInt | None = None
    """Number of neighbours from which oversampling draws; neighbor_count if not given."""
    debug: bool = False
    """Also write the merged patch of every group (patches.npz)."""
    output_dir: Path = Path("inference_outputs")
    """Output folder."""
    backend: Backend = "tensorflow"
    """Whose calling conventions are followed. The computation is the same: ptycho_ray always uses PyTorch."""
    # What PtychoPINN does not have:
    refinement_iterations: NonNegativeInt = 0
    """Refine the stitched image with this many iterations of the solver (docs/refinement.md); 0 for none."""

    def __post_init__(self) -> None:
        replace_deprecated_n_images(self)
        check_neighbours(self, include_seed_point=True)


#: Settings of InferenceConfig that choose patterns and groups, or refine: those that shape the image of a given network.
OF_AN_IMAGE = (
    "n_groups", "n_subsample", "subsample_seed", "neighbor_count", "enable_oversampling", "neighbor_pool_size",
    "refinement_iterations",
)  # fmt: skip


def term_weights(config: TrainingConfig) -> dict[str, float]:
    """The weight of every term that the configuration asks for, without those of weight zero."""
    supervised = config.model.model_type == "supervised"
    weights = {
        "nll": config.nll_weight,
        "gaussian_amplitude": config.gaussian_amplitude_weight,
        "gaussian_intensity": config.gaussian_intensity_weight,
        "mae": config.mae_weight,
        "likelihood": config.likelihood_weight * bool(config.likelihood),
        "tv": config.realspace_weight * config.tv_weight,
        "consistency": config.realspace_weight * config.consistency_weight,
        "object_mae": config.realspace_weight * config.realspace_mae_weight,
        "label_amplitude": config.label_amplitude_weight * supervised,
        "label_phase": config.label_phase_weight * supervised,
    }
    left_out = DIFFRACTION_TERMS if supervised else ()
    return {name: weight for name, weight in weights.items() if weight and name not in left_out}


def check_terms(config: TrainingConfig) -> None:
    """Refuse a configuration without a loss, or with a weight or a schedule that could have no effect."""
    for name in ("tv_weight", "consistency_weight", "realspace_mae_weight"):
        if getattr(config, name) and not config.realspace_weight:
            raise ConfigurationError(
                f"it multiplies {name}, which is {getattr(config, name)}",
                field="realspace_weight",
                found=0,
                expected="a number above 0",
            )
    supervised = config.model.model_type == "supervised"
    choices: tuple[str, ...] = ("label_phase_weight", "label_amplitude_weight")
    if not supervised:
        likelihoods = (
            "nll_weight",
            "mae_weight",
            "gaussian_amplitude_weight",
            "gaussian_intensity_weight",
            "likelihood",
        )
        choices = (*likelihoods, "realspace_weight")
    if not any(getattr(config, name) for name in choices):
        raise ConfigurationError(
            "no loss is left", field=choices[0], found=0, expected=f"one of {', '.join(choices)} above 0"
        )
    weights = term_weights(config)
    for name in parse_schedules(config.loss_schedule):
        if name not in weights:
            raise schedule_refusal(name, f"a term of the loss: {', '.join(weights)}", "Its weight is zero")


def replace_deprecated_n_images(config: Any) -> None:
    if config.n_images is not None and config.n_groups is None:
        warnings.warn("n_images is the deprecated name of n_groups", DeprecationWarning, stacklevel=5)
        object.__setattr__(config, "n_groups", config.n_images)


def check_neighbours(config: Any, *, include_seed_point: bool) -> None:
    """A group has gridsize**2 members; all but the seed point (or all) are drawn from its neighbours."""
    needed = config.model.gridsize**2 - (1 if include_seed_point else 0)
    for name in ("neighbor_count", "neighbor_pool_size"):
        value = getattr(config, name)
        if config.model.gridsize > 1 and value is not None and value < needed:
            raise ConfigurationError(
                field=name, found=value, expected=f"at least {needed} for gridsize {config.model.gridsize}"
            )
