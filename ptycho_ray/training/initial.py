"""Training that starts from a trained network instead of random weights."""

from __future__ import annotations

import dataclasses

from torch import nn

from ptycho_ray.bundle import load_bundle
from ptycho_ray.config import TrainingConfig
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.models.registry import for_side

#: Settings of the model that its network does not depend on.
PHYSICS_SETTINGS = frozenset(
    {"probe_mask", "probe_mask_sigma", "probe_mask_diameter", "probe_scale", "gaussian_smoothing_sigma", "merge"}
)


def initial_network(config: TrainingConfig) -> nn.Module:
    """The network of ``config.initial_model``, to be trained further; ConfigurationError if ``config`` describes another."""
    assert config.initial_model is not None
    bundle = load_bundle(config.initial_model)
    theirs = for_side(bundle.config.model, config.model.N)
    for field in dataclasses.fields(theirs):
        wanted, there = getattr(config.model, field.name), getattr(theirs, field.name)
        if wanted != there and field.name not in PHYSICS_SETTINGS:
            raise ConfigurationError(
                f"the network of {config.initial_model} differs from the configured one",
                field=f"model.{field.name}",
                found=wanted,
                expected=there,
            )
    return bundle.model.network
