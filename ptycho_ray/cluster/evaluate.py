"""Reconstructing and judging a scan as one of many on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ptycho_ray.cluster.each_alone import Line, Say, ScanToDo, Treatment
from ptycho_ray.errors import OK


@dataclass(frozen=True)
class Judged(Treatment):
    """The treatment of scans that are reconstructed and judged.

    Args:
        evaluate_one: ``evaluate_one(scan, folder, device)`` reconstructs a scan into a folder of its own and returns the
            figures of the image; it runs on the workers.
    """

    evaluate_one: Callable[[Path, Path, str], Line]

    def begin(self, scan: ScanToDo, device: str, say: Say) -> Line:
        return {"exit_code": OK, **self.evaluate_one(scan.path, scan.folder, device)}
