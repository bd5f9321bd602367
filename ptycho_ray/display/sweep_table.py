"""The table that a sweep shows while it runs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

from ptycho_ray.files import short_text

if TYPE_CHECKING:
    from ptycho_ray.tracking.sweep_record import SweepRecord, TrialRecord

REDRAW_S = 0.5
BEST_SHOWN = 8


class LiveTable:
    """The best trials and those in progress, redrawn continually on a terminal; elsewhere a line for each trial that ends."""

    def __init__(self, trials: int, stream: TextIO | None = None) -> None:
        self.trials, self.stream = trials, stream or sys.stderr
        self.on_terminal = self.stream.isatty()
        self._lines, self._drawn, self._began = 0, 0.0, time.monotonic()

    def __call__(self, record: SweepRecord, trial: TrialRecord) -> None:
        if self.on_terminal:
            if trial.status != "running" or time.monotonic() - self._drawn > REDRAW_S:
                self._draw(record)
        elif trial.status != "running":
            print(
                f"{len(record.ended)}/{max(self.trials, len(record.trials))}  {_line(record, trial)}",
                file=self.stream,
                flush=True,
            )

    def close(self, record: SweepRecord) -> None:
        """Draw the last state."""
        if self.on_terminal and record.trials:
            self._draw(record)

    def _draw(self, record: SweepRecord) -> None:
        failed = sum(trial.status == "failed" for trial in record.ended)
        of = max(self.trials, len(record.trials))
        head = f"{len(record.ended)} of {of} trials, {failed} failed, {time.monotonic() - self._began:.0f} s"
        best = sorted(record.judged(), key=record.loss)[:BEST_SHOWN]
        lines = [
            head,
            *(f"  best     {_line(record, t)}" for t in best),
            *(f"  running  {_line(record, t)}" for t in record.running),
        ]
        up = f"\x1b[{self._lines}F\x1b[J" if self._lines else ""
        print(up + "\n".join(line[:160] for line in lines), file=self.stream, flush=True)
        self._lines, self._drawn = len(lines), time.monotonic()


def _line(record: SweepRecord, trial: TrialRecord) -> str:
    figures = "  ".join(f"{name} {trial.figures[name]:.5g}" for name in record.objectives if name in trial.figures)
    parameters = "  ".join(f"{name.rpartition('.')[2]} {short_text(value)}" for name, value in trial.parameters.items())
    end = f"  {trial.status}" if trial.status in ("stopped", "failed") else ""
    why = f": {trial.error}" if trial.error else ""
    return f"#{trial.number:<3} epoch {trial.epoch:<4} {figures}  |  {parameters}{end}{why}"
