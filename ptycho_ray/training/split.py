"""A validation split that shares no pattern with training and little of the sample."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from ptycho_ray.data.container import PtychoDataContainer

#: Patterns of validation lie in at most this many compact regions, each large enough for a few whole groups.
REGIONS = 4
GROUPS_IN_REGION = 4


def split_groups(
    container: PtychoDataContainer, fraction: float, generator: np.random.Generator
) -> tuple[PtychoDataContainer, PtychoDataContainer | None]:
    """Split groups into training and validation so that no pattern is in both.

    Patterns of a random subset would be nearly copies of their training neighbours. Instead compact regions of the scan
    are held out: the nearest neighbours of a few random positions, ``fraction`` of all patterns together. Groups that
    have members on both sides belong to neither; a split that leaves one side empty is not made.

    Returns:
        Training and validation groups; validation is None if ``fraction`` is 0 or the scan too small to be split.
    """
    positions = container.raw.positions_px
    wanted = round(fraction * len(positions))
    if wanted == 0:
        return container, None
    held_out = np.zeros(len(positions), dtype=bool)
    members = container.nn_indices.shape[1]
    regions = max(1, min(REGIONS, wanted // (GROUPS_IN_REGION * members)))
    centres = generator.choice(len(positions), size=regions, replace=False)
    _, nearest = cKDTree(positions).query(positions[centres], k=len(positions))
    for ring in nearest.T:  # one pattern further from each centre at a time, until there are enough
        held_out[ring] = True
        if held_out.sum() >= wanted:
            break
    inside = held_out[container.nn_indices]
    training, validation = np.flatnonzero(~inside.any(axis=1)), np.flatnonzero(inside.all(axis=1))
    if training.size == 0 or validation.size == 0:
        return container, None
    return container.subset(training), container.subset(validation)
