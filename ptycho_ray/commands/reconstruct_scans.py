"""``ptycho-ray reconstruct-scans``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from ptycho_ray.commands.automatic import SECTION, AutomaticOptions, refuse_without_network, section_of
from ptycho_ray.commands.common import FILE, Result, solver_settings
from ptycho_ray.commands.many_scans import BatchOptions, treat_all
from ptycho_ray.commands.many_scans import as_text as as_text
from ptycho_ray.config.command_line import parse
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.refinement.config import RefinementConfig

if TYPE_CHECKING:
    from ptycho_ray.cluster.each_alone import Treatment


@dataclass(kw_only=True)
class Options(BatchOptions, AutomaticOptions):
    """Reconstruct many scans on a Ray cluster: automatically, each with the files of ptycho-ray reconstruct, or with
    --model-path by one trained network, also a very large scan, in shards.

    Each scan succeeds or fails alone; its image is written as soon as it is done. The same command, given again, does what is
    missing: scans whose content and settings are those of their result are not done again, those that failed are. The exit code
    is 1 if a scan failed, and 3 if none did but an image is not to be trusted.

    Example: ptycho-ray reconstruct-scans /data/run7 @more.txt --output-dir images
    """

    model_path: Annotated[Path | None, FILE] = None
    """Use a trained model: wts.h5.zip, the folder that train wrote to, or 'pretrained'."""
    config: Annotated[Path | None, FILE] = None
    """Without a model: YAML file with settings of the solver, as ptycho-ray refine takes it."""
    plan: bool = False
    """Without a model: only decide; what was decided stands in the line of each scan."""
    shard_patterns: int | None = None
    """With a model: patterns per shard; 2048 if not given."""
    inference_batch_size: int | None = None
    """With a model: groups per batch; that of its training if not given."""


def run(words: Sequence[str]) -> Result:
    typed = parse(Options, words, prog="ptycho-ray reconstruct-scans", sections={SECTION: RefinementConfig})
    options, (solver, _) = typed.options, section_of(typed)
    if options.model_path is None:
        return _automatically(options, solver)
    own = {
        "seed": options.seed,
        "budget": options.budget,
        "uncertainty": options.uncertainty,
        "config": options.config,
        "plan": options.plan,
    }
    own |= {f"{SECTION}.{name}": value for name, value in solver.items()}
    refuse_without_network(own, "--model-path")
    from ptycho_ray.bundle import bundle_path

    execution = options.execution(inference_batch_size=options.inference_batch_size)
    model, reading = bundle_path(options.model_path).absolute(), options.reading.absolute()

    def by_model() -> Treatment:
        from ptycho_ray.cluster.batch import SHARD_PATTERNS, ByModel

        return ByModel(model, execution, shard_patterns=options.shard_patterns or SHARD_PATTERNS, reading=reading)

    return treat_all(options, by_model, execution, {"by": "model"}, {"model": model}, "scans.json")


def _automatically(options: Options, solver: dict[str, Any]) -> Result:
    for name, value in (
        ("--shard-patterns", options.shard_patterns),
        ("--inference-batch-size", options.inference_batch_size),
    ):
        if value is not None:
            expected = "--model-path beside it; without a model every scan is one task"
            raise ConfigurationError(field=name, found=value, expected=expected)
    if options.config is not None:
        solver = solver_settings(options.config) | solver
    RefinementConfig(**solver)
    wishes, reading = options.wishes(solver), options.reading.absolute()

    def automatically() -> Treatment:
        from ptycho_ray.cluster.reconstruct import Automatically

        return Automatically(wishes, reading, options.plan)

    return treat_all(
        options, automatically, options.execution(), {"by": "solver", "plan": options.plan, **wishes}, {}, "scans.json"
    )
