"""``ptycho-ray reconstruct-scans``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.commands.automatic import SECTION, AutomaticOptions, refuse_without_network, section_of
from ptycho_ray.commands.common import FILE, FOLDER, SCAN, ReadingOptions, Result
from ptycho_ray.commands.output import WritingOptions, folder_to_write
from ptycho_ray.config.command_line import parse
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.refinement.config import RefinementConfig

#: Of the exit codes of several scans that of the whole: unusable input, a failure, an image that is not to be trusted.
WORST_FIRST = (2, 1, 3)


@dataclass(kw_only=True)
class Options(ReadingOptions, WritingOptions, AutomaticOptions):
    """Reconstruct many scans on a Ray cluster: automatically, one task a scan, each with the files of ptycho-ray reconstruct.
    One that fails has its error in its line and leaves the others alone; the exit code is then that of the worst.

    With --model-path by one trained network, also a very large scan, in shards; the same command resumes an interrupted run:
    finished shards are not repeated.

    Example: ptycho-ray reconstruct-scans a.h5 b.h5 --output-dir images
    """

    scans: Annotated[tuple[Path, ...], tyro.conf.Positional, SCAN]
    """The scans: NPZ, HDF5 or CXI. HDF5 is read in parts."""
    model_path: Annotated[Path | None, FILE] = None
    """Use a trained model: wts.h5.zip, or the folder that train wrote to."""
    output_dir: Annotated[Path, FOLDER]
    """Output folder, with a sub-folder for each scan; every machine must have access to it."""
    shard_patterns: int | None = None
    """With a model: patterns per shard; 2048 if not given."""
    workers: int | None = None
    """Number of scans, or of actors with the model, at a time; by default as many as the cluster has cores for."""
    address: str | None = None
    """Ray cluster, as host:port or 'auto'; by default RAY_ADDRESS or, if unset, a cluster on this machine only."""
    cpus_per_device: int = 1
    """Processor cores per scan or actor."""


def run(words: Sequence[str]) -> Result:
    typed = parse(Options, words, prog="ptycho-ray reconstruct-scans", sections={SECTION: RefinementConfig})
    options, (solver, _) = typed.options, section_of(typed.settings)
    from ptycho_ray.config import ExecutionConfig
    from ptycho_ray.training.scan_training import distinct_names

    folders = [options.output_dir / name for name in distinct_names([str(path) for path in options.scans])]
    inputs = options.inputs(*options.scans)
    execution = ExecutionConfig(
        address=options.address, cpus_per_device=options.cpus_per_device, devices=options.workers or "auto"
    )
    if options.model_path is None:
        if options.shard_patterns is not None:
            expected = "--model-path beside it; without a model every scan is one task"
            raise ConfigurationError(field="--shard-patterns", found=options.shard_patterns, expected=expected)
        RefinementConfig(**solver)
        for folder in folders:
            folder_to_write(folder, given=True, overwrite=options.overwrite, inputs=inputs)
        from ptycho_ray.cluster.reconstruct import reconstruct_scans_automatically

        lines = reconstruct_scans_automatically(
            options.scans, options.output_dir, execution, options.wishes(solver), reading=options.reading.absolute()
        )
        codes = {line["exit_code"] for line in lines}
        return {"scans": lines, "exit_code": next((code for code in WORST_FIRST if code in codes), 0)}
    own = {"seed": options.seed, "budget": options.budget, "uncertainty": options.uncertainty} | {
        f"{SECTION}.{name}": value for name, value in solver.items()
    }
    refuse_without_network(own, "--model-path")
    from ptycho_ray.cluster.batch import SHARD_PATTERNS, SHARDS, reconstruct_on_cluster

    for folder in folders:
        again = (folder / SHARDS).is_dir()
        folder_to_write(folder, given=True, overwrite=options.overwrite, resume=again, inputs=inputs)
    shard = options.shard_patterns or SHARD_PATTERNS
    lines = reconstruct_on_cluster(
        options.scans,
        options.model_path,
        options.output_dir,
        execution,
        shard_patterns=shard,
        reading=options.reading.absolute(),
    )
    return {"scans": lines}
