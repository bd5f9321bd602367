"""Recording the figures of a run. The core knows only the ``Callback`` interface of the training loop.

A table in a file is all there is so far; MLflow comes behind the same interface, off unless asked for, and never able to
fail a run (docs/decisions/0001-thin-orchestration.md).
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.files import atomic_path


class CsvTracker:
    """Writes ``metrics.csv``: one line an epoch, one column a figure, complete after every epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_step(self, progress: Any, figures: dict[str, float], steps_in_epoch: int) -> None:
        """Nothing: one line an epoch is enough."""

    def on_epoch(self, progress: Any, figures: dict[str, float], model: Any) -> None:
        """Write the whole history again, so that the file of a resumed run has every epoch once."""
        history = progress.history
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(["epoch", *history])
            table.writerows([epoch + 1, *values] for epoch, values in enumerate(zip(*history.values(), strict=True)))


def build_tracker(execution: ExecutionConfig, folder: Path) -> list[CsvTracker]:
    """The trackers that ``execution.logger_backend`` asks for; ConfigurationError for one that does not exist yet."""
    if execution.logger_backend == "none":
        return []
    if execution.logger_backend != "csv":
        raise ConfigurationError(
            "this version records figures in a table only",
            field="execution.logger_backend",
            found=repr(execution.logger_backend),
            expected="'csv' or 'none'",
        )
    return [CsvTracker(folder / "metrics.csv")]
