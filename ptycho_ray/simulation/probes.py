"""Simulated probes: incoherent modes [P, N, N], complex64, whose summed intensity is the photons of one pattern.

A maker returns one complex mode [N, N] of any scale, centred on pixel N//2 (the zone plate and the discs are
soft-edged, so that they stay band-limited); ``make_probe`` defocuses it, adds further modes and gives it the photons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ptycho_ray.data.contents import default_max_bytes
from ptycho_ray.data.hdf5 import open_hdf5
from ptycho_ray.data.npz import NpzFile
from ptycho_ray.errors import InputError
from ptycho_ray.files import require_file
from ptycho_ray.physics.optics import propagate, tilted_modes, wavelength_m

ComplexArray = NDArray[np.complex128]
ENERGY_EV = 10_000.0
PIXEL_SIZE_M = 20e-9
PROBE_KEYS = ("probe", "probeGuess")


def _radius(N: int) -> NDArray[np.float64]:
    axis = np.arange(N) - N // 2
    return np.hypot(axis[:, None], axis[None, :])


# --- kinds ---------------------------------------------------------------------------------------------------------


def disc(N: int, rng: np.random.Generator, *, diameter_px: float | None = None, edge_px: float = 1.0) -> ComplexArray:
    """A pinhole of ``diameter_px`` (3/8 of N by default) with an edge blurred by ``edge_px``."""
    hole = _checked_diameter(diameter_px, N) / 2 - _radius(N)
    return gaussian_filter(np.clip(0.5 + hole, 0, 1), edge_px).astype(np.complex128)


def gaussian(N: int, rng: np.random.Generator, *, diameter_px: float | None = None) -> ComplexArray:
    """A Gaussian whose intensity falls to exp(-2) at ``diameter_px / 2`` (3/8 of N by default)."""
    return np.exp(-((2 * _radius(N) / _checked_diameter(diameter_px, N)) ** 2)).astype(np.complex128)


def zernike(
    N: int,
    rng: np.random.Generator,
    *,
    diameter_px: float | None = None,
    edge_px: float = 1.0,
    order: int = 4,
    rms_rad: float = 1.0,
) -> ComplexArray:
    """A soft disc with random aberrations: Zernike polynomials of radial order 2 to ``order``, ``rms_rad`` over the
    disc.
    """
    if order < 2:
        raise InputError(field="order", found=order, expected="2 or more")
    diameter = _checked_diameter(diameter_px, N)
    axis = (np.arange(N) - N // 2) / (diameter / 2)
    radius, angle = np.hypot(axis[:, None], axis[None, :]), np.arctan2(axis[:, None], axis[None, :])
    phase = np.zeros((N, N))
    for n in range(2, order + 1):
        for m in range(-n, n + 1, 2):
            phase += rng.standard_normal() * zernike_polynomial(n, m, np.minimum(radius, 1.0), angle)
    inside = radius <= 1
    phase *= rms_rad / phase[inside].std()
    return disc(N, rng, diameter_px=diameter, edge_px=edge_px) * np.exp(1j * phase)


def zernike_polynomial(n: int, m: int, radius: NDArray[np.float64], angle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zernike polynomial of radial order n and azimuthal order m, of unit rms over the unit disc (Noll, JOSA 66,
    1976).
    """
    order = abs(m)
    radial = np.zeros_like(radius)
    for k in range((n - order) // 2 + 1):
        divisor = math.factorial(k) * math.factorial((n + order) // 2 - k) * math.factorial((n - order) // 2 - k)
        radial += (-1) ** k * math.factorial(n - k) / divisor * radius ** (n - 2 * k)
    if m == 0:
        return math.sqrt(n + 1) * radial
    return math.sqrt(2 * (n + 1)) * radial * (np.cos(order * angle) if m > 0 else np.sin(order * angle))


def zone_plate(
    N: int,
    rng: np.random.Generator,
    *,
    outer_zone_width_m: float = 60e-9,
    central_stop: float = 0.2,
    defocus_m: float = 0.0,
    energy_eV: float = ENERGY_EV,
    pixel_size_m: float = PIXEL_SIZE_M,
) -> ComplexArray:
    """First-order focus of a Fresnel zone plate, ``defocus_m`` behind it.

    The pupil in spatial frequency is a ring from ``central_stop`` (a fraction of the diameter) to the numerical
    aperture 1 / (2 outer zone width); the Fresnel phase pi lambda z f^2 is the defocus. Raises InputError when the
    pixel is too coarse for the aperture or the defocused beam wider than 3/4 of the window.
    """
    aperture = 1 / (2 * outer_zone_width_m)
    if not aperture * pixel_size_m < 0.45:
        raise InputError(
            field="outer_zone_width_m",
            found=outer_zone_width_m,
            expected=f"more than {pixel_size_m / 0.9:.3g} (1.1 pixels)",
        )
    beam_px = 2 * abs(defocus_m) * wavelength_m(energy_eV) * aperture / pixel_size_m
    if beam_px > 0.75 * N:
        raise InputError(
            field="defocus_m",
            found=f"{defocus_m} (a beam of {beam_px:.0f} pixels)",
            expected=f"a beam within {0.75 * N:.0f} of the {N} pixels",
        )
    frequency = _radius(N) / (N * pixel_size_m)
    step = 1 / (N * pixel_size_m)
    ring = np.clip(0.5 + (aperture - frequency) / step, 0, 1)
    if central_stop > 0:
        ring *= np.clip(0.5 + (frequency - central_stop * aperture) / step, 0, 1)
    pupil = ring * np.exp(-1j * np.pi * wavelength_m(energy_eV) * defocus_m * frequency**2)
    return np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(pupil)))


