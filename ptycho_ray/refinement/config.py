"""The settings of a refinement."""

from __future__ import annotations

from typing import Literal

from ptycho_ray.config.types import (
    FiniteFloat,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationShare,
    settings,
)
from ptycho_ray.errors import ConfigurationError

Method = Literal["adam", "accelerated", "epie", "rpie", "lsqml", "dm"]


@settings
class RefinementConfig:
    """How the object, the probe and what else is wrong are solved for, starting from any image.

    The defaults suit a scan with known positions; for positions that may be off set ``position_start``, for a partly coherent
    beam ``probe_modes``. A ``*_start`` is the iteration at which an unknown begins to move; None keeps it as it is.
    """

    method: Method = "adam"
    """'adam' moves everything jointly in small batches; 'accelerated' takes the whole scan a step (Nesterov), without any rate;
    'epie' and 'rpie' are the ptychographic iterative engines; 'lsqml' finds a step for each pattern by least squares;
    'dm' is the relaxed difference map."""
    iterations: PositiveInt = 40
    """How many times all patterns are gone through. The steps decay over them, so choose what there is time for."""
    batch_size: PositiveInt | None = None
    """Patterns of an update; as many as stay in the processor's cache if not given (32 of 64 x 64 pixels)."""
    batching: Literal["random", "compact", "uniform"] = "random"
    """Which patterns make a batch: drawn at random, neighbours of each other, or spread evenly over the scan."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the steps change over the iterations."""
    object_step: PositiveFloat | None = None
    """First step of the object. If not given: 0.06 for adam (in transmission), 1 for the others (relative)."""
    probe_step: PositiveFloat | None = None
    """First step of the probe. If not given: 0.05 for adam (relative to its largest amplitude), 1 for the others."""
    position_step_px: PositiveFloat = 0.3
    """First step of a position in pixels; gradient only."""
    damping: Fraction = 0.1
    """rpie, lsqml: share of the largest illumination in the denominator; rpie with 1 is epie."""
    relaxation: PositiveFloat = 0.8
    """dm: how far each iteration moves towards the difference of the two projections."""
    smooth_gain: NonNegativeFloat = 10.0
    """adam, epie: how many times faster than the patterns force it to the smooth part of the phase moves; 0 for off."""
    object_start: NonNegativeInt | None = 0
    """Iteration at which the object begins to move."""
    probe_start: NonNegativeInt | None = 0
    """Iteration at which the probe begins to move."""
    position_start: NonNegativeInt | None = None
    """Iteration at which positions begin to move."""
    position_method: Literal["gradient", "cross_correlation"] = "gradient"
    """How they move: by the gradient of the loss in every batch, or after every iteration to where the object fits the exit
    wave best, which also finds its way over a pixel or more."""
    position_model: Literal["free", "affine"] = "free"
    """Every position moves on its own, or all by one affine map of the scan."""
    position_limit_px: PositiveFloat = 8.0
    """No position moves farther than that."""
    probe_guess: Literal["scan", "mean_pattern"] = "scan"
    """Where the probe begins: that of the scan, or the root of the mean pattern carried back to the sample, which is close in
    the near field."""
    probe_modes: PositiveInt | None = None
    """Incoherent modes of the probe; those of the scan if not given."""
    eigenmodes: NonNegativeInt = 0
    """Orthogonal modes by which the probe may vary from pattern to pattern."""
    eigenmode_start: NonNegativeInt = 5
    """Iteration at which these begin to move."""
    intensity_start: NonNegativeInt | None = None
    """Iteration at which the intensity of each pattern begins to follow the data."""
    background_start: NonNegativeInt | None = None
    """Iteration at which a background common to all patterns begins to be fitted."""
    slices: PositiveInt = 1
    """Slices of a thick object."""
    slice_distance_px2: FiniteFloat = 0.0
    """From slice to slice: wavelength * distance / pixel size**2."""
    near_field_px2: FiniteFloat | None = None
    """Near field: wavelength * distance / pixel size**2 from object to detector (effective ones); far field if not given."""
    amplitude_limit: PositiveFloat | None = None
    """Largest amplitude of the object."""
    total_variation: NonNegativeFloat = 0.0
    """Threshold of the total-variation step that follows every iteration."""
    phase_smoothing: Fraction = 0.0
    """Share by which every iteration moves the phase towards the mean of its neighbours."""
    probe_support_px: PositiveFloat | None = None
    """Diameter of a disc outside which the probe is zero."""
    hold_probe_power: bool = False
    """Keep the photons of the probe as they are in the beginning."""
    held_out_fraction: ValidationShare = 0.02
    """Share of patterns that take no part and judge the result."""
    patience: PositiveInt | None = None
    """Stop after that many checks in which the held-out patterns were explained no better; never if not given."""
    check_every: PositiveInt = 5
    """Iterations between two checks, pictures and checkpoints."""
    precision: Literal["single", "double"] = "single"
    """Number format."""
    seed: NonNegativeInt = 0
    """Seed of batches, held-out patterns and new modes."""

    def __post_init__(self) -> None:
        if self.slices > 1 and not self.slice_distance_px2:
            raise ConfigurationError(
                field="slice_distance_px2", found=self.slice_distance_px2, expected="a distance for several slices"
            )
        if self.slices > 1 and self.position_method == "cross_correlation":
            raise ConfigurationError(
                field="position_method", found="cross_correlation with several slices", expected="gradient"
            )
        if self.method == "dm" and (self.slices > 1 or self.eigenmodes or self.position_start is not None):
            raise ConfigurationError(
                field="method",
                found="dm with slices, eigenmodes or positions",
                expected="dm for a thin object at known positions",
                hint="adam, lsqml and rpie can do all",
            )
