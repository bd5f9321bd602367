"""Pieces of the PtychoPINN chain's simulation with its random stream, for comparing numbers.

Images are [H, W] (a trailing axis of 1 is kept). New code uses ``make_object``, ``make_probe`` and
``simulate_patterns``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from ptycho_ray.errors import InputError
from ptycho_ray.physics.diffraction import diffract
from ptycho_ray.simulation.objects import LINES_BLUR, line_drawing, lines_texture, sum_of_blurs
from ptycho_ray.simulation.probes import default

FloatArray = NDArray[np.float64]


def get_default_probe(N: int, default_probe_scale: float = 0.7) -> FloatArray:
    """The reference's default probe amplitude [N, N]."""
    return default(N, np.random.default_rng(0), scale=default_probe_scale).real


def get_squared_distance(N: int) -> FloatArray:
    """Distance of every pixel from the half-pixel centre (N - 1) / 2; not squared, whatever the name says."""
    axis = np.arange(N) - (N - 1) / 2
    return np.hypot(axis[:, None], axis[None, :])


def get_probe_mask(N: int) -> NDArray[np.bool_]:
    """Disc of radius below N // 4 about the half-pixel centre, [N, N]."""
    return get_squared_distance(N) < N // 4


def normalised_probe(probe: NDArray[Any], probe_scale: float) -> NDArray[np.complex64]:
    """The reference's ``set_probe``: probe / (probe_scale * mean |mask * probe|) over all N^2 pixels."""
    mask = get_probe_mask(probe.shape[-1])
    return (probe / (probe_scale * np.mean(np.abs(mask * probe)))).astype(np.complex64)


def complex_gaussian_filter2d(image: NDArray[Any], sigma: float) -> NDArray[Any]:
    """Blur real and imaginary parts [H, W] with the reference's 3 x 3 kernel softmax(-x^2 / 2 sigma^2), edges
    mirrored.
    """
    kernel = np.exp(-np.array([1.0, 0.0, 1.0]) / (2 * sigma**2))
    kernel /= kernel.sum()

    def blur(part: NDArray[Any]) -> NDArray[Any]:
        return correlate1d(correlate1d(part, kernel, axis=0, mode="mirror"), kernel, axis=1, mode="mirror")

    return blur(image.real) + 1j * blur(image.imag)


def mk_lines_img(N: int, nlines: int, random_state: np.random.RandomState) -> FloatArray:
    """``nlines`` random segments on [N, N], blurred three times; the reference draws from the global legacy stream."""
    return sum_of_blurs(line_drawing((N, N), random_state.random_sample, nlines), LINES_BLUR)


def sim_object_image(size: int, random_state: np.random.RandomState) -> FloatArray:
    """The reference's 'lines' object [size, size], not yet scaled to a transmission."""
    return lines_texture((size, size), random_state.random_sample)


def dummy_phi(Y_I: NDArray[Any]) -> NDArray[Any]:
    """The reference's phase for an amplitude image: pi tanh((Y - max / 2) / (3 mean)) in radians."""
    return np.pi * np.tanh((Y_I - Y_I.max() / 2) / (3 * Y_I.mean()))


def illuminate_and_diffract(
    Y_I: NDArray[Any],
    Y_phi: NDArray[Any],
    probe: NDArray[Any],
    *,
    nphotons: float = 1e9,
    rng: np.random.Generator | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], float]:
    """Diffraction amplitudes of object patches, the illuminated amplitude, the phase and the intensity scale.

    ``Y_I``, ``Y_phi`` [B, N, N] are amplitude and phase (rad) of the patches, ``probe`` [N, N]. The scale is s =
    sqrt(nphotons / mean_b sum (Y_I |probe|)^2). With ``rng`` photons are drawn at scale s before the amplitudes are
    divided by it; without, the amplitudes are exact. As in the reference the returned phase is the object's, not the
    exit wave's. Returns (X, |Y_I probe|, Y_phi, s), images [B, N, N] float32.
    """
    if Y_I.ndim != 3 or Y_I.shape != Y_phi.shape or Y_I.shape[1:] != probe.shape:
        raise InputError(
            field="Y_I, Y_phi, probe",
            found=f"{Y_I.shape}, {Y_phi.shape}, {probe.shape}",
            expected="[B, N, N] twice and [N, N]",
        )
    illuminated = Y_I * np.abs(probe)
    scale = float(np.sqrt(nphotons / np.mean(np.sum(illuminated.astype(np.float64) ** 2, axis=(1, 2)))))
    amplitude = np.abs(diffract(Y_I * np.exp(1j * Y_phi) * probe))
    if rng is not None:
        amplitude = np.sqrt(rng.poisson((scale * amplitude) ** 2)) / scale
    return amplitude.astype(np.float32), illuminated.astype(np.float32), Y_phi.astype(np.float32), scale
