"""The automatic reconstruction on a Ray cluster: of one scan by several workers, and of one of many by one worker."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ptycho_ray import workflow
from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.each_alone import Line, Say, ScanToDo, Treatment
from ptycho_ray.cluster.preflight import workers_for
from ptycho_ray.cluster.refine import forget, solve_on_cluster
from ptycho_ray.cluster.start_watch import OnWait, now_and_then
from ptycho_ray.cluster.whole_scan import read_energies
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.config.reading import Reading
from ptycho_ray.data import RawData
from ptycho_ray.display.automatic_report import save_automatic
from ptycho_ray.display.progress import TimeLeft
from ptycho_ray.display.report import provenance
from ptycho_ray.errors import NOT_TRUSTED, OK
from ptycho_ray.refinement.solver import Progress, RefinementConfig, RefinementResult

if TYPE_CHECKING:
    from ptycho_ray.automatic.reconstruct import Automatic


def reconstruct_on_cluster(
    scan: RawData,
    execution: ExecutionConfig,
    *,
    checkpoint: Path,
    tell: Callable[[str], None] = lambda line: None,
    on_wait: OnWait | None = None,
    **wishes: Any,
) -> Automatic:
    """:func:`ptycho_ray.workflow.reconstruct_scan` with the solution on ``execution.devices`` workers.

    What is unknown is decided in this process, by a part of the scan; the workers read the whole, solve it with shared batches
    or in tiles (:func:`.cluster.refine.solve_on_cluster`), and judge the patterns that were left out.

    Args:
        checkpoint: where the state of the solution is kept while it runs, in a folder that every machine reaches.
        tell: told what is decided, and what is waited for.
        on_wait: as for ``solve_on_cluster``.
        wishes: further arguments of ``reconstruct_scan``, without ``device``, ``uncertainty``.

    Raises:
        ConfigurationError: the cluster has no room for the workers, or they cannot share a scan as they are told to.
        others: those of ``reconstruct_scan`` and ``solve_on_cluster``.
    """
    with connected(execution, tell):
        on_wait = on_wait or now_and_then(tell)
        workers_for(execution, tell)  # before anything is computed
        solve = functools.partial(
            solve_on_cluster, checkpoint=checkpoint, resume=False, execution=execution, tell=tell, on_wait=on_wait
        )
        read_whole = functools.partial(read_energies, on_wait=on_wait)

        def solve_from_probe(scan: RawData, config: RefinementConfig, **how: Any) -> tuple[RefinementResult, list[Any]]:
            try:
                return solve(scan, config, probe=scan.probe, **how)
            finally:
                forget(checkpoint)

        return workflow.reconstruct_scan(scan, solve=solve_from_probe, read_whole=read_whole, tell=tell, **wishes)


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
        left = TimeLeft()

        def on_progress(progress: Progress) -> None:
            done, total = progress.iteration, progress.iterations
            say(f"iteration {done}/{total}, {left.words(done, total)}")

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
