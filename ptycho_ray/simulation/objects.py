"""Simulated samples: complex transmissions [H, W] with a stated range of amplitude and phase.

Every kind draws one or two textures and maps each linearly onto its range: the amplitude fills ``amplitude_range``,
the phase ``phase_range`` (radians), both over the full range. All randomness comes from the generator passed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage import data as skimage_data
from skimage.color import rgb2gray
from skimage.draw import disk, line, polygon
from skimage.transform import resize

from ptycho_ray.errors import InputError

Range = tuple[float, float]
Shape = tuple[int, int]
Texture = NDArray[np.float64]
ObjectMaker = Callable[..., NDArray[np.complex64]]

AMPLITUDE_RANGE: Range = (0.5, 1.0)
PHASE_RANGE: Range = (-0.5, 0.5)
LINES_BLUR = ((1.0, 1.0), (2.0, 5.0), (5.0, 10.0))  # (weight, sigma in pixels)
TEST_IMAGES = ("camera", "coins", "coffee", "moon", "page", "text", "brick", "grass", "gravel", "astronaut", "cell")


def transmission(
    amplitude_texture: Texture, phase_texture: Texture, amplitude_range: Range, phase_range: Range
) -> NDArray[np.complex64]:
    """Map two textures of any range onto amplitude and phase and return amplitude * exp(i phase)."""
    amplitude = _onto(amplitude_texture, amplitude_range, "amplitude_range")
    phase = _onto(phase_texture, phase_range, "phase_range")
    if amplitude_range[0] < 0:
        raise InputError(field="amplitude_range", found=amplitude_range, expected="numbers of 0 or more")
    return (amplitude * np.exp(1j * phase)).astype(np.complex64)


def _onto(texture: Texture, limits: Range, name: str) -> Texture:
    low, high = limits
    if not low <= high:
        raise InputError(field=name, found=limits, expected="(low, high) with low <= high")
    spread = np.ptp(texture)
    if spread == 0:
        return np.full(texture.shape, high)
    return low + (high - low) * (texture - texture.min()) / spread


# --- textures ------------------------------------------------------------------------------------------------------


def line_drawing(shape: Shape, uniform: Callable[[int], NDArray[Any]], n_lines: int) -> Texture:
    """``n_lines`` random segments of value 1 on zeros; ``uniform(4)`` gives the ends (row, column, row, column) /
    shape.
    """
    canvas = np.zeros(shape)
    scale = np.array([shape[0], shape[1], shape[0], shape[1]])
    for _ in range(n_lines):
        canvas[line(*(uniform(4) * scale).astype(int).tolist())] = 1.0
    return canvas


def sum_of_blurs(image: Texture, blurs: tuple[tuple[float, float], ...]) -> Texture:
    """Sum of weight * Gaussian blur over (weight, sigma in pixels); edges are mirrored."""
    return np.sum([weight * gaussian_filter(image, sigma) for weight, sigma in blurs], axis=0)


def centre_half(image: Texture, shape: Shape) -> Texture:
    """Central ``shape`` of an image drawn on twice that size."""
    top, left = shape[0] // 2, shape[1] // 2
    return image[top : top + shape[0], left : left + shape[1]]


def lines_texture(shape: Shape, uniform: Callable[[int], NDArray[Any]], n_lines: int = 400) -> Texture:
    """The reference's 'lines': segments on a canvas of twice the size, three blurs (1, 5 and 10 px), central half."""
    canvas = line_drawing((2 * shape[0], 2 * shape[1]), uniform, n_lines)
    return centre_half(sum_of_blurs(canvas, LINES_BLUR), shape)


def _grf_texture(shape: Shape, rng: np.random.Generator, exponent: float, smoothing_px: float) -> Texture:
    k = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])[None, :])
    k[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.standard_normal(shape)) * k ** (-exponent / 2)
    field = np.fft.ifft2(spectrum).real
    return gaussian_filter(field, smoothing_px, mode="wrap") if smoothing_px > 0 else field


def _leaf(rng: np.random.Generator, centre: Texture, radius: float, shape: Shape) -> tuple[Any, Any]:
    corners = int(rng.integers(2, 6))  # 2 stands for a disc
    if corners == 2:
        return disk(centre, radius, shape=shape)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners)) if corners == 3 else None
    if angles is None:
        angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(corners) / corners
    return polygon(centre[0] + radius * np.sin(angles), centre[1] + radius * np.cos(angles), shape=shape)


# --- kinds ---------------------------------------------------------------------------------------------------------


def lines(
    shape: Shape,
    rng: np.random.Generator,
    *,
    n_lines: int = 400,
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range: Range = PHASE_RANGE,
) -> NDArray[np.complex64]:
    """Two independent drawings of random segments, blurred (the PtychoPINN chain's 'lines' recipe)."""
    amplitude, phase = (lines_texture(shape, rng.random, n_lines) for _ in range(2))
    return transmission(amplitude, phase, amplitude_range, phase_range)


def grf(
    shape: Shape,
    rng: np.random.Generator,
    *,
    exponent: float = 2.0,
    smoothing_px: float = 1.0,
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range: Range = PHASE_RANGE,
) -> NDArray[np.complex64]:
    """Two independent Gaussian random fields with power spectrum k**-exponent (the reference uses 0.4), smoothed."""
    amplitude, phase = (_grf_texture(shape, rng, exponent, smoothing_px) for _ in range(2))
    return transmission(amplitude, phase, amplitude_range, phase_range)


