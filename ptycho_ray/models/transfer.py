"""A trained network in the physics of another scan: the probe of that scan, and the scales measured on it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from ptycho_ray.config import TrainingConfig
from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.data.groups import create_ptycho_data_container
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.registry import for_side
from ptycho_ray.physics.likelihood import good_pixels_of


def physical_probe(container: PtychoDataContainer) -> torch.Tensor:
    """The probe modes of a scan in sqrt(photons), complex64 [P, N, N]."""
    return torch.from_numpy(container.raw.probe * np.float32(np.sqrt(container.normalisation.photon_scale)))


def model_for_scan(model: PhysicsInformedModel, data: RawData, config: TrainingConfig) -> PhysicsInformedModel:
    """The network of ``model`` inside the physics of another scan: its probe, and the scales measured on it."""
    return _model_inside(model, create_ptycho_data_container(data, config))


def _model_inside(model: PhysicsInformedModel, container: PtychoDataContainer) -> PhysicsInformedModel:
    """A network that sees the probe has one idea of amplitude 1 for all probes: what training made of the scale of the
    object, relative to the measured one, then holds for the other scan too."""
    config = for_side(model.config, container.N)
    other = PhysicsInformedModel(config, container.normalisation, physical_probe(container), model.network)
    other.network_dtype = model.network_dtype
    other.good_pixels = good_pixels_of(container.raw.bad_pixels)
    if model.config.sees_probe:
        learned = float(model.object_scale.detach()) / model.normalisation.object_scale
        with torch.no_grad():
            other.log_object_scale.add_(math.log(learned))
    return other.to(model.probe_parts.device)


def groups_to_reconstruct(
    model: PhysicsInformedModel, data: RawData | PtychoDataContainer, config: TrainingConfig
) -> PtychoDataContainer:
    """All groups of a scan, with the scales of the model; for a network that sees the probe with the scan's own."""
    normalisation = model.normalisation
    if model.config.sees_probe and isinstance(data, RawData):
        config = replace(config, model=for_side(config.model, data.N))
        normalisation = create_ptycho_data_container(data, config).normalisation
    return create_ptycho_data_container(data, config, normalisation=normalisation)


def model_for_groups(model: PhysicsInformedModel, container: PtychoDataContainer) -> PhysicsInformedModel:
    """The model that reconstructs these groups. Only a network that sees the probe goes into the physics of another scan;
    groups with the very scales of the model are of the scan that the model knows, perhaps with a better probe."""
    if not model.config.sees_probe or container.normalisation == model.normalisation:
        return model
    return _model_inside(model, container)
