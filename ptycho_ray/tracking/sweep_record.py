"""The record of a sweep on disk: its identity, and every trial that was started and finished.

``sweep.json`` identifies the sweep: space, settings, data. ``trials.jsonl`` has a line for each start and each end of a
trial, written before the next trial is requested. A sweep that was killed is resumed from these two files: finished
trials are not run again, interrupted ones are run with the same parameters.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.files import jsonable, write_json
from ptycho_ray.tracking.objectives import OBJECTIVES

SWEEP, TRIALS = "sweep.json", "trials.jsonl"
Status = Literal["running", "finished", "stopped", "failed"]


@dataclass
class TrialRecord:
    """One trial.

    Attributes:
        status: ``stopped`` is a trial that was stopped early, because it lagged behind others.
        epoch: how far it got.
        figures: the last values; ``curve`` has [epoch, first objective] of every report.
        error: why it failed.
    """

    number: int
    parameters: dict[str, Any]
    status: Status = "running"
    epoch: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    curve: list[list[float]] = field(default_factory=list)
    error: str | None = None
    began: float = 0.0
    ended: float = 0.0


class SweepRecord:
    """The trials of the sweep in ``folder``."""

    def __init__(self, folder: Path, objectives: tuple[str, ...]) -> None:
        self.folder, self.objectives = folder, objectives
        self.trials: dict[int, TrialRecord] = {}

    @classmethod
    def begin(cls, folder: Path, identity: Mapping[str, Any], *, resume: bool) -> SweepRecord:
        """Start a sweep in a new folder, or with ``resume`` continue the one in it.

        Raises:
            InputError: with ``resume``, there is no sweep or another one; without, there is one already.
        """
        wanted = jsonable(identity)
        record = cls(folder, tuple(wanted["space"]["objective"]))
        there = (folder / SWEEP).exists()
        if resume and not there:
            raise InputError(file=folder, field="--resume", found="no sweep", expected="a sweep that was started there")
        if there and not resume and (folder / TRIALS).exists():  # without, nothing had begun
            raise InputError(
                file=folder, found="a sweep", expected="a new folder, or --resume to continue the sweep in this one"
            )
        if resume:
            found = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
            _compare(folder / SWEEP, found, wanted)
            record.read()
        else:
            write_json(folder / SWEEP, wanted)
        return record

    @classmethod
    def load(cls, folder: Path) -> SweepRecord:
        """The record of a sweep, to learn from."""
        if not (folder / SWEEP).is_file():
            raise InputError(file=folder, found="no sweep", expected=f"the output folder of a sweep (with {SWEEP})")
        identity = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
        record = cls(folder, tuple(identity["space"]["objective"]))
        record.read()
        return record

    def read(self) -> None:
        """Read the record on disk; an incomplete line is ignored."""
        path = self.folder / TRIALS
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with path.open("r+b") as stream:
                stream.truncate(len(whole))
        for line in whole.splitlines():
            trial = TrialRecord(**json.loads(line))
            self.trials[trial.number] = trial

    def write(self, trial: TrialRecord) -> None:
        """Keep the present state of a trial; it is on disk when this returns."""
        self.trials[trial.number] = trial
        with (self.folder / TRIALS).open("ab") as stream:
            stream.write(json.dumps(jsonable(asdict(trial))).encode("ascii") + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    @property
    def ended(self) -> list[TrialRecord]:
        """Trials that are over, in the order of their numbers."""
        return [self.trials[number] for number in sorted(self.trials) if self.trials[number].status != "running"]

    @property
    def running(self) -> list[TrialRecord]:
        """Trials that were started but have not ended."""
        return [self.trials[number] for number in sorted(self.trials) if self.trials[number].status == "running"]

    @staticmethod
    def smaller_is_better(objective: str) -> bool:
        """Whether a smaller value of the objective is the better one."""
        return OBJECTIVES[objective].mode == "min"

    def loss(self, trial: TrialRecord, objective: str | None = None) -> float:
        """The objective (the first one by default), to be minimised."""
        name = objective or self.objectives[0]
        return trial.figures[name] * (1 if self.smaller_is_better(name) else -1)

    def judged(self) -> list[TrialRecord]:
        """Trials that finished and have all objectives."""
        return [t for t in self.ended if t.status == "finished" and all(name in t.figures for name in self.objectives)]

    def best(self) -> TrialRecord | None:
        """The finished trial with the best first objective."""
        return min(self.judged(), key=self.loss, default=None)

    def pareto(self) -> list[TrialRecord]:
        """Pareto-optimal finished trials, sorted by the first objective."""
        points = [(trial, [self.loss(trial, name) for name in self.objectives]) for trial in self.judged()]
        front = [
            trial
            for trial, own in points
            if not any(all(a <= b for a, b in zip(other, own, strict=True)) and other != own for _, other in points)
        ]
        return sorted(front, key=self.loss)


def trial_folder(trials: Path, number: int) -> Path:
    """The folder of one trial in that of all trials."""
    return trials / f"{number:04}"


def _compare(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    was, now = _flat(found), _flat(wanted)
    for name in [*now, *was]:
        if was.get(name) != now.get(name):
            raise ConfigurationError(
                "this is the folder of another sweep",
                file=path,
                field=name,
                found=was.get(name),
                expected=now.get(name),
            )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    items: dict[str, Any] = {}
    for name, value in values.items():
        items |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
        )
    return items
