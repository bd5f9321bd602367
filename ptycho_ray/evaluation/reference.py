"""The PtychoPINN chain's metrics with its conventions, so that numbers can be compared with published ones.

Conventions to know before quoting them: two pixels are cut from every edge; the predicted amplitude is
scaled to the truth's mean; the phase is not unwrapped before its plane or mean is removed; PSNR has the peak 255
whatever the data; phase SSIM maps the phase to (phi + pi) / 2 pi and uses data range 1, so a flat phase scores high;
MS-SSIM multiplies full SSIMs and decimates without a filter; the ring correlation takes |C|, so anticorrelation
counts as correlation, and cut-offs are in rings. ``evaluate_reconstruction`` is the set without these.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from skimage.metrics import structural_similarity

from ptycho_ray.errors import InputError
from ptycho_ray.evaluation.frc import ring_correlation

Pair = tuple[float, float]
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def trim(image: NDArray[Any], offset: int = 4) -> NDArray[Any]:
    """Cut ``offset / 2`` pixels from each edge of the first two axes; ``offset`` is even."""
    if offset % 2 or offset < 0:
        raise InputError(field="offset", found=offset, expected="an even number, 0 or more")
    border = offset // 2
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def fit_and_remove_plane(phase: NDArray[Any], reference: NDArray[Any] | None = None) -> NDArray[np.float64]:
    """Subtract from ``phase`` [H, W] its least-squares plane; with a ``reference``, the plane of phase - reference."""
    rows, columns = np.indices(phase.shape)
    design = np.stack([columns.ravel(), rows.ravel(), np.ones(phase.size)], axis=1)
    target = phase if reference is None else phase - reference
    coefficients = np.linalg.lstsq(design, target.ravel().astype(np.float64), rcond=None)[0]
    return phase - (design @ coefficients).reshape(phase.shape)


def _same_mean(target: NDArray[Any], pred: NDArray[Any], normalize: bool) -> NDArray[Any]:
    return pred * (target.mean() / pred.mean()) if normalize else pred


def mae(target: NDArray[Any], pred: NDArray[Any], normalize: bool = True) -> float:
    """Mean absolute difference; ``normalize`` scales ``pred`` to the mean of ``target`` first."""
    return float(np.abs(target - _same_mean(target, pred, normalize)).mean(dtype=np.float64))


def mse(target: NDArray[Any], pred: NDArray[Any], normalize: bool = True) -> float:
    """Mean squared difference; ``normalize`` as in ``mae``."""
    return float(((target - _same_mean(target, pred, normalize)) ** 2).mean(dtype=np.float64))


def psnr(target: NDArray[Any], pred: NDArray[Any], normalize: bool = True) -> float:
    """Peak signal to noise ratio in dB with peak 255, in float32 with the rounding guard of OpenCV's PSNR."""
    difference = np.float32(target) - np.float32(_same_mean(target, pred, normalize))
    rms = np.sqrt(np.mean(difference.astype(np.float64) ** 2))
    return float(20 * np.log10(255 / (rms + np.finfo(np.float64).eps)))


def ms_ssim(target: NDArray[Any], pred: NDArray[Any], sigma: float = 0.0) -> float:
    """The reference's multi-scale SSIM: product of SSIM ** weight over up to five scales.

    Both images are blurred by ``sigma`` pixels first (0: not at all); the data range is the larger range of the two,
    kept for all scales; each scale takes every second pixel; scales with a side under 7 pixels are left out.
    """
    if sigma > 0:
        target, pred = gaussian_filter(target, sigma), gaussian_filter(pred, sigma)
    data_range = max(np.ptp(target), np.ptp(pred))
    result = 1.0
    for weight in MS_SSIM_WEIGHTS:
        if min(target.shape) < 7:
            break
        similarity = structural_similarity(target, pred, data_range=data_range)
        result *= float(np.nan_to_num(max(similarity, 1e-4))) ** weight
        target, pred = target[::2, ::2], pred[::2, ::2]
    return result


def _ring_curve(target: NDArray[Any], pred: NDArray[Any]) -> NDArray[np.float64]:
    side = min(target.shape)
    target, pred = _centre(target, side, side), _centre(pred, side, side)
    spectra = [np.fft.fftshift(np.fft.fft2(image)) for image in (target, pred)]
    distance = np.arange(side) - side // 2
    ring = np.rint(np.hypot(distance[:, None], distance[None, :])).astype(np.int64)
    return np.abs(ring_correlation(spectra[0], spectra[1], ring, int(ring.max()) + 1))


