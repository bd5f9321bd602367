"""Diffraction of a focused beam by the slices of a specimen, position by position. numpy and scipy only.

The wave meets slice 0 first: it is multiplied by the slice's transmission and then travels to the next one by the sign of
``physics/optics.py``, exp(-i pi wavelength z f**2). Behind the last slice comes the far field. The probe is the one at slice 0.

Legend: P incoherent modes, M side of the window of the waves, N side of a pattern, S slices, H and W the grid of the specimen.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import scipy.fft
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ptycho_ray.errors import InputError
from ptycho_ray.physics.optics import fresnel_transfer
from ptycho_ray.simulation.electrons.potentials import within_band

WAVES_AT_ONCE = 16


def multislice(
    probe: NDArray[np.complex64], transmissions: Iterable[NDArray[np.complex64]], distance_px2: float
) -> NDArray[np.complex64]:
    """Spectra [n, M, M] (zero frequency at the corner, orthonormal) of waves ``probe`` [n, M, M] behind slices of that shape.

    ``distance_px2`` is wavelength * distance of the slices / pixel**2. The two-thirds band limit is kept.
    """
    side = probe.shape[-1]
    kept = within_band((side, side))
    travel = (fresnel_transfer((side, side), distance_px2) * kept).astype(np.complex64)
    wave = probe
    for number, transmission in enumerate(transmissions):
        if number:
            spectrum = scipy.fft.fft2(wave, overwrite_x=True)
            spectrum *= travel
            wave = scipy.fft.ifft2(spectrum, overwrite_x=True)
        wave = wave * transmission
    return scipy.fft.fft2(wave, norm="ortho") * kept


def diffraction_of_positions(
    transmissions: NDArray[np.complex64],
    probe: NDArray[np.complex64],
    positions: NDArray[np.float64],
    distance_px2: float,
    *,
    N: int,
    finer: int = 1,
) -> NDArray[np.float64]:
    """Patterns [n, N, N], zero frequency at N // 2, of the probe modes [P, M, M] at ``positions`` [n, 2] in grid pixels.

    The pattern of a probe of unit energy adds up to the share of the electrons that meet the detector. The probe's pixel M // 2
    lies on the position; fractions of a pixel move the probe in Fourier space. A detector pixel adds up ``finer`` pixels of the
    wave's spectrum along each axis.

    Raises:
        InputError: a window that leaves the grid, or a detector larger than the spectrum.
    """
    M = probe.shape[-1]
    nearest = np.floor(positions + 0.5)
    corners = nearest.astype(np.int64) - M // 2
    if corners.min() < 0 or np.any(corners + M > transmissions.shape[1:]):
        raise InputError(field="positions", found="a window that leaves the specimen", expected="windows inside")
    gather = _detector(M, N, finer)
    turns = np.exp(-2j * np.pi * np.fft.fftfreq(M) * (positions - nearest)[:, :, None])
    spectra = np.fft.fft2(probe)
    patterns = np.zeros((len(positions), N, N))
    at_once = max(1, WAVES_AT_ONCE * 128**2 // M**2)
    for start in range(0, len(positions), at_once):
        some = range(start, min(start + at_once, len(positions)))
        rows, columns = corners[some.start : some.stop].T
        ramps = turns[some.start : some.stop, 0, :, None] * turns[some.start : some.stop, 1, None, :]
        for mode in spectra:
            moved = np.fft.ifft2(mode * ramps).astype(np.complex64)
            windows = (sliding_window_view(slice_, (M, M))[rows, columns] for slice_ in transmissions)
            intensity = np.abs(multislice(moved, windows, distance_px2)).astype(np.float64) ** 2
            patterns[some.start : some.stop] += gather @ scipy.fft.fftshift(intensity, axes=(1, 2)) @ gather.T
    return patterns


def _detector(M: int, N: int, finer: int) -> NDArray[np.float64]:
    """Shares [N, M] with which the pixels of a spectrum fall on those of the detector, along one axis.

    Where a detector pixel covers an even number of pixels, those at its edges are shared with its neighbours.
    """
    if N * finer > M:
        raise InputError(field="N", found=f"{N} detector pixels", expected=f"at most {M // finer} of the spectrum")
    distance = np.abs((np.arange(M) - M // 2)[None, :] - finer * (np.arange(N) - N // 2)[:, None])
    shares: NDArray[np.float64] = np.clip(finer / 2 + 0.5 - distance, 0, 1)
    return shares


def modes_of_source(probe: NDArray[np.complex128], width_px: float, *, held: float = 0.99) -> NDArray[np.complex64]:
    """The incoherent modes [P, M, M] of a ``probe`` [M, M] whose place has a standard deviation ``width_px`` along an axis.

    They are the principal components of shifted probes, as many as hold ``held`` of the energy, with all of it.
    """
    if width_px == 0:
        return probe[None].astype(np.complex64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    M = probe.shape[-1]
    shares = weights / weights.sum()
    ramps = np.exp(-2j * np.pi * np.fft.fftfreq(M) * width_px * nodes[:, None]) * np.sqrt(shares)[:, None]
    stack = np.fft.ifft2(np.fft.fft2(probe) * ramps[:, None, :, None] * ramps[None, :, None, :]).reshape(-1, M * M)
    energies, vectors = np.linalg.eigh(stack @ stack.conj().T)
    energies, vectors = energies[::-1], vectors[:, ::-1]
    total = energies.sum()
    count = int(np.searchsorted(np.cumsum(energies) / total, held)) + 1
    modes = (vectors[:, :count].conj().T @ stack).reshape(count, M, M)
    return (modes * np.sqrt(total / energies[:count].sum())).astype(np.complex64)
