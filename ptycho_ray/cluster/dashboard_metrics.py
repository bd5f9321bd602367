"""The metrics of a training in the Ray dashboard (and in any Prometheus that reads them)."""

from __future__ import annotations

import re
from typing import Any

from ray.util.metrics import Gauge


class DashboardMetrics:
    """Exports the metrics of every step and epoch as gauges ``ptycho_ray_...`` (a ``Callback`` of the training loop)."""

    def __init__(self, run_name: str) -> None:
        self.run_name = run_name
        self.gauges: dict[str, Gauge] = {}

    def on_step(self, progress: Any, figures: dict[str, float], steps_in_epoch: int) -> None:
        for name, value in figures.items():
            self._set(f"step_{name}", value)

    def on_epoch(self, progress: Any, figures: dict[str, float], model: Any) -> None:
        for name, value in {**figures, "epochs": float(progress.epoch), "training_seconds": progress.seconds}.items():
            self._set(name, value)

    def _set(self, name: str, value: float) -> None:
        name = "ptycho_ray_" + re.sub(r"\W", "_", name)
        if name not in self.gauges:
            self.gauges[name] = Gauge(name, description="Metric of a ptycho_ray training", tag_keys=("run",))
        self.gauges[name].set(value, {"run": self.run_name})
