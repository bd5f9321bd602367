"""The metrics of trainings and sweeps in the Ray dashboard (and in any Prometheus that reads them)."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, get_args

from ray.util.metrics import Gauge

from ptycho_ray.tracking.objectives import OBJECTIVES
from ptycho_ray.tracking.sweep_record import Status, SweepRecord, TrialRecord


class _Gauges:
    """Gauges ``ptycho_ray_...`` of one run, made when they are first set."""

    def __init__(self, run_name: str, description: str) -> None:
        self.run_name, self.description = run_name, description
        self.gauges: dict[str, Gauge] = {}

    def set(self, name: str, value: float, **tags: str) -> None:
        name = "ptycho_ray_" + re.sub(r"\W", "_", name)
        if name not in self.gauges:
            self.gauges[name] = Gauge(name, description=self.description, tag_keys=("run", *tags))
        self.gauges[name].set(value, {"run": self.run_name, **tags})


class DashboardMetrics:
    """Exports the metrics of every step and epoch as gauges ``ptycho_ray_...`` (a ``Callback`` of the training loop)."""

    def __init__(self, run_name: str) -> None:
        self.gauges = _Gauges(run_name, "Metric of a ptycho_ray training")

    def on_step(self, progress: Any, figures: dict[str, float], steps_in_epoch: int) -> None:
        for name, value in figures.items():
            self.gauges.set(f"step_{name}", value)

    def on_epoch(self, progress: Any, figures: dict[str, float], model: Any) -> None:
        for name, value in {**figures, "epochs": float(progress.epoch), "training_seconds": progress.seconds}.items():
            self.gauges.set(name, value)


class SweepMetrics:
    """Exports how many trials of a sweep run, have ended and have failed, and the best value of each objective so far."""

    def __init__(self, run_name: str) -> None:
        self.gauges = _Gauges(run_name, "Metric of a ptycho_ray sweep")

    def __call__(self, record: SweepRecord, trial: TrialRecord) -> None:
        counts = Counter(known.status for known in record.trials.values())
        for status in get_args(Status):
            self.gauges.set("trials", counts[status], state=status)
        for name in record.objectives:
            values = [known.figures[name] for known in record.trials.values() if name in known.figures]
            if values:
                best = min(values) if OBJECTIVES[name].mode == "min" else max(values)
                self.gauges.set("best_objective", best, objective=name)
