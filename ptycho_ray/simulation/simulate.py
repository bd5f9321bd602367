"""From an object, a probe and positions to a simulated scan.

Legend: n patterns, N pattern side, P incoherent probe modes.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ptycho_ray.data.patches import cut_patches
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.physics.diffraction import diffraction_intensity, illuminate
from ptycho_ray.simulation.probes import with_photons

SubPixel = Literal["fourier", "bilinear", "integer"]
PATTERNS_AT_ONCE = 64


def simulate_patterns(
    object_HW: NDArray[Any],
    probe_PNN: NDArray[Any],
    positions_n2: NDArray[np.float64],
    *,
    photons: float | None = None,
    rng: np.random.Generator | None = None,
    noise: bool = True,
    sub_pixel: SubPixel = "fourier",
) -> NDArray[np.uint32] | NDArray[np.float32]:
    """Diffraction of ``object_HW`` at ``positions_n2`` [n, 2] (row, column): [n, N, N], zero frequency at N//2.

    The intensity is sum over modes |F(P O)|^2 with an orthonormal F, so a pattern's sum is the number of transmitted
    photons. ``photons`` rescales the probe to that many; None leaves it as it is. With ``noise`` Poisson counts
    (uint32) are drawn from ``rng``, otherwise the mean (float32) is returned.

    ``sub_pixel``: 'fourier' shifts the probe by the fraction of the position (exact for a band-limited probe),
    'bilinear' interpolates the object as the PtychoPINN chain does, 'integer' rounds the position. Raises InputError
    where a patch would leave the object.
    """
    probe = probe_PNN[None] if probe_PNN.ndim == 2 else probe_PNN
    if photons is not None:
        probe = with_photons(probe, photons)
    _check(object_HW, probe, positions_n2, sub_pixel)
    if noise and rng is None:
        raise InputError(field="rng", found="None", expected="a numpy Generator, as noise is drawn")
    N = probe.shape[-1]
    patterns: NDArray[Any] = np.empty((len(positions_n2), N, N), dtype=np.uint32 if noise else np.float32)
    for start in range(0, len(positions_n2), PATTERNS_AT_ONCE):
        some = slice(start, start + PATTERNS_AT_ONCE)
        exit_waves = _exit_waves(object_HW, probe.astype(np.complex128), positions_n2[some], sub_pixel)
        intensity = diffraction_intensity(exit_waves)
        if noise and rng is not None:
            if intensity.max() > 4e9:
                raise InputError(field="photons", found=f"{intensity.max():.3g} in one pixel", expected="at most 4e9")
            intensity = rng.poisson(intensity)
        patterns[some] = intensity
    return patterns


def _exit_waves(
    object_HW: NDArray[Any], probe: NDArray[np.complex128], positions: NDArray[np.float64], sub_pixel: SubPixel
) -> NDArray[np.complex128]:
    """Exit waves [n, P, N, N] of some positions."""
    N = probe.shape[-1]
    if sub_pixel == "bilinear":
        return illuminate(cut_patches(object_HW, positions, N), probe)
    nearest = np.floor(positions + 0.5)
    corner = nearest.astype(np.int64) - N // 2
    patches = sliding_window_view(object_HW, (N, N))[corner[:, 0], corner[:, 1]]
    if sub_pixel == "integer":
        return illuminate(patches, probe)
    fraction = positions - nearest
    turns = np.exp(-2j * np.pi * np.fft.fftfreq(N) * fraction[:, :, None])  # [n, 2, N]
    moved = np.fft.ifft2(np.fft.fft2(probe) * turns[:, 0, None, :, None] * turns[:, 1, None, None, :])
    return patches[:, None] * moved


def _check(object_HW: NDArray[Any], probe: NDArray[Any], positions: NDArray[np.float64], sub_pixel: SubPixel) -> None:
    if sub_pixel not in get_args(SubPixel):
        raise InputError(field="sub_pixel", found=repr(sub_pixel), expected=f"one of {', '.join(get_args(SubPixel))}")
    if object_HW.ndim != 2:
        raise InputError(field="object", found=f"shape {object_HW.shape}", expected="two axes (rows, columns)")
    if probe.ndim != 3 or probe.shape[1] != probe.shape[2]:
        raise InputError(field="probe", found=f"shape {probe.shape}", expected="(P, N, N) or (N, N)")
    if positions.ndim != 2 or positions.shape[1] != 2 or not np.isfinite(positions).all():
        raise InputError(field="positions", found=f"shape {positions.shape}", expected="finite numbers of shape (n, 2)")
    N = probe.shape[-1]
    low, high = N // 2, np.array(object_HW.shape) - (N - N // 2)
    outside = np.flatnonzero(np.any((positions < low) | (positions > high), axis=1))
    if outside.size:
        raise InputError(
            field="positions",
            found=f"{outside.size} whose patch leaves the object, the first at {positions[outside[0]].tolist()}",
            expected=f"rows {low} to {high[0]} and columns {low} to {high[1]}",
        )


def simulate_scan(
    object_HW: NDArray[Any],
    probe_PNN: NDArray[Any],
    positions_n2: NDArray[np.float64],
    *,
    photons: float | None = None,
    rng: np.random.Generator | None = None,
    noise: bool = True,
    sub_pixel: SubPixel = "fourier",
    recorded_positions_n2: NDArray[np.float64] | None = None,
    pixel_size_m: float | None = None,
    energy_eV: float | None = None,
    metadata: dict[str, Any] | None = None,
) -> RawData:
    """``simulate_patterns`` as a RawData with the true object and the true probe (which carries the photons).

    ``recorded_positions_n2`` are the positions stored in the scan, if they differ from the true ones.
    """
    probe = probe_PNN[None] if probe_PNN.ndim == 2 else probe_PNN
    if photons is not None:
        probe = with_photons(probe, photons)
    patterns = simulate_patterns(object_HW, probe, positions_n2, rng=rng, noise=noise, sub_pixel=sub_pixel)
    recorded = positions_n2 if recorded_positions_n2 is None else recorded_positions_n2
    return RawData(
        recorded[:, 1],
        recorded[:, 0],
        None,
        None,
        patterns,
        probe,
        objectGuess=object_HW,
        metadata=metadata,
        domain="intensity",
        counts_are_photons=True,
        pixel_size_m=pixel_size_m,
        energy_eV=energy_eV,
    )
