"""What ``ptycho-ray reconstruct SCAN`` does if no model is named: the automatic reconstruction, its files and its report."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ptycho_ray import __version__
from ptycho_ray.commands.common import ProductOptions, Result, WorkerOptions, tell
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.files import digests_in_threads
from ptycho_ray.refinement.config import RefinementConfig

if TYPE_CHECKING:
    from ptycho_ray.automatic.reconstruct import Automatic
    from ptycho_ray.commands.reconstruct import Options
    from ptycho_ray.config.command_line import Typed

#: What asks for no network: the scan, where the image goes, where it is computed, and what is shown of an error.
_NO_NETWORK = {"test_data_file", "output_dir", "device", "execution.accelerator", "debug"}
#: The section of the solver's settings: ``--refinement.probe-modes 2``.
SECTION = "refinement"
#: Where several workers keep the state of a solution while they solve.
CHECKPOINT = "solution.safetensors"


@dataclass(kw_only=True)
class AutomaticOptions:
    """Options of commands that reconstruct without a network."""

    prior: Annotated[str | None, tyro.conf.arg(metavar="pretrained|FILE|none")] = None
    """A learned prior where the patterns do not tell; how much it may say is chosen by detector pixels that take no part
    (docs/prior.md). Short for --refinement.prior."""
    seed: int | None = None
    """Without a model: seed of the trials, the patterns held out and the batches; 0 if not given."""
    budget: float | None = None
    """Without a model: limit on the processor seconds of the trials."""
    uncertainty: bool = False
    """Without a model: also determine error bars of amplitude and phase at every pixel, and compare two halves of the data
    (2.6 times the time of the solution on top of it)."""

    def wishes(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of ``workflow.reconstruct_scan`` that these options stand for; those of ``plan_reconstruction`` but for
        ``uncertainty``."""
        if self.budget is not None and not self.budget > 0:
            raise ConfigurationError(field="--budget", found=self.budget, expected="a number of seconds above 0")
        asked = {"uncertainty": self.uncertainty, "budget_s": self.budget}
        return {"seed": self.seed or 0, "settings": dict(settings), **asked}


def refuse_without_network(given: Mapping[str, Any], network: str) -> None:
    """ConfigurationError if an option of the automatic reconstruction stands beside ``network``, what asks for a network."""
    named = next((name for name, value in given.items() if value is not None and value is not False), None)
    if named is not None:
        raise ConfigurationError(
            "a network decides nothing",
            field=f"--{named}",
            found=f"given together with {network}",
            expected="one of the two",
            hint=f"Leave out {network} for the automatic reconstruction, or leave out --{named}",
        )


def section_of(typed: Typed[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the solver among what was typed, by their own names, and the rest."""
    prefix = f"{SECTION}."
    settings = {n.removeprefix(prefix): value for n, value in typed.settings.items() if n.startswith(prefix)}
    if typed.options.prior is not None:
        settings.setdefault("prior", typed.options.prior)
    return settings, {name: value for name, value in typed.settings.items() if not name.startswith(prefix)}


def refinement_settings(solver: Mapping[str, Any], iterations: int, seed: int) -> RefinementConfig | None:
    """The settings of a refinement of the network's image, if any are given; ConfigurationError if it is not asked for."""
    if not solver:
        return None
    if not iterations:
        name = next(iter(solver))
        raise ConfigurationError(
            "the image of the network is not refined",
            field=f"--{SECTION}.{name.replace('_', '-')}",
            found=solver[name],
            expected="--refine N beside it, or no model: the automatic reconstruction",
        )
    return RefinementConfig(**{"iterations": iterations, "seed": seed, **solver})


def asks_for_network(options: Options, given: Mapping[str, Any]) -> str | None:
    """The first thing on the command line that only a network has; None if there is none."""
    if "model_path" in given:
        return "--model-path"
    if options.refine is not None:
        return "--refine"
    if options.config is not None:
        return "--config"
    return next((f"--{name.replace('_', '-')}" for name in given if name not in _NO_NETWORK), None)


def own_options(options: Options) -> dict[str, Any]:
    """The options that only the automatic reconstruction has."""
    return {name: getattr(options, name) for name in ("plan", "explain", "seed", "budget", "uncertainty")}


def reconstruct_automatically(
    scan_file: Path,
    folder: Path,
    wishes: Mapping[str, Any],
    *,
    only_plan: bool,
    explain: bool,
    product: ProductOptions,
    workers: WorkerOptions,
    accelerator: str,
) -> Result:
    """Reconstruct a scan without a network, and write image, scan as refined, report and figures into ``folder``."""
    cluster = workers.of_cluster()
    if cluster and only_plan:
        raise ConfigurationError(
            field="--workers", found="--plan", expected="one of the two: a plan is made in one process"
        )
    if cluster and wishes["uncertainty"]:
        raise ConfigurationError(
            field="--uncertainty",
            found="a scan shared by several workers",
            expected="a scan solved in one process: without --workers",
            hint="ptycho-ray refine --workers N --uncertainty has both, with the settings that are given",
        )
    from ptycho_ray import workflow
    from ptycho_ray.config import ExecutionConfig
    from ptycho_ray.display.automatic_report import save_automatic, trial_rows
    from ptycho_ray.display.progress import RefinementProgress
    from ptycho_ray.display.report import provenance
    from ptycho_ray.models.denoiser import load_prior
    from ptycho_ray.training.device import resolve_device

    wanted = RefinementConfig(**wishes["settings"])  # what is wrong with them is said before anything is computed
    if wanted.prior != "none":
        load_prior(wanted.prior)
    execution = ExecutionConfig(accelerator=accelerator, **cluster)
    device = None if cluster else resolve_device(execution)
    scan = workflow.load_data(scan_file, reading=product.reading)
    product.check_geometry(scan)
    of_plan = {name: value for name, value in wishes.items() if name != "uncertainty"}
    if only_plan:
        plan = workflow.plan_reconstruction(scan, tell=tell, **of_plan)
        return {"plan": plan.lines, "trials": trial_rows(plan), "seconds": plan.seconds}
    reconstruct: Callable[..., Automatic] = functools.partial(workflow.reconstruct_scan, device=device, **wishes)
    digests_of: Callable[..., list[bytes]] = digests_in_threads
    if cluster:
        from ptycho_ray.cluster.reconstruct import reconstruct_on_cluster
        from ptycho_ray.cluster.whole_scan import digests_on_cluster

        digests_of = functools.partial(digests_on_cluster, execution, tell)
        reconstruct = functools.partial(
            reconstruct_on_cluster, execution=execution, checkpoint=folder / CHECKPOINT, **of_plan
        )
    with contextlib.closing(RefinementProgress()) as progress:
        made = reconstruct(scan, tell=tell, on_progress=progress)
    image, more = made.refinement.stitched, {}
    if product.product is not None:
        remark = f"Reconstructed by ptycho_ray {__version__}."
        more["product"] = product.write_product(made.refined_scan, image.image, image.origin_px, remark)
    origin = provenance(seed=wishes["seed"], data_files=[scan_file], digests_of=digests_of)
    result = save_automatic(made, folder, str(scan_file), origin, more)
    return result | ({"trials": trial_rows(made.plan)} if explain else {})
