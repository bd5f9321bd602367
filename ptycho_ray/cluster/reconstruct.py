"""The automatic reconstruction of a scan as one of many on a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ptycho_ray import workflow
from ptycho_ray.cluster.each_alone import NOT_TRUSTED, OK, Line, Say, ScanToDo, Treatment
from ptycho_ray.config.reading import Reading
from ptycho_ray.display.automatic_report import save_automatic
from ptycho_ray.display.progress import in_words
from ptycho_ray.display.report import provenance
from ptycho_ray.refinement.solver import Progress


@dataclass(frozen=True)
class Automatically(Treatment):
    """The treatment of scans without a model, each in one step.

    Args:
        wishes: arguments of ``workflow.reconstruct_scan``: seed, settings, budget_s, uncertainty.
        reading: how all scans are read, with absolute paths.
        only_plan: decide and do not solve.
    """

    wishes: Mapping[str, Any]
    reading: Reading | None = None
    only_plan: bool = False

    def begin(self, scan: ScanToDo, device: str, say: Say) -> Line:
        began: list[float] = []

        def on_progress(progress: Progress) -> None:
            began.append(time.monotonic()) if not began else None
            left = (time.monotonic() - began[0]) / progress.iteration * (progress.iterations - progress.iteration)
            say(f"iteration {progress.iteration}/{progress.iterations}, {in_words(left)} left")

        say("deciding")
        loaded = workflow.load_data(scan.path, reading=self.reading)
        if self.only_plan:
            of_plan = {name: value for name, value in self.wishes.items() if name != "uncertainty"}
            return {"exit_code": OK, "plan": workflow.plan_reconstruction(loaded, **of_plan).lines}
        made = workflow.reconstruct_scan(
            loaded,
            device=torch.device(device),
            on_progress=on_progress,
            **self.wishes,
        )
        origin = provenance(seed=self.wishes["seed"], data_files=[scan.path])
        result = save_automatic(made, scan.folder, str(scan.path), origin)
        kept = ("verdict", "trusted", "image", "refined_scan", "report", "patterns", "seconds")
        code = OK if result["trusted"] else NOT_TRUSTED
        return {"exit_code": code} | {name: result[name] for name in kept}
