"""The description of a simulated scan with electrons: what ``ptycho-ray simulate --electrons`` takes."""

from __future__ import annotations

from typing import Annotated, Literal

from ptycho_ray.config.types import (
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PatternSide,
    PositiveFloat,
    PositiveInt,
    allowed,
    settings,
)
from ptycho_ray.errors import ConfigurationError

SpecimenName = Literal["SrTiO3", "MoS2", "globule"]
Element = Literal["H", "C", "N", "O", "P", "S", "Ti", "Se", "Sr", "Mo", "La", "W", "Au"]
Flip = Literal["none", "rows", "columns", "transpose"]
Oversampling = Annotated[int, allowed(lambda n: 2 <= n <= 6, "an integer from 2 to 6")]
Finer = Annotated[int, allowed(lambda n: 1 <= n <= 4, "an integer from 1 to 4")]
Side = Annotated[int, allowed(lambda n: n >= 2, "an integer of at least 2")]


@settings
class ElectronSpec:
    """A simulated 4D-STEM scan of a known specimen: multislice, frozen phonons, dose, and what a microscope gets wrong."""

    specimen: SpecimenName = "SrTiO3"
    """SrTiO3 along [001], layers of 2H-MoS2, or a globule of the light atoms of a protein."""
    thickness_angstrom: PositiveFloat = 120.0
    """Thickness of SrTiO3 (to the nearest whole cell of 3.905), diameter of the globule."""
    layers: PositiveInt = 2
    """Number of MoS2 layers."""
    slice_angstrom: PositiveFloat = 3.905
    """Thickness of a slice of the simulation (of the nearest whole number of slices)."""
    tilt_mrad: tuple[FiniteFloat, FiniteFloat] = (0.0, 0.0)
    """Tilt of the sample along rows and columns: an atom at depth z lies z * tan(tilt) further along."""
    dopant: Element | None = None
    """A foreign atom in the middle of the scan, in place of Sr, Mo or C."""
    dopant_depth_angstrom: NonNegativeFloat = 0.0
    """Depth of the foreign atom (the nearest site is taken)."""
    phonons: NonNegativeInt = 4
    """Number of frozen phonon configurations; 0 leaves all atoms at rest."""
    rms_displacement_angstrom: NonNegativeFloat | None = None
    """Thermal displacement along an axis, of all elements; by default that of each element at room temperature."""

    voltage_kV: PositiveFloat = 300.0
    """Accelerating voltage."""
    semiangle_mrad: PositiveFloat = 21.4
    """Convergence semi-angle of the probe."""
    defocus_nm: FiniteFloat = 20.0
    """Defocus at the entrance of the sample, above 0 for underfocus (the crossover lies behind the entrance)."""
    spherical_aberration_um: FiniteFloat = 0.0
    """Third-order spherical aberration C3."""
    astigmatism_nm: FiniteFloat = 0.0
    """Twofold astigmatism C12."""
    astigmatism_deg: FiniteFloat = 0.0
    """Azimuth of the astigmatism, from columns towards rows."""
    source_size_angstrom: NonNegativeFloat = 0.0
    """Width of the source at the sample (full width at half maximum of a Gaussian)."""

    N: PatternSide = 64
    """Side of a diffraction pattern in pixels."""
    angle_per_pixel_mrad: PositiveFloat = 1.3
    """Angle that a detector pixel subtends."""
    finer: Finer = 1
    """Waves are computed in a window so many times wider, and a detector pixel adds up so many by so many of their pixels."""
    oversampling: Oversampling = 2
    """Grid points of the waves for each object pixel along an axis; 3 is closer to the limit of a fine grid, and slower."""
    raster: tuple[Side, Side] = (32, 32)
    """Rows and columns of the scan."""
    step_angstrom: PositiveFloat = 0.5
    """Distance of neighbouring positions, as the microscope states it."""

    dose_e_per_A2: PositiveFloat = 1e6
    """Electrons in the incident beam per square angstrom of the scan."""
    noise: bool = True
    """Draw electrons from the Poisson distribution; otherwise patterns are exact means."""
    counts_per_electron: PositiveFloat = 1.0
    """Gain of the detector: the value that one electron adds to a pixel."""

    rotation_deg: FiniteFloat = 0.0
    """Turn of the scan against the detector: ``--rotation`` of the same value turns recorded positions into true ones."""
    flip: Flip = "none"
    """How the detector's frames are turned over when they are recorded."""
    step_scale: PositiveFloat = 1.0
    """True step over the stated one."""
    jitter_angstrom: NonNegativeFloat = 0.0
    """Random error of each position (standard deviation along an axis)."""
    drift_angstrom: tuple[FiniteFloat, FiniteFloat] = (0.0, 0.0)
    """Drift along rows and columns from the first to the last position."""
    defocus_error: FiniteFloat = 0.0
    """Relative error of the defocus that is recorded: 0.2 records 24 nm for 20 nm."""
    seed: NonNegativeInt = 0
    """Seed of the globule, phonons, positions and electrons: the same seed gives the same scan, bit for bit."""

    def __post_init__(self) -> None:
        largest = self.N / 2 * self.angle_per_pixel_mrad
        if self.semiangle_mrad > 0.95 * largest:
            raise ConfigurationError(
                field="semiangle_mrad",
                found=self.semiangle_mrad,
                expected=f"less than {0.95 * largest:.4g}, as the detector ends at {largest:.4g} mrad",
            )
        if self.dopant is not None and self.dopant_depth_angstrom > self.total_thickness_angstrom:
            raise ConfigurationError(
                field="dopant_depth_angstrom",
                found=self.dopant_depth_angstrom,
                expected=f"at most the thickness, {self.total_thickness_angstrom:.4g}",
            )

    @property
    def total_thickness_angstrom(self) -> float:
        """Thickness of the specimen, by its layers where it has some."""
        from ptycho_ray.simulation.electrons.specimens import MOS2_LAYER_DISTANCE

        return self.layers * MOS2_LAYER_DISTANCE if self.specimen == "MoS2" else self.thickness_angstrom
