"""Progress of many scans: a bar in a terminal, in a log a line for each scan; an error is a line in both."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ptycho_ray.display.progress import in_words

#: Seconds between two lines about what goes on, where there is no terminal; and scans named in one of them.
LINE_S, NAMED = 30.0, 4


def waiting_line(each: Mapping[str, float], free: Mapping[str, tuple[float, float]], workers: int = 1) -> str:
    """What workers that need so much each wait for; empty if there is room for them."""
    if all(free[name][0] >= workers * amount for name, amount in each.items()):
        return ""
    needed = " and ".join(
        f"{workers * amount:g} {name}{'s' if workers * amount > 1 else ''}" for name, amount in each.items()
    )
    return f"waiting for {needed}; " + ", ".join(f"{free[name][0]:g} of {free[name][1]:g} {name} free" for name in each)


class ScansProgress:
    """Follows a batch (an ``Observer`` of ``ptycho_ray.cluster.each_alone``)."""

    def __init__(self, scans: int) -> None:
        self.scans = scans
        self.bar = tqdm(total=scans, unit="scan", disable=None, file=sys.stderr, leave=False)
        self.began: float | None = None
        self.now, self.before, self.failed = 0, 0, 0
        self.told = time.monotonic()

    def on_line(self, line: str) -> None:
        """What happens before there are workers."""
        self._write(line)

    def on_start(self, workers: int, each: Mapping[str, float], free: Mapping[str, tuple[float, float]]) -> None:
        """Workers are being started, and what of the cluster was free before, of how much."""
        self._write(waiting_line(each, free) or f"starting {workers} worker{'' if workers == 1 else 's'}")

    def on_worker(self, up: int, wanted: int) -> None:
        """A worker is up, of those wanted so far."""
        self.began = self.began or time.monotonic()
        self._write(f"worker {up} of {max(up, wanted)} is up")

    def on_running(self, states: Mapping[str, str]) -> None:
        """How far the scans are that are being worked on, by name."""
        words = [f"{name}: {state}" for name, state in list(states.items())[:NAMED]]
        words += [f"{len(states) - NAMED} more"] if len(states) > NAMED else []
        self.bar.set_postfix_str("; ".join(words))
        if self.bar.disable and time.monotonic() - self.told > LINE_S:
            self._write("; ".join(words))

    def on_scan(self, line: Mapping[str, Any], done: int, left: int) -> None:
        """A scan is done, or has failed."""
        self.bar.update(1)
        if "error" in line:
            self.now, self.failed = self.now + 1, self.failed + 1
            self._write(f"error  {line['scan']}: {line['error']}")
        elif line.get("done") == "before":
            self.before += 1
            if not line.get("trusted", True):
                self._write(f"done before  {Path(line['scan']).name}  {line['verdict']}")
        else:
            self.now += 1
            words = [
                f"{done}/{self.scans}  {Path(line['scan']).name}",
                *([line["verdict"]] if "verdict" in line else []),
            ]
            if self.began is not None and left:
                words.append(f"{in_words((time.monotonic() - self.began) / self.now * left)} left for {left} more")
            self._write("  ".join(words))
        if not left and self.before:
            self._write(f"{self.before} of {self.scans} scans were done before")
        if not left and self.failed:
            self._write(f"{self.failed} of {self.scans} scans failed; the same command tries them again")

    def _write(self, line: str) -> None:
        self.told = time.monotonic()
        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        """Remove the bar from the terminal."""
        self.bar.close()
