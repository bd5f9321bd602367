"""Corrections of what a file may state wrongly about the experiment: defocus of the probe, positions, pixel size, photons.

Pure functions, and :func:`apply_corrections`, which applies the settings of a configuration to a scan before it is
grouped. A trained model carries these settings in its bundle, so a scan that it reconstructs is corrected in the same way.

Positions are [n, 2] (row, column) in object pixels, probes [P, N, N] modes.
"""

from __future__ import annotations

import copy
import math

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.config import TrainingConfig
from ptycho_ray.data.position_maps import axes_matrix, position_matrix, transformed_positions
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.physics.optics import fresnel_propagate, propagate, tilted_modes


def with_modes(probe: NDArray, n_modes: int, generator: np.random.Generator) -> NDArray[np.complex128]:
    """The probe with ``n_modes`` modes and the same photons: its first ones, or new ones orthogonal to its first."""
    energy = float(np.sum(np.abs(probe.astype(np.complex128)) ** 2))
    modes: NDArray = probe[:n_modes] if n_modes <= len(probe) else tilted_modes(probe[0], n_modes, generator)
    made: NDArray[np.complex128] = modes.astype(np.complex128)
    return made * math.sqrt(energy / float(np.sum(np.abs(made) ** 2)))


def apply_corrections(raw: RawData, config: TrainingConfig) -> RawData:
    """The scan with the corrections of the configuration; ``raw`` itself if there are none.

    Raises:
        ConfigurationError: a length in metres for a scan that states no pixel size or no energy.
    """
    scale, pixel = config.position_scale, config.object_pixel_size_m
    matrix = position_matrix(scale, config.position_rotation_rad, config.position_shear)
    matrix = matrix @ axes_matrix(config.position_axes)
    if pixel is not None:
        _require(raw, "object_pixel_size_m", pixel, "pixel_size_m")
        assert raw.pixel_size_m is not None
        matrix = matrix * (raw.pixel_size_m / pixel)
    moves = not np.array_equal(matrix, np.eye(2))
    modes = config.probe_modes if config.probe_modes not in (None, len(raw.probe)) else None
    if not (moves or pixel or modes or config.probe_defocus_m or config.probe_defocus_px2):
        return raw
    made = copy.copy(raw)
    if pixel is not None:
        made.pixel_size_m = pixel
    if moves:
        made.positions_px = transformed_positions(raw.positions_px, matrix)
        made.nominal_positions_px = transformed_positions(raw.nominal_positions_px, matrix)
    probe: NDArray = raw.probe
    if modes:
        probe = with_modes(probe, modes, np.random.default_rng((config.seed, 2)))
    if config.probe_defocus_px2:
        probe = fresnel_propagate(probe, config.probe_defocus_px2)
    if config.probe_defocus_m:
        _require(raw, "probe_defocus_m", config.probe_defocus_m, "pixel_size_m", "energy_eV")
        assert made.pixel_size_m is not None
        assert made.energy_eV is not None
        probe = propagate(
            probe,
            config.probe_defocus_m,
            energy_eV=made.energy_eV,
            pixel_size_m=made.pixel_size_m,
            electrons=made.electrons,
        )
    made.probe = probe.astype(np.complex64)
    return made


def _require(raw: RawData, field: str, found: float, *facts: str) -> None:
    missing = [fact for fact in facts if getattr(raw, fact) is None]
    if missing:
        raise ConfigurationError(
            f"{raw.source or 'the scan'} states no {' and no '.join(missing)}",
            field=field,
            found=found,
            expected="a scan that states them",
            hint="probe_defocus_px2 and position_scale need neither of them" if "pixel_size_m" in missing else None,
        )
