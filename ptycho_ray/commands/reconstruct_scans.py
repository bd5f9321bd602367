"""``ptycho-ray reconstruct-scans``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.commands.common import FILE, FOLDER, SCAN, ReadingOptions, Result
from ptycho_ray.config.command_line import parse


@dataclass(kw_only=True)
class Options(ReadingOptions):
    """Reconstruct many scans, or a very large one, with one trained network on a Ray cluster, in shards.

    The same command resumes an interrupted run: finished shards are not repeated.

    Example: ptycho-ray reconstruct-scans a.h5 b.h5 --model-path model --output-dir images
    """

    scans: Annotated[tuple[Path, ...], tyro.conf.Positional, SCAN]
    """The scans: NPZ, HDF5 or CXI. HDF5 is read in parts."""
    model_path: Annotated[Path, FILE]
    """The trained model: wts.h5.zip, or the folder that train wrote to."""
    output_dir: Annotated[Path, FOLDER]
    """Output folder, with a sub-folder for each scan; every machine must have access to it."""
    shard_patterns: int = 2048
    """Patterns per shard."""
    workers: int | None = None
    """Number of actors; by default as many as the cluster has cores for."""
    address: str | None = None
    """Ray cluster, as host:port or 'auto'; by default RAY_ADDRESS or, if unset, a cluster on this machine only."""
    cpus_per_device: int = 1
    """Processor cores per actor."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray reconstruct-scans").options
    from ptycho_ray.cluster.batch import reconstruct_on_cluster
    from ptycho_ray.config import ExecutionConfig

    execution = ExecutionConfig(
        address=options.address, cpus_per_device=options.cpus_per_device, devices=options.workers or "auto"
    )
    lines = reconstruct_on_cluster(
        options.scans,
        options.model_path,
        options.output_dir,
        execution,
        shard_patterns=options.shard_patterns,
        reading=options.reading,
    )
    return {"scans": lines}
