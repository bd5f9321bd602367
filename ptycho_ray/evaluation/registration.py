"""Bringing a reconstruction and the truth onto the same pixels.

Positions and shifts are (row, column) in pixels. A reconstruction carries ``origin_px``, the place of its first pixel
in the truth's pixels, possibly fractional. The ambiguities of ptychography (a complex scale, a linear phase ramp, a
translation) are fitted by ``fit_ambiguities``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from skimage.registration import phase_cross_correlation

from ptycho_ray.errors import InputError

Point = tuple[float, float]
ComplexArray = NDArray[np.complex128]
_MAX_FITTED = 500_000  # pixels in the least-squares fit; larger canvases are thinned
_MARGIN = 24  # pixels of truth around the cut that take the taper, so that a Fourier shift does not ring into the cut


# --- the reference's helpers ---------------------------------------------------------------------------------------


def align_for_evaluation(
    reconstruction: NDArray[Any], ground_truth: NDArray[Any], scan_coords_yx: NDArray[Any], stitch_patch_size: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Crop both images to the scanned area as the PtychoPINN chain does; whole pixels only.

    The truth is cut to the rows and columns of the scan positions [n, 2] plus half a ``stitch_patch_size``, then both
    are cropped about their centres to the common size. The reconstruction is centred on the mean position and the cut
    on the middle of the range, so the result is off by their difference: prefer ``crop_truth`` where ``origin_px`` is
    known.
    """
    low = np.maximum(scan_coords_yx.min(axis=0).astype(int) - stitch_patch_size // 2, 0)
    high = scan_coords_yx.max(axis=0).astype(int) + stitch_patch_size // 2
    truth = ground_truth[low[0] : high[0], low[1] : high[1]]
    height, width = np.minimum(reconstruction.shape[:2], truth.shape[:2])
    cropped = []
    for image in (reconstruction, truth):
        row, column = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
        cropped.append(image[row : row + height, column : column + width])
    return cropped[0], cropped[1]


def find_translation_offset(image: NDArray[Any], reference: NDArray[Any], upsample_factor: int = 50) -> Point:
    """Shift (rows, columns) that moves |image| onto |reference|, to 1 / upsample_factor pixel. Source: PtychoPINN
    chain.
    """
    shift = phase_cross_correlation(np.abs(reference), np.abs(image), upsample_factor=upsample_factor)[0]
    return float(shift[0]), float(shift[1])


def apply_shift_and_crop(
    image: NDArray[Any], reference: NDArray[Any], offset: Point, border_crop: int = 2
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Move the content of ``image`` by ``offset`` (periodic Fourier shift) and cut ``border_crop`` pixels from both
    images.
    """
    if image.shape != reference.shape or image.ndim != 2:
        raise InputError(field="image", found=image.shape, expected=f"the reference's two axes {reference.shape}")
    if not 0 <= 2 * border_crop < min(image.shape):
        raise InputError(field="border_crop", found=border_crop, expected=f"0 to less than half of {min(image.shape)}")
    moved: NDArray[Any] = np.fft.ifft2(np.fft.fft2(image) * _shift_phasor(image.shape, (-offset[0], -offset[1])))
    if not np.iscomplexobj(image):
        moved = moved.real
    inner = tuple(slice(border_crop, side - border_crop) for side in image.shape)
    return moved[inner], reference[inner]


def register_and_align(
    image: NDArray[Any], reference: NDArray[Any], upsample_factor: int = 50, border_crop: int = 2
) -> tuple[NDArray[Any], NDArray[Any]]:
    """``find_translation_offset`` followed by ``apply_shift_and_crop``."""
    offset = find_translation_offset(image, reference, upsample_factor)
    return apply_shift_and_crop(image, reference, offset, border_crop)


# --- exact geometry ------------------------------------------------------------------------------------------------


def crop_truth(
    truth: NDArray[Any],
    origin_px: Point,
    shape: tuple[int, int],
    *,
    method: Literal["fourier", "bilinear"] = "fourier",
) -> NDArray[Any]:
    """The piece of ``truth`` [H, W] that a canvas of ``shape`` shows: result[i, j] = truth[origin_px + (i, j)].

    The whole pixels are cut out, the fraction is interpolated. Where the canvas reaches beyond the truth its edge
    pixels are repeated (``inside_truth`` tells where). Raises InputError when the canvas does not touch the truth at
    all.
    """
    whole, fraction = _split(origin_px)
    if fraction == (0.0, 0.0):
        return _cut(truth, whole, shape)
    if method == "bilinear":
        piece = _cut(truth, whole, (shape[0] + 1, shape[1] + 1))
        down, right = fraction
        rows = (1 - down) * piece[:-1] + down * piece[1:]
        return ((1 - right) * rows[:, :-1] + right * rows[:, 1:]).astype(truth.dtype)
    if method != "fourier":
        raise InputError(field="method", found=repr(method), expected="'fourier' or 'bilinear'")
    piece = _Shiftable(truth, whole, shape).at(fraction)
    return (piece if np.iscomplexobj(truth) else piece.real).astype(truth.dtype)


def inside_truth(truth_shape: tuple[int, int], origin_px: Point, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Boolean [H, W]: which canvas pixels lie within the truth (to a thousandth of a pixel)."""
    places = [np.arange(length) + start for length, start in zip(shape, origin_px, strict=True)]
    rows, columns = (
        (place >= -1e-3) & (place <= side - 1 + 1e-3) for place, side in zip(places, truth_shape, strict=True)
    )
    return rows[:, None] & columns[None, :]


def _split(point: Point) -> tuple[tuple[int, int], Point]:
    whole = (int(np.floor(point[0])), int(np.floor(point[1])))
    return whole, (point[0] - whole[0], point[1] - whole[1])


def _cut(truth: NDArray[Any], origin: tuple[int, int], shape: tuple[int, int]) -> NDArray[Any]:
    wanted = [np.arange(start, start + length) for start, length in zip(origin, shape, strict=True)]
    if any(index[-1] < 0 or index[0] >= side for index, side in zip(wanted, truth.shape, strict=True)):
        raise InputError(
            field="origin_px",
            found=f"{origin} with canvas {shape}",
            expected=f"an overlap with the truth of shape {truth.shape}",
        )
    rows, columns = (np.clip(index, 0, side - 1) for index, side in zip(wanted, truth.shape, strict=True))
    return truth[rows[:, None], columns[None, :]]


def _shift_phasor(shape: tuple[int, ...], point: Point) -> ComplexArray:
    """Factor of the spectrum that makes result[i, j] = image[i + point[0], j + point[1]]."""
    row = np.exp(2j * np.pi * np.fft.fftfreq(shape[0]) * point[0])
    column = np.exp(2j * np.pi * np.fft.fftfreq(shape[1]) * point[1])
    return row[:, None] * column[None, :]


class _Shiftable:
    """A piece of the truth that can be read at fractional offsets (band-limited interpolation), and its slope."""

    def __init__(self, truth: NDArray[Any], origin: tuple[int, int], shape: tuple[int, int]) -> None:
        self.inner = (slice(_MARGIN, _MARGIN + shape[0]), slice(_MARGIN, _MARGIN + shape[1]))
        sides = (shape[0] + 2 * _MARGIN, shape[1] + 2 * _MARGIN)
        window = _cut(truth, (origin[0] - _MARGIN, origin[1] - _MARGIN), sides).astype(np.complex128)
        # Half of the margin is tapered; the other half keeps its values, so that small offsets see real pixels.
        from scipy.signal.windows import tukey

        row, column = (tukey(side, alpha=_MARGIN / side) for side in sides)
        mean = window.mean()
        self.spectrum = np.fft.fft2((window - mean) * row[:, None] * column[None, :])
        self.mean = mean

    def at(self, offset: Point) -> ComplexArray:
        return np.fft.ifft2(self.spectrum * _shift_phasor(self.spectrum.shape, offset))[self.inner] + self.mean

    def slopes(self, offset: Point) -> list[ComplexArray]:
        """Derivatives of ``at`` with respect to the row and the column offset."""
        moved = self.spectrum * _shift_phasor(self.spectrum.shape, offset)
        row, column = (2j * np.pi * np.fft.fftfreq(side) for side in self.spectrum.shape)
        return [np.fft.ifft2(moved * factor)[self.inner] for factor in (row[:, None], column[None, :])]


# --- the ambiguities -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ambiguities:
    """What was fitted: truth[origin + shift + r] = scale * exp(i ramp . (r - centre)) * reconstruction[r]."""

    scale: complex
    ramp_rad_per_px: Point
    shift_px: Point

    def apply(self, reconstruction: NDArray[Any]) -> ComplexArray:
        """The reconstruction with the scale and the ramp applied; the shift belongs to the truth's side."""
        return self.scale * _ramp(reconstruction.shape, self.ramp_rad_per_px) * reconstruction


def _centred(shape: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    return np.arange(shape[0])[:, None] - (shape[0] - 1) / 2, np.arange(shape[1])[None, :] - (shape[1] - 1) / 2


def _ramp(shape: tuple[int, ...], ramp: Point) -> ComplexArray:
    rows, columns = _centred(shape)
    return np.exp(1j * ramp[0] * rows) * np.exp(1j * ramp[1] * columns)


def fit_ambiguities(
    reconstruction: NDArray[Any],
    truth: NDArray[Any],
    *,
    origin_px: Point = (0.0, 0.0),
    mask: NDArray[np.bool_] | None = None,
    register: bool = True,
    max_shift_px: float = 16.0,
) -> Ambiguities:
    """Complex scale, linear phase ramp and (with ``register``) sub-pixel shift that bring a reconstruction to the
    truth.

    Least squares over ``mask`` [H, W]. The start comes from the spectrum of truth * conj(reconstruction), whose peak
    is the ramp (no unwrapping), and from a cross-correlation; a Gauss-Newton iteration refines all together. A coarse
    shift above ``max_shift_px`` is considered a failure of the correlation and ignored. ``truth`` may be larger than
    the reconstruction.
    """
    keep = np.ones(reconstruction.shape, dtype=bool) if mask is None else mask
    if not keep.any():
        raise InputError(field="mask", found="no pixel", expected="at least one pixel to compare")
    recon = np.asarray(reconstruction, dtype=np.complex128)
    shift = (0.0, 0.0)
    ramp = _coarse_ramp(recon, crop_truth(truth, origin_px, recon.shape), keep)
    if register:
        for _ in range(2):
            piece = crop_truth(truth, (origin_px[0] + shift[0], origin_px[1] + shift[1]), recon.shape)
            step = _coarse_shift(recon * _ramp(recon.shape, ramp), piece, keep)
            if max(abs(shift[0] + step[0]), abs(shift[1] + step[1])) > max_shift_px:
                break
            shift = (shift[0] + step[0], shift[1] + step[1])
            place = (origin_px[0] + shift[0], origin_px[1] + shift[1])
            ramp = _coarse_ramp(recon, crop_truth(truth, place, recon.shape), keep)
    return _refine(recon, truth, origin_px, keep, ramp, shift, register)


def _coarse_ramp(recon: ComplexArray, truth: NDArray[Any], keep: NDArray[np.bool_]) -> Point:
    sides = [2 * side for side in recon.shape]
    peak = np.unravel_index(np.argmax(np.abs(np.fft.fft2(truth * recon.conj() * keep, sides))), sides)
    row, column = (float(2 * np.pi * np.fft.fftfreq(side)[k]) for k, side in zip(peak, sides, strict=True))
    return row, column


def _coarse_shift(recon: ComplexArray, truth: NDArray[Any], keep: NDArray[np.bool_]) -> Point:
    rows, columns = np.flatnonzero(keep.any(axis=1)), np.flatnonzero(keep.any(axis=0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    height, width = keep[box].shape
    from scipy.signal.windows import hann

    weight = keep[box] * hann(height)[:, None] * hann(width)[None, :]
    images = [(image[box] - image[keep].mean()) * weight for image in (truth, recon)]
    if any(np.abs(image).max() < 1e-9 * np.abs(truth).max() for image in images):
        return 0.0, 0.0
    shift = phase_cross_correlation(images[0], images[1], upsample_factor=10, normalization=None)[0]
    return float(shift[0]), float(shift[1])


def _refine(
    recon: ComplexArray,
    truth: NDArray[Any],
    origin: Point,
    keep: NDArray[np.bool_],
    ramp: Point,
    shift: Point,
    register: bool,
    max_steps: int = 50,
) -> Ambiguities:
    """Gauss-Newton on || scale exp(i ramp . x) R - T(origin + shift) ||^2, steps halved until the misfit falls."""
    start = (origin[0] + shift[0], origin[1] + shift[1])
    keep = keep & inside_truth(truth.shape, start, recon.shape)
    if not keep.any():
        raise InputError(field="mask", found="no pixel within the truth", expected="at least one pixel to compare")
    thin = math.isqrt(int(keep.sum()) // _MAX_FITTED) + 1
    if thin > 1:
        sparse = np.zeros_like(keep)
        sparse[::thin, ::thin] = keep[::thin, ::thin]
        keep = sparse if sparse.any() else keep
    piece, fraction = _split(start)
    shiftable = _Shiftable(truth, piece, recon.shape)
    # A unit of each ramp parameter turns the phase by one radian at the edge, so all parameters are of order one.
    half = (max(recon.shape[0] / 2, 1.0), max(recon.shape[1] / 2, 1.0))
    x = [np.broadcast_to(axis / h, recon.shape)[keep] for axis, h in zip(_centred(recon.shape), half, strict=True)]
    values = recon[keep]

    def model(p: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[Any]]:
        turned = np.exp(1j * (p[2] * x[0] + p[3] * x[1])) * values
        return turned, shiftable.at((p[4], p[5]))[keep]

    p = np.array([1.0, 0.0, ramp[0] * half[0], ramp[1] * half[1], *fraction])
    turned, target = model(p)
    scale = np.vdot(turned, target) / max(np.vdot(turned, turned).real, np.finfo(np.float64).tiny)
    p[:2] = scale.real, scale.imag
    misfit = complex(p[0], p[1]) * turned - target
    cost = float(np.vdot(misfit, misfit).real)
    reach = np.asarray(fraction) - 3.0, np.asarray(fraction) + 3.0  # the coarse shift is right to a pixel or so
    for _ in range(max_steps):
        scaled = complex(p[0], p[1]) * turned
        columns = [turned, 1j * turned, 1j * x[0] * scaled, 1j * x[1] * scaled]
        if register:
            columns += [-slope[keep] for slope in shiftable.slopes((p[4], p[5]))]
        jacobian = np.stack(columns)
        normal = (jacobian.conj() @ jacobian.T).real
        step = np.zeros(6)
        step[: len(columns)] = -np.linalg.lstsq(normal, (jacobian.conj() @ misfit).real, rcond=1e-12)[0]
        step[4:] = np.clip(p[4:] + step[4:], *reach) - p[4:]
        for _ in range(8):
            trial = p + step
            turned_trial, target = model(trial)
            misfit_trial = complex(trial[0], trial[1]) * turned_trial - target
            cost_trial = float(np.vdot(misfit_trial, misfit_trial).real)
            if cost_trial < cost:
                break
            step = step / 2
        else:
            break
        gain = cost - cost_trial
        p, turned, misfit, cost = trial, turned_trial, misfit_trial, cost_trial
        if gain <= 1e-12 * cost or np.abs(step[2:]).max() < 1e-9:
            break
    found = (shift[0] + p[4] - fraction[0], shift[1] + p[5] - fraction[1])
    return Ambiguities(
        scale=complex(p[0], p[1]),
        ramp_rad_per_px=(float(p[2] / half[0]), float(p[3] / half[1])),
        shift_px=(float(found[0]), float(found[1])),
    )
