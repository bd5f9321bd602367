"""Images of a scan while its network is being trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.reconstruction.inference import reconstruct


class ImageRecorder:
    """Reconstructs a scan every ``execution.recon_log_every_n_epochs`` epochs (a ``Callback`` of the training loop).

    Each of ``consumers`` is called as ``on_image(progress, stitched)``, like the trackers.
    With ``execution.recon_log_max_stitch_samples`` only that many groups, evenly spread over the scan's order.
    """

    def __init__(
        self,
        container: PtychoDataContainer,
        config: TrainingConfig,
        execution: ExecutionConfig,
        consumers: Sequence[Any],
    ) -> None:
        most = execution.recon_log_max_stitch_samples or len(container)
        rows = np.unique(np.linspace(0, len(container) - 1, min(most, len(container))).round().astype(np.int64))
        self.container = container.subset(rows)
        self.every = execution.recon_log_every_n_epochs
        self.batch_size = execution.inference_batch_size or config.batch_size
        self.consumers = consumers

    def on_step(self, progress: Any, figures: dict[str, float], steps_in_epoch: int) -> None:
        """Does nothing: images are made at the end of epochs."""

    def on_epoch(self, progress: Any, figures: dict[str, float], model: PhysicsInformedModel | None) -> None:
        if model is not None and self.every and progress.epoch % self.every == 0:
            container = self.container if model.positions is None else model.positions.correct(self.container)
            stitched = reconstruct(model, container, self.batch_size)
            for consumer in self.consumers:
                consumer.on_image(progress, stitched)
