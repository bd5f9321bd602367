"""Trackers of a run: the interface, the table in a file, and the guard that protects a run from errors of its trackers."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ptycho_ray.files import atomic_path

if TYPE_CHECKING:
    from ptycho_ray.reconstruction.stitching import StitchedObject
    from ptycho_ray.tracking.sweep_record import TrialRecord

log = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """Records nothing. Subclasses override what they need; all methods are called in the process that trains or, on a
    cluster, in the one that started the training."""

    def on_step(self, progress: Any, figures: dict[str, float], steps_in_epoch: int) -> None:
        """A step was made; ``progress.batch`` is the batch that comes next in epoch ``progress.epoch``."""

    def on_epoch(self, progress: Any, figures: dict[str, float], model: Any) -> None:
        """``progress.epoch`` epochs are over, ``progress.history`` holds the figures of them all."""

    def on_image(self, progress: Any, stitched: StitchedObject) -> None:
        """The image that the network makes after ``progress.epoch`` epochs."""

    def on_trial(self, name: str, trial: TrialRecord) -> None:
        """A trial of a sweep is over."""

    def finish(self, status: Status, bundle: Path | None = None, files: Sequence[Path] = ()) -> dict[str, Any]:
        """The run is over; ``bundle`` is the trained model, ``files`` are other results worth keeping.

        Returns:
            Facts for the result of the command: where the records are; may be empty.
        """
        return {}


class CsvTracker(Tracker):
    """Writes ``metrics.csv``: one line per epoch, one column per metric, complete after every epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_epoch(self, progress: Any, figures: dict[str, float], model: Any) -> None:
        """Write the whole history again, so that the file of a resumed run has every epoch once."""
        history = progress.history
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(["epoch", *history])
            table.writerows([epoch + 1, *values] for epoch, values in enumerate(zip(*history.values(), strict=True)))


class Quiet(Tracker):
    """Passes everything on to another tracker, whose first error becomes a warning; further errors are ignored.

    A run is never lost to its records, so this is the one class that catches every ``Exception`` (decision 0001).
    """

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.warned = False

    def on_step(self, progress: Any, figures: dict[str, float], steps_in_epoch: int) -> None:
        self._try(lambda: self.tracker.on_step(progress, figures, steps_in_epoch))

    def on_epoch(self, progress: Any, figures: dict[str, float], model: Any) -> None:
        self._try(lambda: self.tracker.on_epoch(progress, figures, model))

    def on_image(self, progress: Any, stitched: StitchedObject) -> None:
        self._try(lambda: self.tracker.on_image(progress, stitched))

    def on_trial(self, name: str, trial: TrialRecord) -> None:
        self._try(lambda: self.tracker.on_trial(name, trial))

    def finish(self, status: Status, bundle: Path | None = None, files: Sequence[Path] = ()) -> dict[str, Any]:
        return self._try(lambda: self.tracker.finish(status, bundle, files)) or {}

    def _try(self, action: Callable[[], dict[str, Any] | None]) -> dict[str, Any] | None:
        try:
            return action()
        except Exception as error:
            if not self.warned:
                name = type(self.tracker).__name__
                log.warning("%s cannot record (%s: %s); the run continues", name, type(error).__name__, error)
                self.warned = True
            return None


@dataclass
class Recorded:
    """The results of the run inside :func:`recorded`, and afterwards the reports of its trackers.

    Attributes:
        bundle: the trained model.
        files: other results worth keeping.
        facts: where the records are.
    """

    bundle: Path | None = None
    files: list[Path] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def recorded(trackers: Sequence[Tracker]) -> Iterator[Recorded]:
    """End the records of a run in the way in which the block ends: finished, failed, or killed by Ctrl-C or SIGTERM."""
    made = Recorded()
    status: Status = "FAILED"
    try:
        yield made
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        for tracker in trackers:
            made.facts |= tracker.finish(status, made.bundle, made.files)
