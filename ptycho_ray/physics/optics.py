"""The beam between the lens and the sample: wavelength, free-space propagation, and how wide a probe is. numpy only.

**Sign.** A wave that travels along +z is written ``exp(+i k z)``, so a distance ``z`` multiplies the Fourier transform of a
field by ``exp(i z (sqrt(k**2 - q**2) - k))``, paraxially ``exp(-i pi lambda z f**2)`` with the spatial frequency f = q / 2 pi
(Goodman, Introduction to Fourier Optics, chapter 3). This holds everywhere in the package: defocus of a probe, near-field
scans, slices of a thick object. Distances without units are ``distance_px2 = wavelength * distance / pixel size**2``.

Probes are modes [P, N, N], positions [n, 2] (row, column) in object pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError

ComplexArray = NDArray[np.complex128]
#: h c, exact since 2019.
PLANCK_TIMES_LIGHT_EV_M = 1.2398419843320026e-6
ELECTRON_REST_EV = 510998.95


def wavelength_m(energy_eV: float) -> float:
    """Wavelength of a photon: h c / E."""
    return PLANCK_TIMES_LIGHT_EV_M / energy_eV


def electron_wavelength_m(energy_eV: float) -> float:
    """Wavelength of an electron of a kinetic energy, with the relativistic correction: h c / sqrt(E (E + 2 m c**2))."""
    return PLANCK_TIMES_LIGHT_EV_M / math.sqrt(energy_eV * (energy_eV + 2 * ELECTRON_REST_EV))


def beam_wavelength_m(energy_eV: float | None, *, electrons: bool | None) -> float | None:
    """Wavelength of photons or of electrons; None where the energy is not known."""
    if not energy_eV:
        return None
    return electron_wavelength_m(energy_eV) if electrons else wavelength_m(energy_eV)


def beam_energy_eV(wavelength_m: float, *, electrons: bool | None) -> float:
    """Energy of photons or of electrons of a wavelength: the inverse of :func:`beam_wavelength_m`."""
    momentum = PLANCK_TIMES_LIGHT_EV_M / wavelength_m
    return momentum**2 / (math.hypot(momentum, ELECTRON_REST_EV) + ELECTRON_REST_EV) if electrons else momentum


def propagate(
    field: NDArray[Any], distance_m: float, *, energy_eV: float, pixel_size_m: float, electrons: bool = False
) -> ComplexArray:
    """Carry a field [..., N, N] of photons, or of electrons, over ``distance_m`` in free space (angular spectrum; the energy is
    kept, edges are periodic).
    """
    frequencies = [np.fft.fftfreq(side, pixel_size_m) for side in field.shape[-2:]]
    k = 1 / (electron_wavelength_m(energy_eV) if electrons else wavelength_m(energy_eV))
    squared = frequencies[0][:, None] ** 2 + frequencies[1][None, :] ** 2
    phase = 2 * np.pi * distance_m * (np.sqrt(np.maximum(k**2 - squared, 0)) - k)
    return np.fft.ifft2(np.fft.fft2(field) * np.exp(1j * phase))


def fresnel_transfer(
    shape: tuple[int, int], distance_px2: float, shift_px: tuple[float, float] = (0.0, 0.0)
) -> ComplexArray:
    """Factors [H, W] on the Fourier transform of a field (zero frequency at the corner) by which it travels, paraxially.

    ``shift_px``: (row, column), how far the window in which the field is looked at moves on the way.
    """
    rows, columns = (
        np.exp(1j * np.pi * (2 * shift - distance_px2 * frequency) * frequency)
        for frequency, shift in zip(map(np.fft.fftfreq, shape), shift_px, strict=True)
    )
    return rows[:, None] * columns


def fresnel_propagate(field: NDArray[Any], distance_px2: float) -> ComplexArray:
    """Paraxial form of :func:`propagate` for a field [..., H, W] that states neither energy nor pixel size.

    A distance of N spreads the highest frequency over half the window. The energy is kept, edges are periodic.
    """
    height, width = field.shape[-2:]
    return np.fft.ifft2(np.fft.fft2(field) * fresnel_transfer((height, width), distance_px2))


def probe_diameter_px(probe: NDArray[Any]) -> float:
    """Diameter of the circle about the centroid of the intensity that holds 90 % of a probe's [P, N, N] photons.

    This is what "probe diameter" means throughout. A uniform disc of diameter D has 0.95 D.
    """
    intensity = np.sum(np.abs(probe) ** 2, axis=0, dtype=np.float64)
    intensity /= intensity.sum()
    rows, columns = np.indices(intensity.shape)
    radius = np.hypot(rows - np.sum(rows * intensity), columns - np.sum(columns * intensity)).ravel()
    order = np.argsort(radius)
    held = np.cumsum(intensity.ravel()[order])
    return 2 * float(radius[order][np.searchsorted(held, 0.9)])


def linear_overlap(positions_px: NDArray[np.float64], diameter_px: float) -> float:
    """1 - (median distance of a position from its nearest neighbour) / (probe diameter); negative where probes do not touch."""
    from scipy.spatial import cKDTree

    nearest = cKDTree(positions_px).query(positions_px, k=2)[0][:, 1]
    return 1.0 - float(np.median(nearest)) / diameter_px


def tilted_modes(
    primary: NDArray[Any], n_modes: int, rng: np.random.Generator, weights: Sequence[float] | None = None
) -> ComplexArray:
    """``n_modes`` mutually orthogonal modes [P, N, N] of unit total energy, the first proportional to ``primary`` [N,
    N].

    The others are the primary under random tilts (linear phase ramps of up to pi over the probe), orthonormalised in order.
    ``weights`` are relative shares of the energy; by default each mode has a fifth of the one before.
    """
    if n_modes < 1:
        raise InputError(field="modes", found=n_modes, expected="1 or more")
    shares = np.array([0.2**k for k in range(n_modes)] if weights is None else weights, dtype=np.float64)
    if len(shares) != n_modes or np.any(shares < 0) or shares.sum() == 0:
        raise InputError(field="mode weights", found=weights, expected=f"{n_modes} numbers of 0 or more")
    N = primary.shape[-1]
    axis = (np.arange(N) - N // 2) / probe_diameter_px(primary[None])
    candidates = [primary.astype(np.complex128)]
    for _ in range(n_modes - 1):
        row, column = rng.uniform(-np.pi, np.pi, 2)
        candidates.append(primary * np.exp(1j * (row * axis[:, None] + column * axis[None, :])))
    basis, upper = np.linalg.qr(np.stack([mode.ravel() for mode in candidates], axis=1))
    basis = basis * np.exp(1j * np.angle(np.diag(upper)))
    return basis.T.reshape(n_modes, N, N) * np.sqrt(shares / shares.sum())[:, None, None]