def dead_leaves(
    shape: Shape,
    rng: np.random.Generator,
    *,
    n_leaves: int = 500,
    radius_range: Range = (0.02, 0.2),
    smoothing_px: float = 0.7,
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range: Range = PHASE_RANGE,
) -> NDArray[np.complex64]:
    """Overlapping discs and polygons, each with its own amplitude and phase: sharp edges at all scales.

    Radii follow a power law r**-3 between ``radius_range`` (fractions of the shorter side), as in Lee, Mumford and
    Huang (IJCV 41, 2001); ``smoothing_px`` blurs the edges of the pixels.
    """
    textures = np.zeros((2, *shape))
    low, high = (limit * min(shape) for limit in radius_range)
    for _ in range(n_leaves):
        radius = (low**-2 - rng.random() * (low**-2 - high**-2)) ** -0.5
        centre = rng.uniform(-radius, np.array(shape) + radius)
        rows, columns = _leaf(rng, centre, radius, shape)
        textures[:, rows, columns] = rng.random(2)[:, None]
    amplitude, phase = (gaussian_filter(texture, smoothing_px) for texture in textures)
    return transmission(amplitude, phase, amplitude_range, phase_range)


def siemens(
    shape: Shape,
    rng: np.random.Generator,
    *,
    n_spokes: int = 36,
    inner_radius: float = 0.02,
    outer_radius: float = 0.45,
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range: Range = PHASE_RANGE,
) -> NDArray[np.complex64]:
    """A Siemens star of one material (spokes absorb and shift the phase), turned by a random angle, edges anti-aliased.

    Radii are fractions of the shorter side; the spokes end at ``inner_radius``.
    """
    rows = np.arange(shape[0])[:, None] - (shape[0] - 1) / 2
    columns = np.arange(shape[1])[None, :] - (shape[1] - 1) / 2
    radius = np.maximum(np.hypot(rows, columns), 1e-6)
    angle = np.arctan2(rows, columns) + rng.uniform(0, 2 * np.pi)
    # Distance in pixels to the nearest edge of a spoke or of the rings, positive inside.
    spoke = np.arcsin(np.sin(n_spokes * angle)) * radius / n_spokes
    edge = np.minimum(spoke, np.minimum(radius - inner_radius * min(shape), outer_radius * min(shape) - radius))
    star = np.clip(0.5 + edge, 0, 1)
    return transmission(1 - star, star, amplitude_range, phase_range)


def pictures(
    shape: Shape,
    rng: np.random.Generator,
    *,
    amplitude_image: str = "camera",
    phase_image: str = "coffee",
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range: Range = PHASE_RANGE,
) -> NDArray[np.complex64]:
    """Two of scikit-image's pictures (those that need no download) as amplitude and phase, each turned at random."""
    textures = []
    for name in (amplitude_image, phase_image):
        if name not in TEST_IMAGES:
            raise InputError(field="test image", found=repr(name), expected=f"one of {', '.join(TEST_IMAGES)}")
        picture = getattr(skimage_data, name)()
        gray = rgb2gray(picture) if picture.ndim == 3 else picture
        textures.append(resize(np.rot90(gray, int(rng.integers(4))).astype(np.float64), shape, anti_aliasing=True))
    return transmission(textures[0], textures[1], amplitude_range, phase_range)


def points(
    shape: Shape,
    rng: np.random.Generator,
    *,
    fraction: float = 0.1,
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range: Range = PHASE_RANGE,
) -> NDArray[np.complex64]:
    """Random single pixels, ``fraction`` of them, as many small grains on a slow background (blurs of 1 and 10 px)."""
    blurs = ((1.0, 1.0), (5.0, 10.0))
    amplitude, phase = (sum_of_blurs((rng.random(shape) < fraction).astype(np.float64), blurs) for _ in range(2))
    return transmission(amplitude, phase, amplitude_range, phase_range)


def diagonals(
    shape: Shape,
    rng: np.random.Generator,
    *,
    n_lines: int = 40,
    amplitude_range: Range = AMPLITUDE_RANGE,
    phase_range: Range = PHASE_RANGE,
) -> NDArray[np.complex64]:
    """``n_lines`` each of full-length horizontal, vertical and diagonal lines (blurs of 0.75 and 7.5 px)."""
    textures = []
    for _ in range(2):
        canvas = np.zeros((2 * shape[0], 2 * shape[1]))
        canvas[rng.integers(0, canvas.shape[0], n_lines)] = 1.0
        canvas[:, rng.integers(0, canvas.shape[1], n_lines)] = 1.0
        for offset in rng.integers(-canvas.shape[0] + 1, canvas.shape[1], n_lines):
            rows = np.arange(max(0, -offset), min(canvas.shape[0], canvas.shape[1] - offset))
            canvas[rows, rows + offset] = 1.0
        textures.append(centre_half(sum_of_blurs(canvas, ((1.0, 0.75), (5.0, 7.5))), shape))
    return transmission(textures[0], textures[1], amplitude_range, phase_range)


OBJECTS: dict[str, ObjectMaker] = {
    "lines": lines,
    "grf": grf,
    "dead_leaves": dead_leaves,
    "siemens": siemens,
    "test_image": pictures,
    "points": points,
    "diagonals": diagonals,
}


def make_object(name: str, shape: Shape, rng: np.random.Generator, **settings: Any) -> NDArray[np.complex64]:
    """The object kind ``name`` (a key of ``OBJECTS``) with its settings; InputError for an unknown name or a tiny
    shape.
    """
    if name not in OBJECTS:
        raise InputError(field="object", found=repr(name), expected=f"one of {', '.join(OBJECTS)}")
    if min(shape) < 16:
        raise InputError(field="object shape", found=shape, expected="at least 16 pixels a side")
    return OBJECTS[name](shape, rng, **settings)
