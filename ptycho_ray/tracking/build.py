"""The trackers of a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.tracking.mlflow_tracker import MlflowTracker
from ptycho_ray.tracking.trackers import CsvTracker, Quiet, Tracker

log = logging.getLogger(__name__)


def build_trackers(
    execution: ExecutionConfig,
    folder: Path,
    parameters: Mapping[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
    *,
    resume: bool = False,
) -> list[Tracker]:
    """The trackers that ``execution.logger_backend`` asks for: none, the table, or the table and MLflow.

    Args:
        folder: the output folder of the run.
        parameters: settings of the run; a nested mapping becomes dotted names.
        tags: more facts about the run (:func:`run_tags` makes them from its provenance).
        resume: continue the run recorded last in this folder instead of recording a new one.

    Raises:
        ConfigurationError: for a tracker that does not exist.
    """
    backend = execution.logger_backend
    if backend == "none":
        return []
    if backend == "tensorboard":
        raise ConfigurationError(
            "TensorBoard files are not written",
            field="execution.logger_backend",
            found=repr(backend),
            expected="'csv', 'mlflow' or 'none'",
        )
    trackers: list[Tracker] = [Quiet(CsvTracker(folder / "metrics.csv"))]
    if backend == "mlflow":
        try:
            trackers.append(Quiet(MlflowTracker(folder, parameters or {}, tags or {}, resume=resume)))
        except OSError as error:
            log.warning("nothing is recorded for MLflow (%s); the run continues", error)
    return trackers