def _centre(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    row, column = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[row : row + height, column : column + width]


def frc_cutoffs(curve: NDArray[Any]) -> Pair:
    """First crossings of 1/2 and of 1/7, in rings: 0 if ring 0 is below, ``len(curve)`` if none is."""
    return _first_below(curve, 0.5), _first_below(curve, 1 / 7)


def _first_below(curve: NDArray[Any], threshold: float) -> float:
    below = np.flatnonzero(curve < threshold)
    if below.size == 0:
        return float(len(curve))
    k = int(below[0])
    if k == 0:
        return 0.0
    return float(k - 1 + (curve[k - 1] - threshold) / (curve[k - 1] - curve[k]))


def frc50(target: NDArray[Any], pred: NDArray[Any], frc_sigma: float = 0) -> tuple[NDArray[np.float64], float]:
    """Ring correlation |C| of two real images out to the corner of the spectrum, and its crossing of 1/2 in rings.

    Images are cropped to a centred square; ``frc_sigma`` rings of Gaussian smoothing are applied to the curve.
    """
    curve = _ring_curve(target, pred)
    if frc_sigma > 0:
        curve = gaussian_filter1d(curve, frc_sigma)
    return curve, frc_cutoffs(curve)[0]


def eval_reconstruction(
    stitched_obj: NDArray[Any],
    ground_truth_obj: NDArray[Any],
    lowpass_n: int = 1,
    label: str = "",
    phase_align_method: str = "plane",
    frc_sigma: float = 0,
    debug_save_images: bool = False,
    ms_ssim_sigma: float = 1.0,
) -> dict[str, Any]:
    """The reference's metrics of a complex reconstruction against the truth, as (amplitude, phase) pairs.

    ``stitched_obj`` is [H, W], [H, W, 1] or [1, H, W, 1], ``ground_truth_obj`` [H, W] or [H, W, 1] of the same H and
    W, aligned already (``align_for_evaluation``, ``register_and_align`` or ``crop_truth``). ``phase_align_method`` is
    'plane' (each image loses its own plane) or 'mean'. Keys: mae, mse, psnr, ssim, ms_ssim, frc50, frc1over7, frc
    (two curves). ``label`` names the case in messages; ``lowpass_n`` and ``debug_save_images`` are accepted for the
    signature only, a warning says so when they are set. Source: PtychoPINN chain.
    """
    if lowpass_n != 1 or debug_save_images:
        warnings.warn("eval_reconstruction ignores lowpass_n and debug_save_images", stacklevel=2)
    recon = _plane_image(stitched_obj, "stitched_obj", label)
    truth = _plane_image(ground_truth_obj, "ground_truth_obj", label)
    if recon.shape != truth.shape:
        raise InputError(
            field=" ".join(filter(None, ["stitched_obj", label])),
            found=recon.shape,
            expected=f"the truth's {truth.shape}",
        )
    if min(recon.shape) < 11:
        raise InputError(field="stitched_obj", found=recon.shape, expected="at least 11 pixels a side")
    recon, truth = trim(recon), trim(truth)
    amplitude, amplitude_true = _same_mean(np.abs(truth), np.abs(recon), True), np.abs(truth)
    phase, phase_true = np.angle(recon), np.angle(truth)
    if phase_align_method == "plane":
        phase, phase_true = fit_and_remove_plane(phase), fit_and_remove_plane(phase_true)
    elif phase_align_method == "mean":
        phase, phase_true = phase - phase.mean(), phase_true - phase_true.mean()
    else:
        raise InputError(field="phase_align_method", found=repr(phase_align_method), expected="'plane' or 'mean'")

    def unit(image: NDArray[Any]) -> NDArray[Any]:
        return (image + np.pi) / (2 * np.pi)

    pairs = ((amplitude_true, amplitude), (phase_true, phase))
    curves = tuple(frc50(target, pred, frc_sigma)[0] for target, pred in pairs)
    cutoffs = [frc_cutoffs(curve) for curve in curves]
    return {
        "mae": tuple(mae(target, pred, normalize=False) for target, pred in pairs),
        "mse": tuple(mse(target, pred, normalize=False) for target, pred in pairs),
        "psnr": tuple(psnr(target, pred, normalize=False) for target, pred in pairs),
        "ssim": (
            float(structural_similarity(amplitude_true, amplitude, data_range=np.ptp(amplitude_true))),
            float(structural_similarity(unit(phase_true), unit(phase), data_range=1.0)),
        ),
        "ms_ssim": (ms_ssim(amplitude_true, amplitude, ms_ssim_sigma), ms_ssim(unit(phase_true), unit(phase))),
        "frc50": (cutoffs[0][0], cutoffs[1][0]),
        "frc1over7": (cutoffs[0][1], cutoffs[1][1]),
        "frc": curves,
    }


def _plane_image(image: NDArray[Any], field: str, label: str) -> NDArray[Any]:
    array = np.asarray(image)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 2:
        raise InputError(
            field=" ".join(filter(None, [field, label])),
            found=array.shape,
            expected="(H, W), (H, W, 1) or (1, H, W, 1)",
        )
    return array
