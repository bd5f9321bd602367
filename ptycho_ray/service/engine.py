"""A loaded model that many requests use at once, and a reconstruction with it. Plain torch and threads, no Ray, no HTTP."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ptycho_ray import workflow
from ptycho_ray.bundle import Bundle, bundle_path, load_bundle
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.config.reading import Reading
from ptycho_ray.data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.files import sha256_of
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.solver import Progress, RefinementConfig
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.training.device import resolve_device


class SharedForward:
    """Forward passes whose batches are filled by many threads.

    No thread waits for a batch to fill: one that finds the model free computes at once with whatever is queued, its own
        patterns and those of others, while later ones queue for the next pass. A single request therefore loses no
        time, and batches fill up as requests increase. There is no separate thread to start or stop.

    Args:
        compute: from photons [b, C, N, N] to patches [b, O, N, N].
        most_rows: rows of one pass; a single call with more is one pass by itself.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], most_rows: int) -> None:
        self.compute, self.most_rows = compute, most_rows
        self._queue: deque[_Call] = deque()
        self._turn = threading.Lock()
        #: Number of passes so far and of the calls that shared them.
        self.passes = self.calls = 0

    def __call__(self, photons: Tensor) -> Tensor:
        call = _Call(photons)
        self._queue.append(call)
        while not call.over:
            with self._turn:
                if not call.over:
                    self._next_pass()
        if call.error is not None:
            raise call.error
        assert call.patches is not None
        return call.patches

    def _next_pass(self) -> None:
        calls = [self._queue.popleft()]
        rows = len(calls[0].photons)
        while self._queue and rows + len(self._queue[0].photons) <= self.most_rows:
            calls.append(self._queue.popleft())
            rows += len(calls[-1].photons)
        self.passes += 1
        self.calls += len(calls)
        try:
            photons = calls[0].photons if len(calls) == 1 else torch.cat([call.photons for call in calls])
            with torch.inference_mode():
                patches = self.compute(photons).split([len(call.photons) for call in calls])
        except (RuntimeError, MemoryError, ValueError) as error:
            for call in calls:
                call.error = error
        else:
            for call, own in zip(calls, patches, strict=True):
                call.patches = own
        finally:
            for call in calls:
                call.over = True


class _Call:
    """The rows of one caller on their way through a pass."""

    def __init__(self, photons: Tensor) -> None:
        self.photons = photons
        self.patches: Tensor | None = None
        self.error: Exception | None = None
        self.over = False


class SharedModel:
    """A model whose ``transmission_patches`` shares passes with other threads; everything else is delegated to the model."""

    def __init__(self, model: Any, most_rows: int) -> None:
        self.model = model
        self.transmission_patches = SharedForward(model.transmission_patches, most_rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *inputs: Any) -> Any:
        return self.model(*inputs)


