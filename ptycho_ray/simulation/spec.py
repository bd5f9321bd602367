"""A simulated scan from one description and one seed: what ``ptycho-ray simulate`` runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from ptycho_ray.config.types import (
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PatternSide,
    PositiveFloat,
    PositiveInt,
    settings,
)
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe, probe_from_file, with_photons
from ptycho_ray.simulation.scan_patterns import make_scan, step_for_overlap
from ptycho_ray.simulation.simulate import SubPixel, simulate_scan

ObjectName = Literal["lines", "grf", "dead_leaves", "siemens", "test_image", "points", "diagonals"]
ProbeName = Literal["disc", "gaussian", "zernike", "zone_plate", "default"]
ScanName = Literal["grid", "jitter", "spiral", "fermat", "random"]

DEFAULT_OVERLAP = 0.75


@settings
class SimulationSpec:
    """A simulated scan with its true object."""

    object: ObjectName = "lines"
    """Kind of object."""
    object_size: PositiveInt = 256
    """Side of the object in pixels."""
    amplitude_range: tuple[NonNegativeFloat, NonNegativeFloat] = (0.5, 1.0)
    """Lowest and highest amplitude of the object."""
    phase_range: tuple[FiniteFloat, FiniteFloat] = (-0.5, 0.5)
    """Lowest and highest phase of the object in radians."""
    N: PatternSide = 64
    """Side of a diffraction pattern in pixels."""
    probe: ProbeName = "disc"
    """Kind of probe."""
    probe_diameter_px: PositiveFloat | None = None
    """Diameter of a disc, Gaussian or Zernike probe in pixels; 3/8 of N if not given."""
    probe_file: Path | None = None
    """Take the probe from this NPZ or HDF5 file instead."""
    defocus_m: FiniteFloat = 100e-6
    """Distance from the focus (or the pinhole) of the beam to the sample, in metres."""
    energy_eV: PositiveFloat = 10_000.0
    """Photon energy."""
    pixel_size_m: PositiveFloat = 20e-9
    """Size of an object pixel in metres."""
    modes: PositiveInt = 1
    """Number of incoherent probe modes."""
    mode_weights: tuple[NonNegativeFloat, ...] | None = None
    """Relative powers of the modes; by default each has a fifth of the one before."""
    scan: ScanName = "jitter"
    """Scan pattern."""
    overlap: NonNegativeFloat | None = None
    """Linear overlap of neighbouring probes, 0 up to below 1; 0.75 if neither step_px nor n_patterns is given."""
    step_px: PositiveFloat | None = None
    """Distance of neighbouring positions in pixels, instead of an overlap."""
    n_patterns: PositiveInt | None = None
    """Number of patterns, spread over the object, instead of an overlap."""
    position_error_px: NonNegativeFloat = 0.0
    """Standard deviation, along each axis, of the error of the recorded positions in pixels."""
    photons: PositiveFloat = 1e6
    """Photons in the incident beam per pattern (before absorption in the object)."""
    noise: bool = True
    """Draw photons from the Poisson distribution; otherwise patterns are exact means."""
    sub_pixel: SubPixel = "fourier"
    """Treatment of sub-pixel positions: shift the probe exactly, interpolate the object, or round."""
    seed: NonNegativeInt = 0
    """Seed of object, positions and photons: the same seed gives the same scan, bit for bit."""
    probe_seed: NonNegativeInt = 0
    """Seed of the probe, separate from --seed so that scans of several objects can share one probe."""

    def __post_init__(self) -> None:
        if self.object_size < self.N + 2:
            raise ConfigurationError(
                field="object_size", found=self.object_size, expected=f"at least N + 2 = {self.N + 2}"
            )
        given = [name for name in ("overlap", "step_px", "n_patterns") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigurationError(field=given[0], found=f"together with {given[1]}", expected="one of them")
        if self.overlap is not None and self.overlap >= 1:
            raise ConfigurationError(field="overlap", found=self.overlap, expected="0 up to below 1")
        for name in ("amplitude_range", "phase_range"):
            low, high = getattr(self, name)
            if low > high:
                raise ConfigurationError(field=name, found=(low, high), expected="(low, high) with low <= high")
        if self.probe_diameter_px is not None and not 1 <= self.probe_diameter_px <= self.N:
            raise ConfigurationError(
                field="probe_diameter_px", found=self.probe_diameter_px, expected=f"1 to N = {self.N}"
            )
        if self.probe_diameter_px is not None and self.probe in ("zone_plate", "default"):
            raise ConfigurationError(
                field="probe_diameter_px",
                found=f"a diameter for {self.probe!r}",
                expected="a disc, gaussian or zernike probe",
            )
        if self.mode_weights is not None and len(self.mode_weights) != self.modes:
            raise ConfigurationError(
                field="mode_weights",
                found=f"{len(self.mode_weights)} numbers",
                expected=f"one for each of {self.modes} modes",
            )


def simulate(spec: SimulationSpec) -> RawData:
    """Simulate the scan that ``spec`` describes; ``RawData.to_file`` writes it.

    The object, the positions, their errors and the noise draw from independent streams of ``seed`` and the probe from
    ``probe_seed``, so that changing one of them (the dose, say) leaves the others as they were. The description is in
    ``metadata['simulation']``, the photons also in ``metadata['nphotons']``; with position errors the true positions
    (row, column) are in ``metadata['true_positions_px']``.
    """
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence(spec.seed).spawn(4)]
    for_object, for_scan, for_errors, for_noise = streams
    shape = (spec.object_size, spec.object_size)
    sample = make_object(
        spec.object, shape, for_object, amplitude_range=spec.amplitude_range, phase_range=spec.phase_range
    )
    if spec.probe_file is not None:
        probe = with_photons(probe_from_file(spec.probe_file, spec.N), spec.photons)
    else:
        probe = make_probe(
            spec.probe,
            spec.N,
            np.random.default_rng(spec.probe_seed),
            photons=spec.photons,
            modes=spec.modes,
            weights=spec.mode_weights,
            defocus_m=spec.defocus_m,
            energy_eV=spec.energy_eV,
            pixel_size_m=spec.pixel_size_m,
            **({} if spec.probe_diameter_px is None else {"diameter_px": spec.probe_diameter_px}),
        )
    step = spec.step_px
    if step is None and spec.n_patterns is None:
        step = step_for_overlap(probe, DEFAULT_OVERLAP if spec.overlap is None else spec.overlap)
    positions = make_scan(spec.scan, shape, spec.N, for_scan, step_px=step, n_patterns=spec.n_patterns)
    metadata: dict[str, object] = {"simulation": _plain(spec), "nphotons": spec.photons}
    recorded = None
    if spec.position_error_px > 0:
        recorded = positions + for_errors.normal(0, spec.position_error_px, positions.shape)
        metadata["true_positions_px"] = positions.tolist()
    return simulate_scan(
        sample,
        probe,
        positions,
        rng=for_noise,
        noise=spec.noise,
        sub_pixel=spec.sub_pixel,
        recorded_positions_n2=recorded,
        pixel_size_m=spec.pixel_size_m,
        energy_eV=spec.energy_eV,
        metadata=metadata,
    )


def _plain(spec: SimulationSpec) -> dict[str, object]:
    """The settings as JSON-ready values."""
    values = dataclasses.asdict(spec)
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
