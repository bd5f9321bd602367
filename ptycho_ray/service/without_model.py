"""A reconstruction without a model: what may be chosen for it, and how the core is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ptycho_ray import workflow
from ptycho_ray.config import PRETRAINED, ExecutionConfig
from ptycho_ray.data import RawData
from ptycho_ray.display.automatic_report import automatic_facts, save_automatic, trial_rows
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.service.engine import Options, device_of
from ptycho_ray.service.job_results import Solution
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.schemas import SOLVER, Choices, choices_of
from ptycho_ray.service.settings import ServiceSettings

if TYPE_CHECKING:
    from ptycho_ray.service.work import Monitor

#: What a caller may make a replica hold or do, where the solver itself has no limit.
MOST = {"iterations": 10_000, "probe_modes": 64, "eigenmodes": 64, "slices": 64}
MOST_OF_A_MODEL = {"neighbor_count": 100, "neighbor_pool_size": 1000}


def check_choices(choices: Choices, most_workers: int = 1, *, with_model: bool) -> None:
    """Problem 422 for a choice that has no effect, more workers than there may be, or settings that do not go together."""
    for name in choices_of("automatic" if with_model else "model"):
        if (found := getattr(choices, name)) != Choices.model_fields[name].default:
            instead = "no model" if with_model else "a model beside it"
            more = {"field": name, "found": found, "expected": instead}
            raise Problem(422, "invalid", f"{name} has no effect {'with' if with_model else 'without'} a model.", more)
    if choices.workers > most_workers:
        more = {"field": "workers", "found": choices.workers, "expected": f"at most {most_workers}"}
        more["hint"] = "The setting job_workers of a service that has a cluster allows more"
        raise Problem(422, "invalid", "The service does not share a scan among so many workers.", more)
    if choices.workers > 1 and choices.uncertainty:
        more = {"field": "uncertainty", "found": f"{choices.workers} workers", "expected": "one"}
        raise Problem(422, "invalid", "Error bars need the whole scan in one process.", more)
    solver = choices.solver()
    if solver and with_model and not choices.refinement_iterations:
        field = f"{SOLVER}.{next(iter(solver))}"
        more = {"field": field, "expected": "refinement_iterations beside it, or no model"}
        raise Problem(422, "invalid", "The image of the model is not refined.", more)
    limits = [(f"{SOLVER}.{name}", solver.get(name), most) for name, most in MOST.items()]
    limits += [(name, choices.network.get(name), most) for name, most in MOST_OF_A_MODEL.items()]
    for field, found, most in limits:
        if (found or 0) > most:
            more = {"field": field, "found": found, "expected": f"at most {most}"}
            raise Problem(422, "invalid", f"{field} is above the limit of the service.", more)
    if solver.get("prior", "none") not in ("none", PRETRAINED):  # a file would be one of the service
        more = {"field": f"{SOLVER}.prior", "found": solver["prior"], "expected": f"{PRETRAINED} or none"}
        raise Problem(422, "invalid", "The service has the prior that comes with the program.", more)
    try:
        RefinementConfig(**solver)
    except ConfigurationError as error:
        field, found, expected = f"{SOLVER}.{error.field}", str(error.found), str(error.expected)
        more = {"field": field, "found": found, "expected": expected, "hint": error.hint}
        raise Problem(422, "invalid", f"{SOLVER}.{error}", more) from None


def plan(scan: RawData, options: Options, monitor: Monitor) -> dict[str, Any]:
    """What the core's automatic reconstruction would do: the facts for the caller."""
    found = workflow.plan_reconstruction(
        scan, seed=options.seed, settings=options.refinement, budget_s=options.budget_s, tell=monitor.tell
    )
    return {"plan": found.lines, "settings": found.settings, "trials": trial_rows(found)}


def reconstruct(
    scan: RawData, options: Options, settings: ServiceSettings, monitor: Monitor, folder: Path, origin: dict[str, Any]
) -> tuple[Solution, dict[str, Any]]:
    """The core's automatic reconstruction: what was solved, and the facts for the caller. Its files, as those of
    ``ptycho-ray reconstruct``, are in ``folder``."""
    wishes: dict[str, Any] = {"seed": options.seed, "settings": options.refinement, "budget_s": options.budget_s}
    wishes |= {"tell": monitor.tell, "on_progress": monitor.on_solution}
    if options.workers > 1:
        from ptycho_ray.cluster.reconstruct import reconstruct_on_cluster

        execution = ExecutionConfig(devices=options.workers, accelerator=settings.accelerator)
        wishes |= {"checkpoint": folder / "solution.safetensors", "on_wait": monitor.on_wait}
        try:
            made = reconstruct_on_cluster(scan, execution, **wishes)
        except ConfigurationError as error:
            if error.field != "execution.devices":
                raise
            more = {"field": "workers", "found": options.workers, "expected": error.expected, "hint": error.hint}
            raise Problem(
                422, "invalid", "The cluster of the service is too small for so many workers.", more
            ) from None
    else:
        device = torch.device(device_of(settings))
        wishes |= {"uncertainty": options.uncertainty, "device": device, "on_image": monitor.on_image}
        made = workflow.reconstruct_scan(scan, **wishes)
    save_automatic(made, folder, origin["scan"], origin)
    slices = made.refinement.slices if len(made.refinement.slices) > 1 else None
    solution = Solution(made.refinement.stitched, made.refined_scan, slices)
    facts = automatic_facts(made) | {"trials": trial_rows(made.plan)}
    if made.error_bars is not None and made.error_bars.halves is not None:
        facts["uncertainty"]["half_data"] = made.error_bars.halves.to_dict(curve=True)
    return solution, facts
