"""How far an image is from the truth, after the exact ambiguities of ptychography have been taken out.

A scan does not fix a complex factor, a linear phase ramp (the probe has the opposite one) and a common translation of probe
and object. These are fitted by least squares inside the region of interest; what is left is the complex normalised error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares


@dataclass(frozen=True)
class Distance:
    """Normalised complex error, and what was fitted: image(r) * factor * exp(i ramp.r) is the truth moved by ``shift_px``."""

    nrmse: float
    phase_rmse: float
    amplitude_rmse: float
    shift_px: tuple[float, float]


def distance_to_truth(
    image: NDArray[np.complex64],
    origin_px: tuple[float, float],
    truth: NDArray[np.complex64],
    roi: tuple[int, int, int, int],
) -> Distance:
    """Distance of ``image`` from the truth; arguments as for :func:`matched_to_truth`."""
    made, target, shift = matched_to_truth(image, origin_px, truth, roi)
    return Distance(
        nrmse=float(np.linalg.norm(made - target) / np.linalg.norm(target)),
        phase_rmse=float(np.sqrt(np.mean(np.angle(made * target.conj()) ** 2))),
        amplitude_rmse=float(np.sqrt(np.mean((np.abs(made) - np.abs(target)) ** 2))),
        shift_px=shift,
    )


def matched_to_truth(
    image: NDArray[np.complex64],
    origin_px: tuple[float, float],
    truth: NDArray[np.complex64],
    roi: tuple[int, int, int, int],
) -> tuple[NDArray[np.complex128], NDArray[np.complex128], tuple[float, float]]:
    """Image and truth inside ``roi`` after the ambiguities are taken out, and by how much the truth was moved.

    Args:
        origin_px: where pixel (0, 0) of ``image`` lies in the truth.
        roi: first row, last row, first column, last column (exclusive) in the truth.
    """
    top, bottom, left, right = roi
    row, column = (round(value) for value in origin_px)
    seen = np.asarray(image[top - row : bottom - row, left - column : right - column], dtype=np.complex128)
    spectrum = np.fft.fft2(truth.astype(np.complex128))
    frequencies = [np.fft.fftfreq(length) for length in truth.shape]
    rows = np.arange(seen.shape[0]) - seen.shape[0] / 2
    columns = np.arange(seen.shape[1]) - seen.shape[1] / 2

    def moved(shift: NDArray[np.float64]) -> NDArray[np.complex128]:
        ramps = [np.exp(-2j * np.pi * f * s) for f, s in zip(frequencies, shift, strict=True)]
        return np.fft.ifft2(spectrum * ramps[0][:, None] * ramps[1])[top:bottom, left:right]

    def fitted(parameters: NDArray[np.float64]) -> tuple[NDArray[np.complex128], NDArray[np.complex128]]:
        ramp = np.exp(1j * (parameters[2] * rows[:, None] + parameters[3] * columns))
        target, turned = moved(parameters[:2]), seen * ramp
        return turned * (np.vdot(turned, target) / np.vdot(turned, turned)), target

    def residual(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
        made, target = fitted(parameters)
        return (made - target).view(np.float64).ravel()

    best = least_squares(residual, _first_guess(seen, moved(np.zeros(2))), method="lm", x_scale=[1, 1, 0.01, 0.01])
    return (*fitted(best.x), (float(best.x[0]), float(best.x[1])))


def _first_guess(seen: NDArray[np.complex128], target: NDArray[np.complex128]) -> NDArray[np.float64]:
    """No shift, and the ramp at the peak of the spectrum of the ratio."""
    side = [4 * length for length in seen.shape]
    peak = np.abs(np.fft.fft2(seen.conj() * target, side))
    where = np.unravel_index(int(np.argmax(peak)), peak.shape)
    ramp = [2 * np.pi * np.fft.fftfreq(length)[index] for length, index in zip(side, where, strict=True)]
    return np.array([0.0, 0.0, *ramp])
