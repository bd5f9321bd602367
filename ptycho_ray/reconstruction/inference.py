"""Applying a trained model to the groups of a scan."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ptycho_ray.bundle import load_bundle
from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.config.legacy import dataclass_to_legacy_dict
from ptycho_ray.data.batches import batches, prefetched, sent
from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.data.normalisation import calculate_intensity_scale
from ptycho_ray.evaluation.explained import Explained, flat_object_rate
from ptycho_ray.models.number_format import convolutions
from ptycho_ray.models.physics_informed import PhysicsInformedModel, Prediction
from ptycho_ray.physics.likelihood import apply_pixel_mask, good_pixels_of
from ptycho_ray.physics.translation import centre_crop
from ptycho_ray.reconstruction.phases import PhaseWindow, synchronised_phases
from ptycho_ray.reconstruction.stitching import CHUNK, StitchAccumulator, StitchedObject
from ptycho_ray.reconstruction.together import reconstruct_together

#: Patches of a scan are kept in memory up to this size.
PATCH_MEMORY_BYTES = 2**26


#: Pixels of the patterns of a batch on a GPU, where nobody chose the batch: many, so that starting the work costs little.
GPU_PIXELS = 2**20


class Groups(Protocol):
    """What a model is applied to: a ``PtychoDataContainer``, or patterns that are no scan yet."""

    def __len__(self) -> int: ...

    def batch(self, group_indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Photons [b, C, N, N] of some groups, and their positions relative to the group centres [b, C, 2]."""


def groups_at_once(execution: ExecutionConfig, config: TrainingConfig, device: torch.device) -> int:
    """Groups per batch: as many as ``execution`` says, else as in training, but enough to fill a GPU. The image is the same."""
    if execution.inference_batch_size:
        return execution.inference_batch_size
    enough = 1 if device.type == "cpu" else GPU_PIXELS // (config.model.N * config.model.gridsize) ** 2
    return max(config.batch_size, enough)


@torch.inference_mode()
def predict(model: PhysicsInformedModel, groups: Groups, batch_size: int) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Group rows [b] and their transmission patches [b, O, N, N], batch by batch, on the device the model is on."""
    model.eval()
    device = model.probe_parts.device
    numbers = list(batches(len(groups), batch_size))
    read = prefetched(lambda rows: groups.batch(rows)[0], numbers, threads=0 if device.type == "cpu" else 1, ahead=2)
    for rows, photons in zip(numbers, read, strict=True):
        with convolutions(tf32=False):
            patches = model.transmission_patches(sent(torch.from_numpy(photons), device))
        yield rows, patches


def fetched(predicted: Iterable[tuple[np.ndarray, Tensor]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same on the host; what a GPU has computed is copied while it computes the next batch."""
    coming: tuple[np.ndarray, Tensor, torch.cuda.Event] | None = None
    for rows, patches in predicted:
        if patches.device.type != "cuda":
            yield rows, patches.cpu().numpy()
            continue
        on_host = torch.empty(patches.shape, dtype=patches.dtype, pin_memory=True)
        on_host.copy_(patches, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        if coming is not None:
            yield _arrived(*coming)
        coming = rows, on_host, copied
    if coming is not None:
        yield _arrived(*coming)


def _arrived(rows: np.ndarray, on_host: Tensor, copied: torch.cuda.Event) -> tuple[np.ndarray, np.ndarray]:
    copied.synchronize()
    return rows, on_host.numpy()


def reconstruct(
    model: PhysicsInformedModel,
    container: PtychoDataContainer,
    batch_size: int,
    *,
    direction_yx: np.ndarray | None = None,
    transpose: bool = False,
    synchronise: bool = True,
    on_batch: Callable[[int, int], None] | None = None,
) -> StitchedObject:
    """Reconstruct a scan: every predicted patch at its own position, weighted by the illumination, in one image.

    The phase of the image, which diffraction leaves open, is set so that its mean is zero.

    With a merged network (``object_big``) each pattern's patch is used, as often as it occurs in groups; otherwise the one
    patch of each group. Large sets of patches are kept in a temporary file, so memory does not grow with the scan. A network
    that solves scans (``unrolled``) makes one image of all patterns at once.

    Args:
        direction_yx: factors (row, column) on the positions, -1 to mirror an axis; ones if None.
        transpose: swap rows and columns of every patch.
        synchronise: first give all patches one common phase, see ``ptycho_ray.reconstruction.phases``.
        on_batch: ``on_batch(done, all)`` is called with the progress in groups.
    """
    if model.config.solves_scans:
        positions = container.raw.positions_px * (1.0 if direction_yx is None else direction_yx)
        if not transpose:
            return reconstruct_together(model, container, batch_size, positions, on_batch)
        return reconstruct_together(model, container, batch_size, positions[:, ::-1], on_batch).transposed()
    positions_BC2 = container.raw.positions_px[container.nn_indices]
    if not model.config.object_big:
        positions_BC2 = container.centres_px[:, None]
    if direction_yx is not None:
        positions_BC2 = positions_BC2 * direction_yx
    n = model.config.N
    positions = positions_BC2.reshape(-1, 2)
    weight = model.overlap_weight()
    weight = weight.mT if transpose else weight
    window = PhaseWindow.of(weight.cpu().numpy())
    windows = []
    with PatchStore(n) as store:
        for rows, predicted in fetched(predict(model, container, batch_size)):
            patches = (predicted.swapaxes(-1, -2) if transpose else predicted).reshape(-1, n, n)
            store.append(patches)
            if synchronise:
                windows.append(window.cut(patches))
            if on_batch is not None:
                on_batch(int(rows[-1]) + 1, len(container))
        phases = np.ones(len(positions), dtype=np.complex64)
        if synchronise:
            phases = synchronised_phases(np.concatenate(windows), positions, window)
        accumulator = StitchAccumulator(positions, n, weight, model.probe_parts.device)
        for first, patches in store.pieces():
            some = slice(first, first + len(patches))
            turned = torch.from_numpy(patches * phases[some, None, None])
            accumulator.add(sent(turned, model.probe_parts.device), positions[some])
    return accumulator.result().with_zero_mean_phase()


class PatchStore:
    """Predicted patches of a scan in the order they were added: in an unnamed temporary file once there are many.

    They are needed twice, for their phases and for the image. A plain file and not a memory map, since mapped pages count
    as resident memory.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.file = tempfile.SpooledTemporaryFile(max_size=PATCH_MEMORY_BYTES)  # noqa: SIM115 (closed in __exit__)

    def __enter__(self) -> PatchStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def append(self, patches: np.ndarray) -> None:
        """Add complex64 patches [b, n, n]."""
        self.file.write(np.ascontiguousarray(patches).tobytes())

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """The index of the first and the patches themselves, CHUNK at a time."""
        self.file.seek(0)
        first = 0
        while content := self.file.read(CHUNK * self.n**2 * 8):
            patches = np.frombuffer(content, dtype=np.complex64).reshape(-1, self.n, self.n)
            yield first, patches
            first += len(patches)


@torch.inference_mode()
def predict_diffraction(
    model: PhysicsInformedModel, container: PtychoDataContainer, batch_size: int
) -> Iterator[tuple[Tensor, Prediction]]:
    """Measured photons [b, C, N, N] and the model's predictions for them, batch by batch, on the device the model is on."""
    model.eval()
    device, largest_shift_px = model.probe_parts.device, container.largest_shift_px
    for rows in batches(len(container), batch_size):
        photons, relative = (sent(torch.from_numpy(array), device) for array in container.batch(rows))
        with convolutions(tf32=False):
            prediction = model(photons, relative, largest_shift_px)
        yield photons, prediction


def predict_all(model: PhysicsInformedModel, container: PtychoDataContainer, batch_size: int) -> dict[str, np.ndarray]:
    """The reference's arrays for all groups, channels last: ``reconstructed_obj`` [B, N, N, 1] complex64,
    ``pred_amp`` [B, N, N, C] in sqrt(photons) and its square ``reconstructed_obj_cdi`` (an intensity in spite of its name).
    """
    objects, intensities = [], []
    for _, prediction in predict_diffraction(model, container, batch_size):
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
            self.model.reconstruct(photons[rows].to(device), relative[rows].to(device), largest).cpu()
            for rows in batches(len(photons), batch_size)
        ]
        return torch.cat(objects)[..., None].numpy()


