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
#: Photons of a mean pixel below which the square root of a count says too little.
FEW_PHOTONS = 1.0
#: Settings that mean nothing for a thin object.
OF_SEVERAL_SLICES = (
    "thickness_angstrom", "tilt_row_mrad", "tilt_column_mrad", "tilt_start", "depth_smoothing_slices",
)  # fmt: skip


@settings
class RefinementConfig:
    """How object, probe and further unknowns are solved for, starting from any image. The defaults suit a scan with
    known positions; for inaccurate positions set ``position_start``, for a partially coherent beam ``probe_modes``.
    A ``*_start`` is the iteration from which an unknown is updated; None keeps it fixed.
    """

    method: Method = "adam"
    """'adam' updates all unknowns jointly in small batches; 'accelerated' (Nesterov) uses the whole scan in each
    step and needs no step size; 'epie' and 'rpie' are the ptychographic iterative engines; 'lsqml' finds a step
    length for each pattern by least squares; 'dm' is the relaxed difference map."""
    iterations: PositiveInt = 40
    """Number of passes over all patterns. The step sizes decay over them, so choose the number that the available
    time permits."""
    batch_size: PositiveInt | None = None
    """Patterns per update; by default as many as fit into the processor's cache (32 of 64 x 64 pixels), more on a large
    canvas."""
    batching: Literal["random", "compact", "uniform"] = "random"
    """Which patterns form a batch: random ones, neighbours, or ones spread evenly over the scan."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the step sizes change over the iterations."""
    object_step: PositiveFloat | None = None
    """Initial step size of the object. If not given: 0.06 / sqrt(slices) for adam (in transmission), 1 for the others
    (relative)."""
    probe_step: PositiveFloat | None = None
    """Initial step size of the probe. If not given: 0.05 for adam (relative to its largest amplitude), 1 for the others."""
    position_step_px: PositiveFloat = 0.3
    """Initial step size of the positions in pixels; gradient only."""
    damping: Fraction = 0.1
    """rpie, lsqml: fraction of the maximum illumination in the denominator; rpie with 1 is epie."""
    relaxation: PositiveFloat = 0.8
    """dm: relaxation, the fraction of the difference between the two projections applied in each iteration."""
    smooth_gain: NonNegativeFloat = 10.0
    """adam, epie: maximum over-relaxation factor of low spatial frequencies of the phase; 0 for off."""
    object_start: NonNegativeInt | None = 0
    """Iteration from which the object is updated."""
    probe_start: NonNegativeInt | None = 0
    """Iteration from which the probe is updated."""
    centre_start: NonNegativeInt | None = 10
    """Iteration from which the centre of the probe may move in its window. Until the object is almost right it would drift;
    then, where the object is sharp to a pixel, the patterns tell it."""
    position_start: NonNegativeInt | None = None
    """Iteration from which positions are updated."""
    position_method: Literal["newton", "gradient", "cross_correlation"] = "newton"
    """Position refinement: in every batch by a step towards the minimum of each pattern's loss, or by Adam's step along its
    gradient; or after every iteration by cross-correlation of the exit wave with the object, which can also correct
    errors of a pixel or more."""
    position_model: Literal["free", "affine"] = "free"
    """Refine every position independently, or one affine transformation of the scan."""
    position_limit_px: PositiveFloat = 8.0
    """Maximum displacement of a position."""
    probe_guess: Literal["scan", "mean_pattern"] = "scan"
    """Initial probe: that of the scan, or the square root of the mean pattern propagated back to the sample, a close
    guess in the near field."""
    probe_modes: PositiveInt | None = None
    """Incoherent modes of the probe; those of the scan if not given."""
    eigenmodes: NonNegativeInt = 0
    """Number of orthogonal modes by which the probe may vary from pattern to pattern."""
    eigenmode_start: NonNegativeInt = 5
    """Iteration from which these are updated."""
    intensity_start: NonNegativeInt | None = None
    """Iteration from which the intensity of each pattern is fitted."""
    background_start: NonNegativeInt | None = None
    """Iteration from which a background common to all patterns is fitted."""
    background_model: Literal["free", "smooth"] = "free"
    """Fit the background of every detector pixel, or one that changes slowly over the detector: that of the air, of the
    room, of dark counts. It takes much less from the image."""
    slices: PositiveInt = 1
    """Number of slices of a thick object, in the order in which the beam meets them."""
    thickness_angstrom: PositiveFloat | None = None
    """Thickness of all slices together; needs the pixel size and the wavelength of the scan."""
    slice_distance_px2: FiniteFloat = 0.0
    """In its place, for a scan without units: wavelength * distance / pixel size**2 from a slice to the next."""
    tilt_row_mrad: FiniteFloat = 0.0
    """Tilt of the sample: above zero, its columns of atoms run towards higher rows as the beam goes down."""
    tilt_column_mrad: FiniteFloat = 0.0
    """The same towards higher columns."""
    tilt_start: NonNegativeInt | None = None
    """adam: iteration from which the tilt is refined, as the slices tell it that lean; it wants depth_smoothing_slices."""
    near_field_px2: FiniteFloat | None = None
    """Near field: wavelength * distance / pixel size**2 from object to detector (effective ones); far field if not given."""
    amplitude_limit: PositiveFloat | None = None
    """Maximum amplitude of the object."""
    total_variation: NonNegativeFloat = 0.0
    """Threshold of the total-variation step that follows every iteration."""
    phase_smoothing: Fraction = 0.0
    """Fraction by which every iteration moves the phase of a pixel towards the mean of its neighbours."""
    likelihood: Literal["auto", "amplitude", "poisson"] = "auto"
    """What the loss compares: square roots of intensities, or, with adam, counts by the Poisson likelihood; 'auto' takes the
    latter for counted photons of which there is less than one a pixel on average."""
    smoothing_length_px: NonNegativeFloat = 0.0
    """adam, accelerated: prior that the object is smooth, for few electrons; details finer than 2 pi times this length are
    damped where patterns tell little of them. 'reconstruct' chooses it by patterns that take no part."""
    depth_smoothing_slices: NonNegativeFloat = 0.0
    """The same along the beam, in slices: patterns tell little of the depth."""
    prior: str = "none"
    """adam, accelerated: what objects look like, as a denoiser has learnt it, where the patterns do not tell: 'pretrained' (the
    one shipped with the package), the file or folder of 'ptycho-ray pretrain --prior', or 'none' (docs/prior.md)."""
    prior_strength: NonNegativeFloat | None = None
    """How much the prior counts beside the photons of a well-lit pixel. If not given, it is chosen by detector pixels that
    take no part; no prior is among the choices."""
    phase_object: Fraction = 0.0
    """Fraction by which every iteration moves the logarithm of the amplitude towards zero; with 1 the object is a pure
    phase."""
    probe_support_px: PositiveFloat | None = None
    """Diameter of a disc outside which the probe is zero."""
    hold_probe_power: bool = False
    """Keep the number of photons in the probe constant."""
    held_out_fraction: ValidationShare = 0.02
    """Fraction of patterns that are held out to judge the result."""
    patience: PositiveInt | None = None
    """Stop after this many checks without improvement on the held-out patterns; never if not given."""
    check_every: PositiveInt = 5
    """Iterations between two checks, pictures and checkpoints."""
    precision: Literal["single", "double"] = "single"
    """Number format."""
    memory_GB: PositiveFloat | None = None
    """Memory that the patterns may take; counts that fit as 16 bits are held so, of a file larger than that they are read again
    in every iteration, a batch ahead. If not given: half of what is free."""
    seed: NonNegativeInt = 0
    """Seed of batches, held-out patterns and new modes."""

    def __post_init__(self) -> None:
        self._check_slices()
        if self.likelihood == "poisson" and self.method != "adam":
            raise ConfigurationError(
                field="likelihood",
                found=f"poisson with {self.method}",
                expected="adam, which finds a step of its own for each pixel",
            )
        if self.tilt_start is not None and self.method != "adam":
            raise ConfigurationError(field="tilt_start", found=f"{self.tilt_start} with {self.method}", expected="adam")
        if (self.smoothing_length_px or self.depth_smoothing_slices) and self.method not in ("adam", "accelerated"):
            raise ConfigurationError(
                field="smoothing_length_px" if self.smoothing_length_px else "depth_smoothing_slices",
                found=f"a smooth object with {self.method}",
                expected="adam or accelerated, which follow the gradient of loss and prior",
                hint="phase_smoothing and total_variation go with every method",
            )
        if self.prior != "none" and (self.slices > 1 or self.method not in ("adam", "accelerated")):
            raise ConfigurationError(
                field="prior",
                found=f"{self.prior} with {self.method} and {self.slices} slices",
                expected="adam or accelerated, and one slice",
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
                hint="adam and rpie support all of these",
            )

    @property
    def adam_object_step(self) -> float:
        """``object_step``, or that of adam: slices turn together, so theirs is between that of one and its share of it."""
        return self.object_step or 0.06 / self.slices**0.5

    def uses_poisson(self, photons_a_pixel: float | None) -> bool:
        """Whether the loss is the Poisson likelihood for so many photons a pixel; None if they cannot be counted."""
        if self.likelihood == "auto":
            return self.method == "adam" and photons_a_pixel is not None and photons_a_pixel < FEW_PHOTONS
        return self.likelihood == "poisson"

    def _check_slices(self) -> None:
        given = self.thickness_angstrom is not None
        if self.slices > 1 and self.method == "lsqml":
            raise ConfigurationError(
                field="method", found="lsqml with several slices", expected="adam, accelerated, epie or rpie"
            )
        if self.slices > 1 and given == bool(self.slice_distance_px2):
            raise ConfigurationError(
                field="slice_distance_px2",
                found=f"{self.slice_distance_px2:g} and thickness_angstrom {self.thickness_angstrom}",
                expected=f"one of them for {self.slices} slices",
                hint="thickness_angstrom is that of all slices together",
            )
        for name in OF_SEVERAL_SLICES if self.slices == 1 else ():
            if getattr(self, name) != getattr(RefinementConfig, name):
                raise ConfigurationError(
                    field=name,
                    found=f"{getattr(self, name):g} with one slice",
                    expected="several slices",
                    hint="Add --slices 10, for example",
                )
