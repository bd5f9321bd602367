"""What a job costs: processor and GPU seconds, and the bytes that it keeps; and what another one is likely to cost."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptycho_ray.service.jobs import Job, JobStore


@dataclass
class Spent:
    """Seconds of the processors and of the GPU."""

    cpu_s: float = 0.0
    gpu_s: float = 0.0


class Meter:
    """Shares the processor seconds of this process equally among the jobs that run at the same time, so that all that is
    counted is all that was used. With ``gpu`` also the time, for they have the GPU then.
    """

    def __init__(self, gpu: bool) -> None:
        self.gpu = gpu
        self._running: list[Spent] = []
        self._lock = threading.Lock()
        self._at = _clocks()

    @contextmanager
    def counting(self, spent: Spent) -> Iterator[None]:
        """Add to ``spent`` inside the block."""
        with self._lock:
            self._settle()
            self._running.append(spent)
        try:
            yield
        finally:
            with self._lock:
                self._settle()
                self._running = [other for other in self._running if other is not spent]

    def so_far(self, spent: Spent) -> dict[str, float]:
        """What was spent until now."""
        with self._lock:
            self._settle()
            return {"cpu_s": round(spent.cpu_s, 4), "gpu_s": round(spent.gpu_s, 4)}

    def _settle(self) -> None:
        before, self._at = self._at, _clocks()
        for spent in self._running:
            spent.cpu_s += (self._at[0] - before[0]) / len(self._running)
            spent.gpu_s += (self._at[1] - before[1]) / len(self._running) if self.gpu else 0.0


def _clocks() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def bytes_in(folder: Path) -> int:
    """What the files of a job take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def cost_of(job: Job) -> dict[str, Any]:
    """What a job has cost so far; its patterns and their side once they are known."""
    known = {"patterns": job.patterns, "side": job.side} if job.patterns is not None else {}
    return known | {"cpu_s": round(job.cpu_s, 3), "gpu_s": round(job.gpu_s, 3), "bytes": job.bytes}


def estimate(store: JobStore, model_key: str, patterns: int, side: int) -> dict[str, Any]:
    """What a scan is likely to cost: so much for each detector pixel as the newest jobs with this model (or without any) did,
    whatever their other settings. ``jobs`` is their number; without any nothing is known."""
    pixels, like = patterns * side**2, store.done_like(model_key)
    found: dict[str, Any] = {"patterns": patterns, "side": side, "jobs": len(like)}
    for name in ("cpu_s", "gpu_s", "bytes") if like else ():
        each = [getattr(job, name) / ((job.patterns or 1) * (job.side or 1) ** 2) for job in like]
        likely = pixels * statistics.median(each)
        found[name] = round(likely) if name == "bytes" else round(likely, 3)
    return found
