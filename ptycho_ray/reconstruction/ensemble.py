"""The images of several networks combined: their mean, and how much they differ at each pixel.

B. Lakshminarayanan et al., deep ensembles, arXiv:1612.01474: networks trained in the same way from different initial
weights differ most where the data do not determine the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.config import TrainingConfig
from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.reconstruction.stitching import StitchedObject

#: Rounds in which every image is brought to the mean of all.
ROUNDS = 3


def combine(images: Sequence[StitchedObject]) -> StitchedObject:
    """The mean of images of one scan with their standard deviation at each pixel.

    Diffraction leaves the phase of an image open, and a learnt intensity scale its amplitude: each image is first
        scaled to the mean of all by a complex factor, fitted by least squares weighted by the illumination.

    Returns:
        Amplitudes are averaged as such and phases on the circle (a complex mean would have too low an amplitude where
        phases disagree). Deviations are those of a sample, with one degree of freedom less than there are images. The
        weight is that of the first image.

    Raises:
        InputError: fewer than two images, or of different shapes or places.
    """
    first = images[0]
    if len(images) < 2 or any(other.image.shape != first.image.shape for other in images):
        raise InputError(
            field="images",
            found=[other.image.shape for other in images],
            expected="at least two images of the same shape",
        )
    if any(other.origin_px != first.origin_px for other in images):
        raise InputError(
            field="origin_px", found=[other.origin_px for other in images], expected="images at the same position"
        )
    aligned = _aligned(np.stack([each.image for each in images]).astype(np.complex128), first.weight)
    amplitudes = np.abs(aligned)
    directions = np.divide(aligned, amplitudes, out=np.zeros_like(aligned), where=amplitudes > 0)
    middle = np.angle(directions.mean(axis=0))
    residues = np.angle(aligned * np.exp(-1j * middle))
    phase = middle + residues.mean(axis=0)
    return StitchedObject(
        (amplitudes.mean(axis=0) * np.exp(1j * phase)).astype(np.complex64),
        first.weight,
        first.origin_px,
        amplitudes.std(axis=0, ddof=1).astype(np.float32),
        residues.std(axis=0, ddof=1).astype(np.float32),
    ).with_zero_mean_phase()


def _aligned(images_KHW: NDArray[np.complex128], weight_HW: NDArray[Any]) -> NDArray[np.complex128]:
    """Each image times a complex factor, so that they agree; their mean amplitude and mean phase are kept."""
    target = images_KHW[0]
    level = np.sqrt(_power(images_KHW, weight_HW).mean())
    factors = np.ones(len(images_KHW), dtype=np.complex128)
    for _ in range(ROUNDS):
        overlaps = np.sum(weight_HW * images_KHW.conj() * target, axis=(1, 2))
        factors = overlaps / np.maximum(_power(images_KHW, weight_HW), np.finfo(np.float64).tiny)
        target = (factors[:, None, None] * images_KHW).mean(axis=0)
        target *= level / max(np.sqrt(_power(target[None], weight_HW)[0]), np.finfo(np.float64).tiny)
    return factors[:, None, None] * images_KHW


def _power(images_KHW: NDArray[np.complex128], weight_HW: NDArray[Any]) -> NDArray[np.float64]:
    power: NDArray[np.float64] = np.sum(weight_HW * np.abs(images_KHW) ** 2, axis=(1, 2))
    return power


def on_one_canvas(images: Sequence[StitchedObject]) -> list[StitchedObject]:
    """The images padded with zeros to a common shape and position; these differ if the members have learnt positions."""
    origins = np.array([image.origin_px for image in images])
    low = origins.min(axis=0)
    corners = np.round(origins - low).astype(int)
    shape = tuple(int(side) for side in (corners + [image.image.shape for image in images]).max(axis=0))
    placed = []
    for image, (row, column) in zip(images, corners, strict=True):
        there = np.s_[row : row + image.image.shape[0], column : column + image.image.shape[1]]
        pixels, weight = np.zeros(shape, image.image.dtype), np.zeros(shape, image.weight.dtype)
        pixels[there], weight[there] = image.image, image.weight
        placed.append(StitchedObject(pixels, weight, (float(low[0]), float(low[1]))))
    return placed


def mean_of_members(
    reconstruct_one: Callable[..., tuple[np.ndarray, np.ndarray, dict[str, Any]]],
    test_data: RawData | PtychoDataContainer,
    config: TrainingConfig,
    models: Sequence[PhysicsInformedModel],
    keep_patches: bool,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """``workflow.reassemble_cdi_image`` with each of several models, and the mean of the images."""
    results: dict[str, Any] = {}
    images: list[StitchedObject] = []
    for number, model in enumerate(models):
        data = test_data
        if isinstance(data, PtychoDataContainer) and not model.config.sees_probe:
            data = replace(data, normalisation=model.normalisation)
        found = reconstruct_one(data, config, model=model, keep_patches=keep_patches and number == 0)[2]
        if "stitched" not in found:
            raise ConfigurationError(field="stitch", found="'crop'", expected="'probe' for an ensemble")
        results = results or found
        images.append(found["stitched"])
    images = on_one_canvas(images)
    stitched = combine(images)
    results |= {"stitched": stitched, "member_images": images, "stitched_obj": stitched.image[..., None]}
    results["recon_amp"], results["recon_phase"] = (part(results["stitched_obj"]) for part in (np.abs, np.angle))
    return results["recon_amp"], results["recon_phase"], results
