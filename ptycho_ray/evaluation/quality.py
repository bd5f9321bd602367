"""Our own metrics of a complex reconstruction against a known truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity
from skimage.restoration import unwrap_phase

from ptycho_ray.errors import InputError
from ptycho_ray.evaluation.frc import RingCorrelation, Window, fourier_ring_correlation
from ptycho_ray.evaluation.reference import MS_SSIM_WEIGHTS
from ptycho_ray.evaluation.registration import Ambiguities, Point, crop_truth, fit_ambiguities, inside_truth

FloatArray = NDArray[np.float64]
Rectangle = tuple[slice, slice]
MIN_SIDE = 16


@dataclass(frozen=True)
class Scores:
    """Metrics of one real image: ``mae`` and the root of ``mse`` in the image's unit (phase: radians), ``psnr`` in dB.

    ``data_range`` is the truth's maximum minus minimum over the compared pixels, read before any sub-pixel
    interpolation (which overshoots at edges); PSNR, SSIM and MS-SSIM use it. ``frc`` is the ring correlation.
    """

    mae: float
    mse: float
    psnr: float
    ssim: float
    ms_ssim: float
    data_range: float
    frc: RingCorrelation

    def to_dict(self, *, curves: bool = False) -> dict[str, Any]:
        names = ("mae", "mse", "psnr", "ssim", "ms_ssim", "data_range")
        return {name: _finite(getattr(self, name)) for name in names} | {"frc": self.frc.to_dict(curve=curves)}


@dataclass(frozen=True)
class Evaluation:
    """Result of ``evaluate_reconstruction``.

    ``complex_nrmse`` is ||R - T|| / ||T|| over the compared pixels after the fit of ``ambiguities``. ``aligned`` and
    ``truth`` are the two complex images after alignment (whole canvas), ``mask`` the pixels that were compared and
    ``rectangle`` the part of them used for SSIM and ring correlations.
    """

    amplitude: Scores
    phase: Scores
    complex_nrmse: float
    frc: RingCorrelation
    ambiguities: Ambiguities
    registered: bool
    n_pixels: int
    rectangle: Rectangle
    aligned: NDArray[np.complex128] = field(repr=False)
    truth: NDArray[np.complex128] = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)

    def to_dict(self, *, curves: bool = False) -> dict[str, Any]:
        """All numbers, ready for JSON (no arrays unless ``curves``; what is not finite becomes None)."""
        rows, columns = self.rectangle
        return {
            "amplitude": self.amplitude.to_dict(curves=curves),
            "phase": self.phase.to_dict(curves=curves),
            "complex_nrmse": _finite(self.complex_nrmse),
            "frc": self.frc.to_dict(curve=curves),
            "registered": self.registered,
            "shift_px": list(self.ambiguities.shift_px),
            "ramp_rad_per_px": list(self.ambiguities.ramp_rad_per_px),
            "scale": [self.ambiguities.scale.real, self.ambiguities.scale.imag],
            "n_pixels": self.n_pixels,
            "rectangle": [rows.start, rows.stop, columns.start, columns.stop],
        }


def evaluate_reconstruction(
    reconstruction: NDArray[Any],
    truth: NDArray[Any],
    *,
    origin_px: Point = (0.0, 0.0),
    region: NDArray[np.bool_] | None = None,
    register: bool = True,
    window: Window | None = "hann",
) -> Evaluation:
    """Compare a complex reconstruction [H, W] with the truth.

    ``origin_px`` is the place (row, column, possibly fractional) of the reconstruction's pixel (0, 0) in the truth,
    which may be larger. ``region`` [H, W] marks the well covered pixels; by default those that are not exactly 0.
    With ``register`` a translation is fitted beside the complex scale and the linear phase ramp; without it the
    geometry is taken as exact.

    Amplitude, phase (radians, differences wrapped) and NRMSE are over all compared pixels; SSIM (Gaussian window of
    1.5 px), MS-SSIM and ring correlations (``window`` against edge effects) over the largest rectangle of them.
    """
    reconstruction, truth = np.asarray(reconstruction), np.asarray(truth)
    _check(reconstruction, truth, region)
    covered = (reconstruction != 0) if region is None else region
    found = fit_ambiguities(reconstruction, truth, origin_px=origin_px, mask=covered, register=register)
    place = (origin_px[0] + found.shift_px[0], origin_px[1] + found.shift_px[1])
    target = crop_truth(truth, place, reconstruction.shape).astype(np.complex128)
    mask = covered & inside_truth(truth.shape, place, reconstruction.shape)
    rectangle = largest_rectangle(mask)
    if min(part.stop - part.start for part in rectangle) < MIN_SIDE:
        raise InputError(
            field="region",
            found=f"{int(mask.sum())} pixels to compare, largest rectangle {_size(rectangle)}",
            expected=f"a rectangle of at least {MIN_SIDE} pixels a side",
        )
    aligned = found.apply(reconstruction)
    nearest = crop_truth(truth, (round(place[0]), round(place[1])), reconstruction.shape)
    middle = np.angle(nearest[mask].sum())
    phase_true = _phase(target, middle)
    phase = phase_true + np.angle(aligned * target.conj())
    ranges = (
        _data_range(np.abs(nearest)[mask], float(np.abs(nearest[mask]).max())),
        _data_range(_phase(nearest, middle)[mask], 2 * np.pi),
    )
    return Evaluation(
        amplitude=_scores(np.abs(aligned), np.abs(target), mask, rectangle, window, ranges[0]),
        phase=_scores(phase, phase_true, mask, rectangle, window, ranges[1]),
        complex_nrmse=float(np.linalg.norm((aligned - target)[mask]) / np.linalg.norm(target[mask])),
        frc=fourier_ring_correlation(target[rectangle], aligned[rectangle], window=window),
        ambiguities=found,
        registered=register,
        n_pixels=int(mask.sum()),
        rectangle=rectangle,
        aligned=aligned,
        truth=target,
        mask=mask,
    )


def _check(reconstruction: NDArray[Any], truth: NDArray[Any], region: NDArray[np.bool_] | None) -> None:
    for name, image in (("reconstruction", reconstruction), ("truth", truth)):
        if image.ndim != 2:
            raise InputError(field=name, found=f"shape {image.shape}", expected="two axes (rows, columns)")
        if not np.isfinite(image).all():
            raise InputError(field=name, found="NaN or infinity", expected="finite numbers")
        if not image.any():
            raise InputError(field=name, found="zero everywhere", expected="an image")
    if region is not None and (region.shape != reconstruction.shape or region.dtype != np.bool_):
        raise InputError(
            field="region",
            found=f"{region.dtype} {region.shape}",
            expected=f"a boolean mask of shape {reconstruction.shape}",
        )


def _phase(image: NDArray[Any], middle: float) -> FloatArray:
    """Phase about ``middle`` in radians, unwrapped if it wraps."""
    phase = np.angle(image * np.exp(-1j * middle)).astype(np.float64)
    if max(np.abs(np.diff(phase, axis=axis)).max() for axis in (0, 1)) > np.pi:
        phase = np.asarray(unwrap_phase(phase), dtype=np.float64)
    return phase


def _data_range(values: FloatArray, scale: float) -> float:
    """Maximum minus minimum; ``scale`` for a truth without contrast (a range within a thousandth of the scale)."""
    found = float(np.ptp(values))
    return found if found > 1e-3 * scale else scale


def _scores(
    image: FloatArray,
    truth: FloatArray,
    mask: NDArray[np.bool_],
    rectangle: Rectangle,
    window: Window | None,
    data_range: float,
) -> Scores:
    difference = (image - truth)[mask]
    mse = float(np.mean(difference**2))
    a, b = image[rectangle], truth[rectangle]
    similarity = structural_similarity(
        b, a, data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    return Scores(
        mae=float(np.mean(np.abs(difference))),
        mse=mse,
        psnr=float(10 * np.log10(data_range**2 / mse)) if mse > 0 else float("inf"),
        ssim=float(similarity),
        ms_ssim=multiscale_ssim(b, a, data_range),
        data_range=data_range,
        frc=fourier_ring_correlation(b, a, window=window),
    )


def multiscale_ssim(first: NDArray[Any], second: NDArray[Any], data_range: float) -> float:
    """MS-SSIM of Wang, Simoncelli and Bovik (Asilomar 2003): contrast-structure at every scale, luminance at the
    coarsest.

    Five scales with 2x2 means between them; fewer, with the weights rescaled to sum to one, where a side would fall
    below the 11 pixels of the Gaussian window.
    """
    n_scales = 1
    while n_scales < len(MS_SSIM_WEIGHTS) and min(first.shape) >> n_scales >= 11:
        n_scales += 1
    weights = np.array(MS_SSIM_WEIGHTS[:n_scales]) / sum(MS_SSIM_WEIGHTS[:n_scales])
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    a, b = first.astype(np.float64), second.astype(np.float64)
    result = 1.0
    for scale, weight in enumerate(weights):
        mean_a, mean_b = _blur(a), _blur(b)
        var_a, var_b, cov = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2, _blur(a * b) - mean_a * mean_b
        value = (2 * cov + c2) / (var_a + var_b + c2)
        if scale == n_scales - 1:
            value = value * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        result *= max(float(value[5:-5, 5:-5].mean()), 0.0) ** weight
        a, b = _halve(a), _halve(b)
    return float(result)


def _blur(image: FloatArray) -> FloatArray:
    return gaussian_filter(image, 1.5, truncate=3.5)


def _halve(image: FloatArray) -> FloatArray:
    even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4


def largest_rectangle(mask: NDArray[np.bool_]) -> Rectangle:
    """The largest upright rectangle of True pixels, as two slices; an empty one for an empty mask.

    Masks of more than 512 pixels a side are searched on blocks, so the answer may fall short by a block at each edge.
    """
    block = -(-max(mask.shape) // 512)
    height, width = (side // block for side in mask.shape)
    blocks = mask[: height * block, : width * block].reshape(height, block, width, block)
    coarse: NDArray[np.bool_] = np.asarray(blocks.all(axis=(1, 3)))
    best_area, best = 0, (0, 0, 0, 0)
    heights = np.zeros(width + 1, dtype=np.int64)
    for row in range(height):
        heights[:-1] = (heights[:-1] + 1) * coarse[row]
        open_bars: list[tuple[int, int]] = []  # (first column, height), heights rising
        for column, bar in enumerate(heights.tolist()):
            start = column
            while open_bars and open_bars[-1][1] >= bar:
                start, tall = open_bars.pop()
                if tall * (column - start) > best_area:
                    best_area, best = tall * (column - start), (row + 1 - tall, row + 1, start, column)
            open_bars.append((start, bar))
    top, bottom, left, right = (edge * block for edge in best)
    return slice(top, bottom), slice(left, right)


def _size(rectangle: Rectangle) -> str:
    return " x ".join(str(part.stop - part.start) for part in rectangle)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