def load_inference_bundle(model_dir: str | Path) -> tuple[DiffractionToObject, dict[str, Any]]:
    """Load a bundle for inference: the model, and its settings as the reference's flat dictionary.

    ``model_dir`` is a folder, a file, or a model in MLflow: ``runs:/RUN_ID/model`` or ``models:/NAME/VERSION``
    (``docs/tracking.md``).

    Raises:
        ValueError: there is no such folder (an error that is a FileNotFoundError too), or no such run or model.
        BundleError: the bundle cannot be trusted or read.
    """
    bundle = load_bundle(model_dir)
    config, model = bundle.config, bundle.model
    params = dataclass_to_legacy_dict(config) | {
        "intensity_scale": calculate_intensity_scale(config.nphotons, config.model.N),
        "probe": model.probe.detach().numpy(),
        "_version": "ptycho_ray",
    }
    return DiffractionToObject(model, params["intensity_scale"]), params


def load_inference_bundle_with_backend(
    model_dir: str | Path, config: Any = None
) -> tuple[DiffractionToObject, dict[str, Any]]:
    """:func:`load_inference_bundle`; the configuration's backend makes no difference."""
    return load_inference_bundle(model_dir)


@torch.inference_mode()
def diffraction_r_factors(
    model: PhysicsInformedModel, container: PtychoDataContainer, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Diffraction R-factor of every pattern, [B * C], predicted by the network and by a flat object.

    The flat object is an empty beam, scaled to the photons of each pattern: the baseline that a reconstruction has to beat.
    """
    good = good_pixels_of(container.raw.bad_pixels, model.probe_parts.device)
    flat = apply_pixel_mask(model.flat_diffraction(), good)
    network, empty = [], []
    for photons, prediction in predict_diffraction(model, container, batch_size):
        network.append(Explained(prediction.intensity, photons, good).r_factor().reshape(-1))
        empty.append(Explained(flat_object_rate(flat, photons), photons, good).r_factor().reshape(-1))
    return torch.cat(network).cpu().numpy(), torch.cat(empty).cpu().numpy()
