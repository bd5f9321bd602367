"""How much the illuminated discs of a scan overlap: pure geometry, only reported. The illumination is approximated
by a disc of diameter D; two discs whose centres are d apart share the fraction ``(2 R^2 acos(d / 2R) - d / 2 sqrt(4
R^2 - d^2)) / (pi R^2)`` of their area, with R = D / 2, and nothing for d >= D.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from ptycho_ray.data.grouping import group_indices
from ptycho_ray.errors import InputError

METRICS_VERSION = 1
CENTRES_AT_ONCE = 2048
"""All pairs of a large scan would take more memory than its patterns."""


def disc_overlap(distance: ArrayLike, diameter: float) -> NDArray[np.float64]:
    """Shared fraction of the areas of two discs of ``diameter`` whose centres are ``distance`` [...] apart: 1 to 0."""
    d, radius = np.minimum(np.asarray(distance, dtype=np.float64), diameter), diameter / 2
    area = 2 * radius**2 * np.arccos(d / diameter) - d / 2 * np.sqrt(np.maximum(diameter**2 - d**2, 0))
    return np.asarray(area / (math.pi * radius**2))


def overlap_metrics(
    positions_px: NDArray[np.float64],
    probe_diameter_px: float,
    *,
    gridsize: int = 1,
    used_fraction: float = 1.0,
    n_groups: int | None = None,
    neighbor_count: int = 6,
    seed: int = 0,
) -> dict[str, Any]:
    """Mean overlaps of a scan [n, 2], with every parameter that they depend on.

    ``overlap_in_groups``      of the first pattern of a group with its other members (gridsize 2 and more)
    ``overlap_of_images``      of distinct positions with their ``neighbor_count`` nearest ones
    ``overlap_of_groups``      of the centres of groups with all others closer than the diameter, 0 where there is none

    ``used_fraction`` of the positions are used, chosen with ``seed``. The same arguments give the same numbers.
    Raises InputError for fewer than 2 positions or no diameter.
    """
    if not (np.isfinite(probe_diameter_px) and probe_diameter_px > 0):
        raise InputError(field="probe_diameter_px", found=probe_diameter_px, expected="a number above 0")
    if not 0 < used_fraction <= 1:
        raise InputError(field="used_fraction", found=used_fraction, expected="above 0, at most 1")
    generator = np.random.default_rng(seed)
    count = max(1, round(used_fraction * len(positions_px)))
    used = positions_px[np.sort(generator.choice(len(positions_px), count, replace=False))]
    distinct = np.unique(used, axis=0)
    if len(distinct) < 2:
        raise InputError(field="positions", found=f"{len(distinct)} distinct", expected="at least 2")
    neighbours = min(neighbor_count, len(distinct) - 1)
    distances = cKDTree(distinct).query(distinct, k=neighbours + 1)[0][:, 1:]
    groups = len(used) if n_groups is None else n_groups
    found: dict[str, Any] = {
        "metrics_version": METRICS_VERSION,
        "gridsize": gridsize,
        "used_fraction": used_fraction,
        "n_groups": groups,
        "neighbor_count": neighbours,
        "probe_diameter_px": probe_diameter_px,
        "seed": seed,
        "overlap_of_images": float(disc_overlap(distances, probe_diameter_px).mean()),
    }
    members = used[:, None]
    if gridsize > 1:
        chosen = group_indices(used, gridsize, groups, neighbor_count=neighbor_count, generator=generator)
        members = used[chosen]
        apart = np.linalg.norm(members[:, 1:] - members[:, :1], axis=-1)
        found["overlap_in_groups"] = float(disc_overlap(apart, probe_diameter_px).mean())
    found["overlap_of_groups"] = _overlap_of_centres(members.mean(axis=1), probe_diameter_px)
    return found


def _overlap_of_centres(centres: NDArray[np.float64], diameter: float) -> float:
    tree, total, count = cKDTree(centres), 0.0, 0
    for start in range(0, len(centres), CENTRES_AT_ONCE):
        some = cKDTree(centres[start : start + CENTRES_AT_ONCE])
        distances = some.sparse_distance_matrix(tree, diameter, output_type="ndarray")["v"]
        total += float(disc_overlap(distances, diameter).sum()) - some.n  # without each one with itself
        count += len(distances) - some.n
    return total / count if count else 0.0
