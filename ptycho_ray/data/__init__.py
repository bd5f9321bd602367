"""Scans: readers, grouping, normalisation and the container that training and reconstruction read."""

from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.data.grouping import group_geometry, group_indices, legacy_group_indices
from ptycho_ray.data.normalisation import Normalisation, calculate_intensity_scale, normalize_data
from ptycho_ray.data.patches import cut_patches, get_image_patches
from ptycho_ray.data.patterns import PatternStack
from ptycho_ray.data.raw_data import RawData, load_data

__all__ = [
    "Normalisation",
    "PatternStack",
    "PtychoDataContainer",
    "RawData",
    "calculate_intensity_scale",
    "cut_patches",
    "get_image_patches",
    "group_geometry",
    "group_indices",
    "legacy_group_indices",
    "load_data",
    "normalize_data",
]
