"""Gradient fields of differential phase contrast: their integral, their divergence and their curl. numpy and scipy only.

Fields are [R, C, 2] on a grid of scan points, the derivatives along rows and along columns, of steps (rows, columns).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn, idctn


def integrate_gradient(
    field: NDArray[np.float64], step: tuple[float, float], *, longest: float | None = None
) -> NDArray[np.float64]:
    """The image [R, C] with mean zero whose differences between neighbours are, by least squares, those of the field.

    The border is free: nothing is assumed to repeat beyond it, as the plain Fourier method does. So the cosine transform solves
    it exactly.

    Args:
        longest: waves longer than this, in units of ``step``, are damped: noise of the field tilts and bends the image.
    """
    rows = step[0] * (field[1:, :, 0] + field[:-1, :, 0]) / 2
    columns = step[1] * (field[:, 1:, 1] + field[:, :-1, 1]) / 2
    source = np.zeros(field.shape[:2])
    source[:-1] += rows / step[0] ** 2
    source[1:] -= rows / step[0] ** 2
    source[:, :-1] += columns / step[1] ** 2
    source[:, 1:] -= columns / step[1] ** 2
    turns = [np.pi * np.arange(count) / count for count in field.shape[:2]]
    first, second = (2 * (1 - np.cos(turn)) / each**2 for turn, each in zip(turns, step, strict=True))
    curvature = first[:, None] + second
    if longest is not None:
        damped = (2 * np.pi / longest) ** 2
        curvature = curvature + damped**2 / np.maximum(curvature, 1e-6 * damped)
    spectrum = -dctn(source, norm="ortho")
    spectrum[0, 0], curvature[0, 0] = 0.0, 1.0
    return np.asarray(idctn(spectrum / curvature, norm="ortho"))


def divergence(field: NDArray[np.float64], step: tuple[float, float]) -> NDArray[np.float64]:
    """Divergence [R, C]: of the phase gradient of a thin sample, its curvature, which is the (negative) projected charge."""
    return np.asarray(np.gradient(field[..., 0], step[0], axis=0) + np.gradient(field[..., 1], step[1], axis=1))


def curl(field: NDArray[np.float64], step: tuple[float, float]) -> NDArray[np.float64]:
    """Curl [R, C]: zero of a true gradient, so what is left tells noise, or a detector turned against the scan."""
    return np.asarray(np.gradient(field[..., 1], step[0], axis=0) - np.gradient(field[..., 0], step[1], axis=1))
