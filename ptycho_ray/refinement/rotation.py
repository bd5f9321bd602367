"""The angle between the axes of the scan and those of the detector, determined from the data.

The object is solved for with the positions rotated by several angles; the one that best predicts held-out patterns is chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from ptycho_ray.data.position_maps import position_matrix, transformed_positions
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.refinement.batching import held_out_patterns
from ptycho_ray.refinement.direct import DirectSolver
from ptycho_ray.refinement.orientation import HELD_OUT, MOST_PATTERNS, reduced_scan

PASSES = 16
STEPS = 4
REFINEMENTS = 3


@dataclass(frozen=True)
class Rotation:
    """``angle_deg`` turns rows towards columns; ``margin`` is the share by which leaving the positions as they are is
    worse on held-out patterns and ``significance`` that difference in standard errors; ``decided`` if it is clear."""

    angle_deg: float
    margin: float
    significance: float
    decided: bool
    tried: dict[float, float]


def turned(positions: np.ndarray, angle_deg: float) -> np.ndarray:
    """Positions [n, 2] turned about their mean, rows towards columns."""
    return transformed_positions(positions, position_matrix(rotation_rad=math.radians(angle_deg)))


def find_rotation(
    scan: RawData,
    generator: np.random.Generator,
    *,
    largest_deg: float = 8.0,
    most_patterns: int = MOST_PATTERNS,
    device: torch.device | None = None,
) -> Rotation:
    """Search between ``-largest_deg`` and ``largest_deg``: a grid, then twice as fine around its best angle, and so on.

    Raises:
        InputError: fewer than 8 patterns.
    """
    photons, probe, positions, bad = reduced_scan(scan, most_patterns, device)
    held_out = held_out_patterns(len(positions), HELD_OUT, generator)
    judged = np.flatnonzero(held_out)
    misfits: dict[float, np.ndarray] = {}

    def misfit(angle: float) -> float:
        if angle not in misfits:
            solver = DirectSolver(photons, turned(positions, angle), probe, learn=~held_out, bad_pixels=bad)
            for _ in range(PASSES):
                solver.step()
            misfits[angle] = solver.pattern_r_factors(judged)
        return float(misfits[angle].mean())

    step = largest_deg / STEPS
    best = min((step * k for k in range(-STEPS, STEPS + 1)), key=misfit)
    for _ in range(REFINEMENTS):
        step /= 2
        best = min((best - step, best, best + step), key=misfit)
    low, middle, high = (misfit(best + k * step) for k in (-1, 0, 1))
    curvature = low - 2 * middle + high
    angle = best + (step * (low - high) / (2 * curvature) if curvature > 0 else 0.0)
    misfit(0.0)
    difference = misfits[0.0] - misfits[best]
    error = float(difference.std(ddof=1) / np.sqrt(len(difference)))
    margin, significance = misfit(0.0) / misfit(best) - 1, float(difference.mean() / max(error, 1e-12))
    decided = best != 0 and margin > 0.01 and significance > 3
    return Rotation(angle, margin, significance, decided, {a: float(v.mean()) for a, v in sorted(misfits.items())})