@dataclass(frozen=True)
class LoadedModel:
    """A bundle in memory, ready for many threads.

    Attributes:
        bundle: as read from disk.
        models: its model, or the members of an ensemble, with shared passes; the core takes them for the models themselves.
        rows: groups of patterns in a batch.
        sha256: of the bundle, for the provenance of results.
    """

    bundle: Bundle
    models: tuple[Any, ...]
    rows: int
    sha256: str

    @property
    def model(self) -> Any:
        """The (first) model."""
        return self.models[0]

    @classmethod
    def load(cls, place: Path, settings: ServiceSettings) -> LoadedModel:
        """Read a bundle and put it on the device of the settings."""
        bundle = load_bundle(place)
        device = device_of(settings)
        for model in bundle.models:
            model.to(device)
            side = model.probe.shape[-1]
            if side != model.config.N:  # the network was trained on other sides too; its physics is that of its probe
                model.config = replace(model.config, N=side)
        patterns = settings.batch_patterns or (32 if device == "cpu" else 256)
        rows = max(1, patterns // bundle.config.model.gridsize**2)
        shared = tuple(SharedModel(model, rows) for model in bundle.models)
        return cls(bundle, shared, rows, sha256_of(bundle_path(place)))


def device_of(settings: ServiceSettings) -> str:
    """The device of the settings; ConfigurationError if this machine does not have it."""
    return str(resolve_device(ExecutionConfig(accelerator=settings.accelerator)))


@dataclass(frozen=True)
class Options:
    """Options of a request.

    Attributes:
        stitch: "probe" weights patches by the illumination; "crop" is the reference's mean of central pieces.
        crop: side of that piece in pixels.
        n_subsample, subsample_seed: use this many patterns, chosen at random.
        evaluate: compare with the true object, if the scan holds one.
        refinement_iterations: iterations of the solver that refine the network's image.
        reading: how the file is read: fields of ``ptycho_ray.config.reading.Reading``, which may name arrays of the file only.
        seed: of the trials and batches of a reconstruction without a model.
        budget_s: limit on the processor seconds of these trials.
        uncertainty: also determine error bars of its image.
        workers: among how many the solution without a model is shared.
        refinement: settings of the solver that were given.
        network: settings of a network's image that were given: fields of ``ptycho_ray.config.training.OF_AN_IMAGE``.
        until: without a model, what it ends with: a "look" at the scan, a "plan", or the "image".
    """

    stitch: str = "probe"
    crop: int = 20
    n_subsample: int | None = None
    subsample_seed: int | None = None
    evaluate: bool = False
    refinement_iterations: int = 0
    reading: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    budget_s: float | None = None
    uncertainty: bool = False
    workers: int = 1
    refinement: dict[str, Any] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    until: str = "image"


def read_scan(path: Path, settings: ServiceSettings, options: Options | None = None) -> RawData:
    """Read a scan within the limits of the service; InputError or Problem states what is wrong."""
    options = options or Options()
    scan = workflow.load_data(
        path,
        n_images=options.network.get("n_groups"),
        n_subsample=options.n_subsample,
        subsample_seed=options.subsample_seed,
        max_bytes=settings.max_inflated_bytes,
        reading=Reading(keys_only=True).with_changes(options.reading),
    )
    check_limits(scan, settings)
    return scan


def check_limits(scan: RawData, settings: ServiceSettings) -> None:
    """Problem 422 if a scan is larger than the service allows."""
    if len(scan) > settings.max_patterns:
        raise Problem(
            422,
            "invalid",
            f"The scan has {len(scan)} patterns, at most {settings.max_patterns} are accepted.",
            {"field": "patterns", "found": len(scan), "expected": f"at most {settings.max_patterns}"},
        )
    if settings.max_N < scan.N:
        raise Problem(
            422,
            "invalid",
            f"The patterns have a side of {scan.N}, at most {settings.max_N} is accepted.",
            {"field": "N", "found": scan.N, "expected": f"at most {settings.max_N}"},
        )
    if (size := len(scan) * scan.N**2 * 4) > settings.max_inflated_bytes:
        raise Problem(
            422,
            "invalid",
            "The scan is too large.",
            {
                "field": "patterns",
                "found": f"{size / 2**20:.4g} MiB",
                "expected": f"at most {settings.max_inflated_bytes / 2**20:.4g} MiB",
            },
        )
    check_canvas(np.ptp(scan.positions_px, axis=0), scan.N, settings)


def check_canvas(extent_px: np.ndarray, n: int, settings: ServiceSettings) -> None:
    """Refuse positions whose image would be larger than the service allows."""
    height, width = (float(side) + n + 1 for side in extent_px)
    if not height * width <= settings.max_canvas_pixels:
        raise Problem(
            422,
            "invalid",
            "The scanned field is too large.",
            {
                "field": "positions",
                "found": f"an image of {height:.4g} x {width:.4g} pixels",
                "expected": f"at most {settings.max_canvas_pixels} pixels",
                "hint": "Positions are in object pixels; a scan in metres must state its pixel size.",
            },
        )


def reconstruct(
    scan: RawData,
    loaded: LoadedModel,
    options: Options,
    on_batch: Callable[[int, int], None] | None = None,
    on_refinement: Callable[[Progress], None] | None = None,
) -> StitchedObject:
    """The core's reconstruction of a scan with a shared model; ``on_batch`` and ``on_refinement`` may raise to stop it."""
    if not loaded.bundle.takes(scan.N):
        raise InputError(
            field="N",
            found=scan.N,
            expected=f"{loaded.bundle.sides}, which is what this model takes",
            hint="Name no model: without one patterns of any side are reconstructed",
        )
    if options.stitch == "crop" and (options.crop % 2 or not 0 < options.crop <= scan.N):
        raise InputError(field="crop", found=options.crop, expected=f"an even number from 2 to {scan.N}")
    execution = ExecutionConfig(inference_batch_size=loaded.rows)
    grouping = {name: value for name, value in options.network.items() if name != "n_groups"}
    refinement = None
    if options.refinement_iterations:
        refinement = RefinementConfig(
            **{"iterations": options.refinement_iterations, "seed": loaded.bundle.config.seed} | options.refinement
        )
    _, _, results = workflow.reassemble_cdi_image(
        scan,
        replace(loaded.bundle.config, refinement_iterations=0, **grouping),
        M=options.crop,
        model=loaded.models,
        execution=execution,
        stitch="crop" if options.stitch == "crop" else "probe",
        refinement=refinement,
        keep_patches=False,
        on_batch=on_batch,
        on_refinement=on_refinement,
    )
    if options.stitch == "probe":
        stitched: StitchedObject = results["stitched"]
        return stitched
    canvas = results["stitched_obj"][..., 0]
    middle = scan.positions_px.mean(axis=0) - canvas.shape[0] / 2
    return StitchedObject(canvas, (canvas != 0).astype(np.float32), (float(middle[0]), float(middle[1])))
