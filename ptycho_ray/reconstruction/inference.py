"""Applying a trained model to the groups of a scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.physics.likelihood import r_factor
from ptycho_ray.physics.translation import centre_crop
from ptycho_ray.reconstruction.stitching import StitchAccumulator, StitchedObject


@dataclass(frozen=True)
class GroupPrediction:
    """Predicted objects of some groups.

    Attributes:
        rows: which groups, int64 [b].
        patches: transmission at each pattern, complex64 [b, O, N, N].
        merged: the patches of each group merged, centred on the group, complex64 [b, N, N].
    """

    rows: np.ndarray
    patches: Tensor
    merged: Tensor


def batches(n: int, batch_size: int) -> Iterator[np.ndarray]:
    """0 .. n - 1 in consecutive pieces."""
    for start in range(0, n, batch_size):
        yield np.arange(start, min(start + batch_size, n))


@torch.inference_mode()
def predict(model: PhysicsInformedModel, container: PtychoDataContainer, batch_size: int) -> Iterator[GroupPrediction]:
    """Predict all groups, batch by batch, on the device the model is on. The result does not depend on the batch size."""
    model.eval()
    device = model.probe_parts.device
    for rows in batches(len(container), batch_size):
        photons, relative = (torch.from_numpy(array).to(device) for array in container.batch(rows))
        patches, merged = model.reconstruct(photons, relative, container.largest_shift_px)
        yield GroupPrediction(rows, patches, merged)


def reconstruct(
    model: PhysicsInformedModel,
    container: PtychoDataContainer,
    batch_size: int,
    *,
    direction_yx: np.ndarray | None = None,
    transpose: bool = False,
    on_batch: Callable[[int, int], None] | None = None,
) -> StitchedObject:
    """Reconstruct a scan: every predicted patch at its own position, weighted by the illumination, in one image.

    With a merged network (``object_big``) each pattern's patch is used, as often as it occurs in groups; otherwise the one
    patch of each group. Memory grows with the canvas and not with the number of patterns.

    Args:
        direction_yx: factors (row, column) on the positions, -1 to mirror an axis; ones if None.
        transpose: swap rows and columns of every patch.
        on_batch: ``on_batch(done, all)`` is told of the progress in groups.
    """
    positions_BC2 = container.raw.positions_px[container.nn_indices]
    if not model.config.object_big:
        positions_BC2 = container.centres_px[:, None]
    if direction_yx is not None:
        positions_BC2 = positions_BC2 * direction_yx
    n, weight = model.config.N, model.overlap_weight()
    accumulator = StitchAccumulator(
        positions_BC2.reshape(-1, 2), n, weight.T if transpose else weight, model.probe_parts.device
    )
    for prediction in predict(model, container, batch_size):
        patches = prediction.patches.mT if transpose else prediction.patches
        accumulator.add(patches.reshape(-1, n, n), positions_BC2[prediction.rows].reshape(-1, 2))
        if on_batch is not None:
            on_batch(int(prediction.rows[-1]) + 1, len(container))
    return accumulator.result()


@torch.inference_mode()
def predict_all(model: PhysicsInformedModel, container: PtychoDataContainer, batch_size: int) -> dict[str, np.ndarray]:
    """The reference's arrays for all groups, channels last: ``reconstructed_obj`` [B, N, N, 1] complex64,
    ``pred_amp`` [B, N, N, C] in sqrt(photons) and its square ``reconstructed_obj_cdi`` (an intensity in spite of its name).
    """
    model.eval()
    device = model.probe_parts.device
    objects, intensities = [], []
    for rows in batches(len(container), batch_size):
        photons, relative = (torch.from_numpy(array).to(device) for array in container.batch(rows))
        prediction = model(photons, relative, container.largest_shift_px)
        objects.append(centre_crop(prediction.canvas, model.config.N)[..., None].cpu().numpy())
        intensities.append(prediction.intensity.movedim(1, -1).cpu().numpy())
    intensity = np.concatenate(intensities)
    return {
        "reconstructed_obj": np.concatenate(objects),
        "pred_amp": np.sqrt(intensity),
        "reconstructed_obj_cdi": intensity,
    }


class DiffractionToObject:
    """The inference model as a PtychoPINN script calls it; other attributes are those of the model itself."""

    def __init__(self, model: PhysicsInformedModel, intensity_scale: float) -> None:
        self.model = model
        self.intensity_scale = intensity_scale

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @torch.inference_mode()
    def predict(self, inputs: Sequence[np.ndarray], batch_size: int = 32) -> np.ndarray:
        """Merged objects, complex64 [B, N, N, 1].

        Args:
            inputs: normalised amplitudes times ``intensity_scale``, [B, N, N, C], and local offsets
                -(position - centre), [B, 1, 2, C] as [x, y].
        """
        scaled, offsets = (np.asarray(array, dtype=np.float32) for array in inputs)
        relative = torch.from_numpy(-offsets[:, 0].transpose(0, 2, 1)[..., ::-1].copy())
        to_amplitude = 1 / (self.intensity_scale * self.model.normalisation.input_scale)
        photons = torch.from_numpy((scaled * np.float32(to_amplitude)).transpose(0, 3, 1, 2) ** 2)
        largest = float(relative.abs().max())
        device = self.model.probe_parts.device
        objects = [
            self.model.reconstruct(photons[rows].to(device), relative[rows].to(device), largest)[1].cpu()
            for rows in batches(len(photons), batch_size)
        ]
        return torch.cat(objects)[..., None].numpy()


@torch.inference_mode()
def diffraction_r_factors(
    model: PhysicsInformedModel, container: PtychoDataContainer, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Diffraction R-factor of every pattern, [B * C], predicted by the network and by a flat object.

    The flat object is an empty beam, scaled to the photons of each pattern: what a reconstruction has to beat.
    """
    model.eval()
    device = model.probe_parts.device
    flat = model.flat_diffraction()
    network, empty = [], []
    for rows in batches(len(container), batch_size):
        photons, relative = (torch.from_numpy(array).to(device) for array in container.batch(rows))
        prediction = model(photons, relative, container.largest_shift_px)
        network.append(r_factor(prediction.intensity, photons).reshape(-1))
        scaled = flat * (photons.sum(dim=(-2, -1), keepdim=True) / flat.sum())
        empty.append(r_factor(scaled, photons).reshape(-1))
    return torch.cat(network).cpu().numpy(), torch.cat(empty).cpu().numpy()
