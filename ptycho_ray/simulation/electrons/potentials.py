"""The phase that each slice of a specimen gives to the electrons, summed in Fourier space. numpy only.

A projected potential is a sum over atoms of one factor of q times exp(-2 pi i q r): on a grid that is periodic, the sum over
the atoms of an element is one product of two matrices, exact for any position. Nothing is interpolated or cut off in space.

Legend: S slices, H and W the grid, lengths in angstrom.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.simulation.electrons.scattering_factors import electron_scattering_factor, phase_of_scattering_factor
from ptycho_ray.simulation.electrons.specimens import Specimen

#: Share of the highest frequency of the grid that waves and transmissions keep along each axis: their product does not fold
#: back into it. A square and not a circle, as the detector is one.
BAND_LIMIT = 2 / 3


def within_band(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The frequencies [H, W] (zero at the corner) within the band limit."""
    rows, columns = (np.fft.fftfreq(side) for side in shape)
    kept: NDArray[np.bool_] = np.maximum(abs(rows[:, None]), abs(columns[None, :])) <= BAND_LIMIT / 2
    return kept


def slice_of_atoms(specimen: Specimen, slices: int) -> NDArray[np.int64]:
    """The slice [atoms] in which each atom lies, 0 first in the beam; one that has left the specimen belongs to the nearest."""
    places = np.floor(specimen.positions[:, 0] * slices / specimen.thickness).astype(np.int64)
    return np.clip(places, 0, slices - 1)


def slice_phases(
    specimen: Specimen, slices: int, shape: tuple[int, int], pixel: float, energy_eV: float
) -> NDArray[np.float32]:
    """Phases [S, H, W] in radian of equally thick slices on a periodic grid with a ``pixel`` in angstrom.

    The centre of grid point (0, 0) is at row and column 0. All frequencies of the grid are kept: to limit the transmission
    alone brings patterns about three times closer to those of a finer grid than to limit the potential, too.
    """
    rows, columns = np.fft.fftfreq(shape[0], pixel), np.fft.rfftfreq(shape[1], pixel)
    q = np.hypot(rows[:, None], columns[None, :])
    strength = phase_of_scattering_factor(energy_eV) / pixel**2
    elements = [str(symbol) for symbol in np.unique(specimen.symbols)]
    factors = {symbol: strength * electron_scattering_factor(symbol, q) for symbol in elements}
    in_slice = slice_of_atoms(specimen, slices)
    phases = np.empty((slices, *shape), dtype=np.float32)
    for number in range(slices):
        total = np.zeros(q.shape, dtype=np.complex128)
        for symbol, factor in factors.items():
            atoms = specimen.positions[(in_slice == number) & (specimen.symbols == symbol)]
            if len(atoms):
                along_rows = np.exp(-2j * np.pi * rows[:, None] * atoms[:, 1])
                along_columns = np.exp(-2j * np.pi * atoms[:, 2, None] * columns)
                total += factor * (along_rows @ along_columns)
        phases[number] = np.fft.irfft2(total, s=shape)
    return phases


def transmissions(phases: NDArray[np.float32]) -> NDArray[np.complex64]:
    """exp(i phase) [S, H, W] within the band limit."""
    made = np.empty(phases.shape, dtype=np.complex64)
    kept = within_band(phases.shape[1:])
    for number, phase in enumerate(phases):
        made[number] = np.fft.ifft2(np.fft.fft2(np.exp(1j * phase.astype(np.float64))) * kept)
    return made


def resampled(image: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """``image`` [..., H, W] on a coarser grid [..., h, w] of the same extent, by leaving out its higher frequencies."""
    spectrum = np.fft.fft2(image.astype(np.float64))
    taken = [np.round(np.fft.fftfreq(side) * side).astype(int) for side in shape]
    kept = spectrum[..., taken[0][:, None], taken[1][None, :]]
    scale = np.prod(shape) / np.prod(image.shape[-2:])
    return np.fft.ifft2(kept * scale).real.astype(np.float32)
