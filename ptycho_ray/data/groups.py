"""From a scan to the groups of patterns that a network is trained on or applied to."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptycho_ray.config import TrainingConfig
from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.data.corrections import apply_corrections
from ptycho_ray.data.grouping import group_indices, legacy_group_indices
from ptycho_ray.data.normalisation import Normalisation
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import InputError


def create_ptycho_data_container(
    data: RawData | PtychoDataContainer, config: TrainingConfig, *, normalisation: Normalisation | None = None
) -> PtychoDataContainer:
    """Group a scan as the configuration says; a container passes through untouched.

    The scan is first put right as the configuration says (``ptycho_ray.data.corrections``). Without ``normalisation`` this is a
    training set: at most ``config.n_groups`` groups, and the scales are measured on
    them. With the normalisation of a training set it is a set to reconstruct: every pattern is the seed of a group.

    Raises:
        TypeError: ``data`` is neither a RawData nor a container.
        InputError: pattern side and configuration differ, or the scan is too small for the groups.
    """
    if isinstance(data, PtychoDataContainer):
        return data
    if not isinstance(data, RawData):
        raise TypeError(f"data must be a RawData or a PtychoDataContainer, not a {type(data).__name__}")
    data = apply_corrections(data, config)
    n, model = len(data), config.model
    if model.N != data.N:
        raise InputError(
            file=data.source or None, field="N", found=f"patterns of side {data.N}", expected=f"N = {model.N}"
        )
    n_groups = n
    if normalisation is None and config.n_groups is not None:
        n_groups = config.n_groups if config.enable_oversampling else min(config.n_groups, n)
    common: dict[str, Any] = {
        "neighbor_count": config.neighbor_count,
        "enable_oversampling": config.enable_oversampling,
        "neighbor_pool_size": config.neighbor_pool_size,
        "sequential": config.sequential_sampling,
    }
    if config.group_random_stream == "numpy_legacy":
        members = legacy_group_indices(data.positions_px, model.gridsize, n_groups, seed=config.seed, **common)
    else:
        members = group_indices(
            data.positions_px,
            model.gridsize,
            n_groups,
            generator=np.random.default_rng(config.seed),
            include_seed_point=config.include_seed_point,
            **common,
        )
    if normalisation is None:
        normalisation = Normalisation.from_groups(data, members, config)
    return PtychoDataContainer.from_groups(data, members, normalisation)
