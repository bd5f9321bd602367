"""Scan positions [n, 2], float64, (row, column) in object pixels.

All patterns stay N/2 inside the object, so that a patch of N x N pixels with its pixel N//2 on the position never
leaves it. ``step_px`` is the distance of neighbours (for random and Fermat scans the side of the square that one
position has for itself).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError
from ptycho_ray.physics.optics import probe_diameter_px

Positions = NDArray[np.float64]
Shape = tuple[int, int]
GOLDEN_ANGLE = np.pi * (3 - np.sqrt(5))
JITTER = 0.3  # of the step, each way, as in the PtychoPINN torch generator


def _field(shape: Shape, N: int) -> tuple[Positions, Positions]:
    """Lowest and highest position that keeps the whole patch within the object."""
    low = np.full(2, N // 2, dtype=np.float64)
    high = np.array(shape, dtype=np.float64) - (N - N // 2)
    if np.any(high < low):
        raise InputError(field="object shape", found=shape, expected=f"at least N = {N} pixels a side")
    return low, high


def grid(shape: Shape, N: int, step_px: float, rng: np.random.Generator) -> Positions:
    """Raster in row order, centred in the field. A raster is periodic and can imprint its period on the image."""
    low, high = _field(shape, N)
    counts = np.floor((high - low) / step_px + 1e-9).astype(int) + 1
    axes = [(a + b) / 2 + step_px * (np.arange(n) - (n - 1) / 2) for a, b, n in zip(low, high, counts, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def jitter(shape: Shape, N: int, step_px: float, rng: np.random.Generator) -> Positions:
    """Raster whose positions are moved by up to 0.3 steps along each axis, kept within the field."""
    nominal = grid(shape, N, step_px, rng)
    moved = nominal + rng.uniform(-JITTER * step_px, JITTER * step_px, nominal.shape)
    return np.clip(moved, *_field(shape, N))


def spiral(shape: Shape, N: int, step_px: float, rng: np.random.Generator) -> Positions:
    """Archimedean spiral from the centre with ``step_px`` between turns and along the arc, cut to the field."""
    low, high = _field(shape, N)
    reach = np.hypot(*(high - low)) / 2 + step_px
    n = int(np.pi * (reach / step_px) ** 2) + 2
    pitch = step_px / (2 * np.pi)
    # Arc length is about pitch * angle**2 / 2, so equal arcs are equal steps of angle**2.
    angle = np.sqrt(2 * step_px * np.arange(n) / pitch)
    return _within(pitch * angle, angle, low, high)


def fermat(shape: Shape, N: int, step_px: float, rng: np.random.Generator) -> Positions:
    """Fermat spiral with the golden angle: equal density, no period (Huang et al., Opt. Express 22, 2014)."""
    low, high = _field(shape, N)
    reach = np.hypot(*(high - low)) / 2 + step_px
    n = int(np.pi * (reach / step_px) ** 2) + 2
    k = np.arange(n)
    return _within(step_px * np.sqrt(k / np.pi), GOLDEN_ANGLE * k, low, high)


def random(shape: Shape, N: int, step_px: float, rng: np.random.Generator) -> Positions:
    """Independent uniform positions, one for every square of ``step_px``."""
    low, high = _field(shape, N)
    n = max(1, round(float(np.prod(np.maximum(high - low, step_px))) / step_px**2))
    return rng.uniform(low, high, (n, 2))


def _within(radius: Positions, angle: Positions, low: Positions, high: Positions) -> Positions:
    places = (low + high) / 2 + radius[:, None] * np.stack([np.sin(angle), np.cos(angle)], axis=1)
    return places[np.all((places >= low) & (places <= high), axis=1)]


ScanMaker = Callable[[Shape, int, float, np.random.Generator], Positions]
SCANS: dict[str, ScanMaker] = {"grid": grid, "jitter": jitter, "spiral": spiral, "fermat": fermat, "random": random}


def make_scan(
    name: str,
    shape: Shape,
    N: int,
    rng: np.random.Generator,
    *,
    step_px: float | None = None,
    n_patterns: int | None = None,
) -> Positions:
    """Positions of scan kind ``name`` (a key of ``SCANS``) over the whole object, by ``step_px`` or by their number.

    With ``n_patterns`` the largest step is taken that yields at least as many positions; the surplus at the end is
    dropped.
    """
    if name not in SCANS:
        raise InputError(field="scan", found=repr(name), expected=f"one of {', '.join(SCANS)}")
    if (step_px is None) == (n_patterns is None):
        raise InputError("give either step_px or n_patterns", field="scan")
    if step_px is not None:
        if step_px <= 0:
            raise InputError(field="step_px", found=step_px, expected="a number above 0")
        return SCANS[name](shape, N, step_px, rng)
    assert n_patterns is not None
    if n_patterns < 1:
        raise InputError(field="n_patterns", found=n_patterns, expected="1 or more")
    if name == "random":
        low, high = _field(shape, N)
        return rng.uniform(low, high, (n_patterns, 2))
    return _scan_of(n_patterns, SCANS[name], shape, N, rng)


def _scan_of(n: int, kind: ScanMaker, shape: Shape, N: int, rng: np.random.Generator) -> Positions:
    low, high = _field(shape, N)
    if n > 1 and np.all(high == low):
        raise InputError(field="n_patterns", found=n, expected=f"1, as the object has only {shape} pixels for N = {N}")
    count_rng = np.random.default_rng(0)  # it moves positions but does not change their number
    step = float((high - low).max()) + 1.0
    while len(kind(shape, N, step, count_rng)) < n:
        step /= 2
    enough, too_wide = step, 2 * step
    while too_wide - enough > 1e-6 * enough:
        middle = (enough + too_wide) / 2
        if len(kind(shape, N, middle, count_rng)) >= n:
            enough = middle
        else:
            too_wide = middle
    return kind(shape, N, enough, rng)[:n]


def step_for_overlap(probe: NDArray[Any], overlap: float) -> float:
    """Step in pixels at which neighbouring probes overlap linearly by ``overlap``: diameter * (1 - overlap)."""
    if not 0 <= overlap < 1:
        raise InputError(field="overlap", found=overlap, expected="0 or more and below 1")
    return probe_diameter_px(probe) * (1 - overlap)


def scan_for_overlap(
    name: str, shape: Shape, probe: NDArray[Any], overlap: float, rng: np.random.Generator
) -> Positions:
    """Positions of kind ``name`` whose neighbours overlap by ``overlap`` for ``probe`` [P, N, N]."""
    return make_scan(name, shape, probe.shape[-1], rng, step_px=step_for_overlap(probe, overlap))
