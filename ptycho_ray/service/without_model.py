"""A reconstruction without a model: what may be chosen for it, and how the core is called."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ptycho_ray import workflow
from ptycho_ray.data import RawData
from ptycho_ray.display.automatic_report import automatic_facts, save_automatic, trial_rows
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.service.engine import Options, device_of
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.schemas import NETWORK, SOLVER, Choices
from ptycho_ray.service.settings import ServiceSettings

if TYPE_CHECKING:
    from ptycho_ray.service.work import Monitor

#: Choices that only one of the two ways has.
OF_A_MODEL = ("gridsize", "stitch", "crop", "refinement_iterations", *NETWORK)
OF_NO_MODEL = ("budget_s", "seed", "uncertainty")
#: What a caller may make a replica hold or do, where the solver itself has no limit.
MOST = {"iterations": 10_000, "probe_modes": 64, "eigenmodes": 64, "slices": 64}
MOST_OF_A_MODEL = {"neighbor_count": 100, "neighbor_pool_size": 1000}


def check_choices(choices: Choices, with_model: bool) -> None:
    """Problem 422 for a choice that would have no effect, or settings of the solver that do not go together."""
    for name in OF_NO_MODEL if with_model else OF_A_MODEL:
        if (found := getattr(choices, name)) != Choices.model_fields[name].default:
            instead = "no model" if with_model else "a model beside it"
            more = {"field": name, "found": found, "expected": instead}
            raise Problem(422, "invalid", f"{name} has no effect {'with' if with_model else 'without'} a model.", more)
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
    try:
        RefinementConfig(**solver)
    except ConfigurationError as error:
        field, found, expected = f"{SOLVER}.{error.field}", str(error.found), str(error.expected)
        more = {"field": field, "found": found, "expected": expected, "hint": error.hint}
        raise Problem(422, "invalid", f"{SOLVER}.{error}", more) from None


def reconstruct(
    scan: RawData, options: Options, settings: ServiceSettings, monitor: Monitor, folder: Path, origin: dict[str, Any]
) -> tuple[StitchedObject, RawData, dict[str, Any]]:
    """The core's automatic reconstruction: the image, the scan with the probe and positions that were found, and the facts
    for the caller. Its files, as those of ``ptycho-ray reconstruct``, are in ``folder``."""
    made = workflow.reconstruct_scan(
        scan,
        seed=options.seed,
        settings=options.refinement,
        budget_s=options.budget_s,
        uncertainty=options.uncertainty,
        device=torch.device(device_of(settings)),
        tell=monitor.tell,
        on_progress=monitor.on_solution,
    )
    save_automatic(made, folder, origin["scan"], origin)
    return made.refinement.stitched, made.refined_scan, automatic_facts(made) | {"trials": trial_rows(made.plan)}
