"""Settings of the network and of the physics around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, model_validator
from pydantic_core import ArgsKwargs

from ptycho_ray.config.extensions import one_of
from ptycho_ray.config.types import (
    DownsamplingSteps,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PatternSide,
    PositiveFloat,
    PositiveInt,
    settings,
)
from ptycho_ray.errors import ConfigurationError

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
    "unrolled",
]
OUR_NETWORKS: tuple[str, ...] = get_args(Architecture)
#: Networks that solve overlapping patterns together, at their positions and with their probe.
WHOLE_SCANS = frozenset({"unrolled"})


#: What goes with each object_layout, and which merge each training_patch_weighting is.
LAYOUTS = {"single_patch": "independent", "grouped_patches": "relative_overlap"}
WEIGHTINGS = {"central_mask": "central_mask", "probe": "weighted"}


@settings
class ModelConfig:
    """The network and the physics around it."""

    N: PatternSide = 64
    """Side of a diffraction pattern in pixels: a multiple of 8, at least 32. It must match the file."""
    gridsize: PositiveInt = 1
    """The network receives patterns in groups of gridsize x gridsize overlapping neighbours."""
    n_filters_scale: PositiveInt = 2
    """Width of the network: every layer's number of filters is multiplied by it."""
    model_type: Literal["pinn", "supervised"] = "pinn"
    """'pinn' learns from diffraction; 'supervised' from the true object in the scan's file only, not from diffraction."""
    architecture: Annotated[str, BeforeValidator(one_of("network", OUR_NETWORKS))] = "cnn"
    """The network that turns diffraction patterns into object patches; 'ptycho-ray info --architectures' lists them."""
    fno_modes: PositiveInt = 12
    """Fourier modes kept in each direction by the spectral layers (all networks but 'cnn')."""
    fno_width: PositiveInt = 32
    """Hidden channels at full resolution (all networks but 'cnn')."""
    fno_blocks: PositiveInt = 4
    """Number of spectral blocks (all networks but 'cnn' and 'neuralop_uno')."""
    fno_cnn_blocks: NonNegativeInt = 2
    """Number of convolutional blocks after the spectral ones (fno, ffno)."""
    learned_input_channels: PositiveInt = 1
    """Kept from PtychoPINN; must be 1. Further input channels come from probe_conditioning."""
    max_hidden_channels: PositiveInt | None = None
    """Maximum number of channels of the hybrid architectures; unlimited if not given."""
    resnet_width: PositiveInt | None = None
    """Channels of the bottleneck of the hybrid_resnet family, a multiple of 4; those of its encoder if not given."""
    fno_input_transform: Literal["none", "sqrt", "log1p", "instancenorm"] = "none"
    """Transformation of the input before the first layer (all networks but 'cnn')."""
    generator_output_mode: Literal["real_imag", "amp_phase_logits", "amp_phase"] = "real_imag"
    """Representation of the object in the networks other than 'cnn'; both amp_phase variants are equivalent here."""
    amp_activation: Literal["sigmoid", "swish", "softplus", "relu"] = "sigmoid"
    """Final activation of the amplitude branch."""
    object_big: bool = True
    """Merge the overlapping patches of a group into one object before the diffraction is computed; object_layout and
    training_canvas say the same in the words of PtychoPINN's newest branch."""
    probe_big: bool = True
    """Let 'cnn' predict the whole N x N patch, not only its central half; the other networks always do."""
    probe_mask: bool = False
    """Multiply the probe by a disc of diameter N/2."""
    probe_mask_sigma: NonNegativeFloat = 1.0
    """Softness of the edge of this disc in pixels."""
    probe_mask_diameter: PositiveFloat | None = None
    """Diameter of this disc in pixels; N/2 if not given."""
    pad_object: bool = True
    """Restrict the object of 'cnn' to the central half of the patch (probe_big provides the rest)."""
    probe_scale: PositiveFloat = 4.0
    """In the units of the network the mean probe amplitude is 1 / probe_scale."""
    gaussian_smoothing_sigma: NonNegativeFloat = 0.0
    """Standard deviation in pixels of a Gaussian that smooths the exit wave; 0 for none."""
    # By which the newest branch of PtychoPINN replaces object_big:
    object_layout: Literal["single_patch", "grouped_patches"] | None = None
    """'grouped_patches' is object_big, 'single_patch' is not; goes with training_canvas."""
    training_canvas: Literal["independent", "relative_overlap"] | None = None
    """'relative_overlap' goes with 'grouped_patches', 'independent' with 'single_patch'."""
    training_patch_weighting: Literal["central_mask", "uniform", "probe"] | None = None
    """How patches of a group are averaged: 'central_mask' is that choice of merge, 'probe' is 'weighted'; 'uniform' is not
    available."""
    # What PtychoPINN does not have:
    merge: Literal["weighted", "central_mask"] = "weighted"
    """How overlapping patches of a group are averaged: 'weighted' divides by the sum of the weights, 'central_mask'
    is the formula of PtychoPINN, kept for comparison."""
    probe_conditioning: Literal["none", "channels", "retrieval"] = "none"
    """Whether the probe is an input of the network: 'channels' adds its wave and its diffraction pattern as
    channels; 'retrieval' adds a phase retrieval of each pattern with the probe, which the network improves. Such a
    network can reconstruct scans with probes other than those it was trained on."""
    retrieval_steps: PositiveInt = 30
    """Number of steps of this phase retrieval."""
    unrolled_iterations: PositiveInt = 12
    """Number of iterations of 'unrolled'."""
    cnn_output_mode: Literal["amp_phase", "real_imag"] = "amp_phase"
    """Representation of the object in 'cnn'."""
    hybrid_downsample: Literal["stride_conv", "avgpool", "blurpool"] = "stride_conv"
    """Downsampling in the hybrid architectures: a 2 x 2 convolution, or a mean or blur followed by a 1 x 1 convolution."""
    hybrid_downsample_steps: DownsamplingSteps = 2
    """How often the hybrid_resnet family halves the resolution, 1 or 2."""
    hybrid_skip: Literal["none", "add", "concat", "gated_add"] = "none"
    """How the decoder of the hybrid_resnet family merges the feature maps of the encoder."""
    hybrid_fusion: Literal["baseline", "layerscale", "branch_gated", "branch_gated_layerscale"] = "baseline"
    """Learnt factors in the spectral blocks of the hybrid architectures: one per channel on the whole residual
    (layerscale), or one each on the spectral and the local branch (branch_gated)."""
    hybrid_branches: Literal["both", "conv_only", "spectral_only"] = "both"
    """Branches of the spectral blocks in the hybrid architectures."""
    hybrid_layerscale: PositiveFloat = 0.1
    """Initial value of the layerscale factors."""
    resnet_blocks: PositiveInt = 6
    """Residual blocks of the bottleneck of the hybrid_resnet family."""
    resnet_scale: PositiveFloat = 0.1
    """Initial value of the residual factor shared by these blocks."""
    resnet_scale_trainable: bool = True
    """Make this factor trainable."""
    # PtychoPINN has these among the execution settings, but a stored network cannot be built again without them.
    ffno_encoder_blocks: PositiveInt = 24
    """Blocks of the factorised Fourier stack of the hybrid architectures that have one."""
    ffno_encoder_modes: PositiveInt = 12
    """Its Fourier modes."""
    ffno_encoder_share_weights: bool = True
    """Whether its blocks share their spectral weights."""
    ffno_encoder_gate_init: PositiveFloat = 0.1
    """Initial value of the gate shared by its blocks."""
    ffno_encoder_norm: Literal["instance", "none"] = "instance"
    """Its normalisation."""
    ffno_encoder_mlp_ratio: PositiveFloat = 2.0
    """Expansion factor of its pointwise layers."""
    spectral_bottleneck_blocks: PositiveInt = 6
    """Blocks of the spectral bottleneck of the architectures that have one."""
    spectral_bottleneck_modes: PositiveInt = 12
    """Its Fourier modes."""
    spectral_bottleneck_share_weights: bool = True
    """Whether its blocks share their spectral weights."""
    spectral_bottleneck_gate_init: FiniteFloat = 0.1
    """Initial value of its gates."""
    spectral_bottleneck_gate_mode: Literal["shared", "per_block"] = "shared"
    """One gate for all blocks, or one each (the spectral_resnet architectures)."""

    @model_validator(mode="before")
    @classmethod
    def _from_newer_names(cls, given: Any) -> Any:
        """Fill in what the newer names say about settings that were not given."""
        values = dict(given.kwargs or {}) if isinstance(given, ArgsKwargs) else given
        if not isinstance(values, dict) or (isinstance(given, ArgsKwargs) and given.args):
            return given
        if values.get("object_layout") in tuple(LAYOUTS):
            values.setdefault("object_big", values["object_layout"] == "grouped_patches")
        if values.get("training_patch_weighting") == "central_mask":
            values.setdefault("merge", "central_mask")
        return ArgsKwargs((), values) if isinstance(given, ArgsKwargs) else values

    def __post_init__(self) -> None:
        check_object_policy(self)

    @property
    def solves_scans(self) -> bool:
        """Whether the network solves overlapping patterns together (WHOLE_SCANS)."""
        return self.architecture in WHOLE_SCANS

    @property
    def sees_probe(self) -> bool:
        """Whether the network is told the probe, and so serves scans with others."""
        return self.solves_scans or self.probe_conditioning != "none"


