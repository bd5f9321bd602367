"""Training on the groups of one measured scan, or of several that share a network (a ``TrainingSource`` of the loop)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.data.batches import batches
from ptycho_ray.training.device import network_dtype, resolve_device
from ptycho_ray.training.forward import predict_piece
from ptycho_ray.training.health import diagnose, health_figures
from ptycho_ray.training.loop import Stream, as_row, sum_dtype
from ptycho_ray.training.loss import TrainingLoss
from ptycho_ray.training.optimisation import unfreeze
from ptycho_ray.training.scan_training import GroupList, ScanBatch, ScanTraining, require_labels, whole_model

#: Settings that may differ between a run and its continuation.
FREE_ON_RESUME = (
    "nepochs",
    "output_dir",
    "train_data_file",
    "further_train_data_files",
    "test_data_file",
    "initial_model",
)


class ScanSource:
    """Each scan inside its own physics (probe, scales); the items of a batch are groups of patterns.

    Args:
        scans: their models are put on the device and trained in place.

    Raises:
        InputError: the loss needs the true object, and a scan has none.
    """

    def __init__(self, scans: Sequence[ScanTraining], config: TrainingConfig, execution: ExecutionConfig) -> None:
        self.scans, self.config = scans, config
        self.device = resolve_device(execution)
        self.models = [scan.model.to(self.device) for scan in scans]
        for model in self.models:
            model.network_dtype = network_dtype(execution, self.device)
        self.module = whole_model(self.models)
        steps = -(-sum(len(scan.training) for scan in scans) // config.batch_size)
        self.losses = [
            TrainingLoss(config, scan.training.normalisation, scan.training.raw.bad_pixels, steps_an_epoch=steps)
            for scan in scans
        ]
        self.names = self.losses[0].names
        needs = {"labels": self.losses[0].needs_labels, "partners": self.losses[0].needs_partners}
        if needs["labels"]:
            require_labels(scans)
        self.training = GroupList([scan.training for scan in scans], **needs)
        self.validation = GroupList([scan.validation for scan in scans], **needs)
        self.validation.choose_partners(np.random.default_rng((config.seed, 2)))
        self.has_validation = len(self.validation) > 0
        containers = [c for scan in scans for c in (scan.training, scan.validation) if c is not None]
        self.largest_shift_px = max(container.largest_shift_px for container in containers)
        if config.positions_trainable and config.model.gridsize > 1:
            self.largest_shift_px += 2 * config.position_limit_px

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, and the scales of the scans as a mark of the data."""
        kept = {name: value for name, value in asdict(self.config).items() if name not in FREE_ON_RESUME}
        kept["loss_schedule"] = list(self.config.loss_schedule)  # as JSON gives it back
        return kept | {"data": [scan.container.normalisation.to_dict() for scan in self.scans]}

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        generator = np.random.default_rng((self.config.seed, epoch))
        order = self.training.order(self.config.scan_sampling, generator)
        self.training.choose_partners(np.random.default_rng((self.config.seed, 2, epoch)))
        return [order[some] for some in batches(len(order), self.config.batch_size)]

    def read(self, items: NDArray[np.int64]) -> list[ScanBatch]:
        return self.training.read(items)

    def figures(self, piece: ScanBatch, epoch: float | None = None) -> dict[str, Tensor]:
        prediction, evidence = predict_piece(self.models[piece.scan], piece, self.largest_shift_px)
        return self.losses[piece.scan](prediction, piece.photons, evidence, epoch=epoch)

    def before_step(self, epoch: int) -> None:
        for model in self.models:
            unfreeze(model, self.config, epoch)

    def after_step(self) -> None:
        for model in self.models:
            if model.positions is not None:
                model.positions.limit(self.config.position_limit_px)

    @torch.no_grad()
    def validate(self, stream: Stream, add_up: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Mean figures of the groups that are held out: over all of them and, if there are several scans, of each."""
        groups, names = self.validation, self.names
        if not self.has_validation:
            return {}
        self.module.eval()
        totals = torch.zeros(len(self.scans), len(names), dtype=sum_dtype(self.device), device=self.device)
        rows = list(batches(len(groups), self.config.batch_size))
        for piece in itertools.chain.from_iterable(stream(groups.read, rows)):
            totals[piece.scan] += as_row(self.figures(piece), names) * piece.size
        totals = add_up(totals.flatten()).reshape(totals.shape).cpu()
        figures = dict(zip(names, (totals.sum(dim=0) / len(groups)).tolist(), strict=True))
        if len(self.scans) > 1:
            for scan, total, size in zip(self.scans, totals, groups.sizes, strict=True):
                if size:
                    means = (total / size).tolist()
                    figures |= {self._of_scan(n, scan): mean for n, mean in zip(names, means, strict=True)}
        return figures

    def state_figures(self) -> dict[str, float]:
        """Of each scan its object scale, how far positions have moved, and the health of the network."""
        figures: dict[str, float] = {}
        for scan in self.scans:
            figures[self._of_scan("object_scale", scan)] = float(scan.model.object_scale.detach())
            if scan.model.positions is not None:
                figures[self._of_scan("position_shift_rms_px", scan)] = scan.model.positions.rms_px()
            health = health_figures(scan.model, scan.validation or scan.training)
            figures |= {self._of_scan(name, scan): value for name, value in health.items()}
        return figures

    def diagnose(self, history: Mapping[str, list[float]]) -> list[str]:
        found = [diagnose(history, self.config.nepochs, self._of_scan("", scan)) for scan in self.scans]
        return [text for text in found if text is not None]

    def finish(self) -> None:
        if self.config.probe_trainable:
            for model in self.models:
                model.orthogonalise_probe()

    def _of_scan(self, figure: str, scan: ScanTraining) -> str:
        return figure if len(self.scans) == 1 else f"{figure}/{scan.name}"