def default(N: int, rng: np.random.Generator, *, scale: float = 0.7) -> ComplexArray:
    """The PtychoPINN chain's default probe: a product of Gaussians (std N / (scale pi^2)) cut at 1/2, blurred by 1
    px.
    """
    std = N / (scale * np.pi**2)
    profile = np.exp(-((np.arange(N) - (N - 1) / 2) ** 2) / (2 * std**2))
    profile /= profile.max()
    return (gaussian_filter((np.outer(profile, profile) > 0.5) * 1.0, 1.0) + 1e-9).astype(np.complex128)


PROBES: dict[str, Callable[..., ComplexArray]] = {
    "disc": disc,
    "gaussian": gaussian,
    "zernike": zernike,
    "zone_plate": zone_plate,
    "default": default,
}


def _checked_diameter(diameter_px: float | None, N: int) -> float:
    diameter = 3 * N / 8 if diameter_px is None else diameter_px
    if not 1 <= diameter <= N:
        raise InputError(field="probe diameter", found=diameter_px, expected=f"1 to N = {N} pixels")
    return diameter


# --- photons, files -----------------------------------------------------------------------------------------


def make_probe(
    name: str,
    N: int,
    rng: np.random.Generator,
    *,
    photons: float = 1.0,
    modes: int = 1,
    weights: Sequence[float] | None = None,
    defocus_m: float = 0.0,
    energy_eV: float = ENERGY_EV,
    pixel_size_m: float = PIXEL_SIZE_M,
    **settings: Any,
) -> NDArray[np.complex64]:
    """The probe kind ``name`` (a key of ``PROBES``) with ``modes`` orthogonal modes and ``photons`` in their sum.

    ``weights`` are the modes' shares of the photons (see ``tilted_modes``). ``settings`` go to the maker.
    """
    if name not in PROBES:
        raise InputError(field="probe", found=repr(name), expected=f"one of {', '.join(PROBES)}")
    if name == "zone_plate":
        optics = {"defocus_m": defocus_m, "energy_eV": energy_eV, "pixel_size_m": pixel_size_m}
        primary = zone_plate(N, rng, **optics, **settings)
    else:
        primary = PROBES[name](N, rng, **settings)
        if defocus_m:
            primary = propagate(primary, defocus_m, energy_eV=energy_eV, pixel_size_m=pixel_size_m)
    return with_photons(tilted_modes(primary, modes, rng, weights), photons)


def with_photons(probe: NDArray[Any], photons: float) -> NDArray[np.complex64]:
    """``probe`` [P, N, N] scaled so that its intensity sums to ``photons`` over modes and pixels."""
    energy = float(np.sum(np.abs(probe) ** 2))
    if not (photons > 0 and energy > 0):
        raise InputError(field="photons", found=photons, expected="a number above 0, and a probe that is not zero")
    return (probe * math.sqrt(photons / energy)).astype(np.complex64)


def probe_from_file(path: str | Path, N: int | None = None) -> NDArray[np.complex64]:
    """Probe modes [P, N, N] from an NPZ or HDF5 file (key ``probe`` or ``probeGuess``; leading axes of 1 are dropped).

    Raises InputError when the file has no such key, no usable numbers, or another size than ``N``.
    """
    path = require_file(path, "probe file")
    with path.open("rb") as stream:
        is_zip = stream.read(2) == b"PK"
    if is_zip:
        with NpzFile(path, default_max_bytes()) as npz:
            array = npz.read_optional(*PROBE_KEYS)
    else:
        with open_hdf5(path) as file:
            array = next((np.asarray(file[key]) for key in PROBE_KEYS if key in file), None)
    if array is None:
        raise InputError(file=path, field="probe", found="neither key", expected=" or ".join(PROBE_KEYS))
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    array = array[None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[1] != array.shape[2] or array.shape[1] != (N or array.shape[1]):
        expected = f"(P, {N}, {N})" if N else "(P, N, N)"
        raise InputError(file=path, field="probe", found=f"shape {array.shape}", expected=expected)
    if array.dtype.kind not in "fc" or not np.isfinite(array).all() or not array.any():
        raise InputError(
            file=path, field="probe", found=f"{array.dtype}, zero or not finite", expected="complex numbers"
        )
    return array.astype(np.complex64)