def check_object_policy(config: ModelConfig) -> None:
    """Refuse newer names that contradict each other or the settings that they stand for."""
    layout, canvas, weighting = config.object_layout, config.training_canvas, config.training_patch_weighting
    if layout is not None or canvas is not None:
        expected = "not given without object_layout" if layout is None else LAYOUTS[layout]
        if canvas != expected:
            raise ConfigurationError(field="training_canvas", found=canvas or "nothing", expected=expected)
        if config.object_big != (layout == "grouped_patches"):
            raise ConfigurationError(
                "it is the older name of object_layout and says the opposite",
                field="object_big",
                found=config.object_big,
                expected=f"{layout == 'grouped_patches'} for object_layout {layout!r}, or not given",
            )
    if weighting == "uniform":
        raise ConfigurationError(
            "patches of a group are never averaged without weights",
            field="training_patch_weighting",
            found="'uniform'",
            expected="'probe' (weights of the illumination) or 'central_mask'",
        )
    if weighting is not None and config.merge != WEIGHTINGS[weighting]:
        raise ConfigurationError(
            f"training_patch_weighting {weighting!r} says the opposite",
            field="merge",
            found=repr(config.merge),
            expected=f"{WEIGHTINGS[weighting]!r}, or not given",
        )


def model_from_mapping(value: Any) -> Any:
    """Let ``TrainingConfig(**asdict(config))`` give the same configuration back."""
    return ModelConfig(**value) if isinstance(value, Mapping) else value
