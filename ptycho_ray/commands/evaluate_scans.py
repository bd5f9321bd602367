"""``ptycho-ray evaluate-scans``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.commands.common import FILE, FOLDER, SCAN, Common, Result
from ptycho_ray.config.command_line import parse
from ptycho_ray.files import jsonable, write_json


@dataclass(kw_only=True)
class Options(Common):
    """Reconstruct many scans with one trained network and evaluate the images, in parallel on a Ray cluster.

    Example: ptycho-ray evaluate-scans a.npz b.npz --model-path model --output-dir images
    """

    scans: Annotated[tuple[Path, ...], tyro.conf.Positional, SCAN]
    """The scans: NPZ, HDF5 or CXI."""
    model_path: Annotated[str, FILE]
    """The trained model: wts.h5.zip, the folder that train wrote to, or an MLflow model (models:/... or runs:/...)."""
    output_dir: Annotated[Path, FOLDER]
    """Output folder, with a sub-folder for each scan and the figures of all scans in evaluation.json."""
    address: str | None = None
    """Ray cluster, as host:port or 'auto'; by default RAY_ADDRESS or, if unset, a cluster on this machine only."""
    cpus_per_device: int = 1
    """Processor cores for each scan."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray evaluate-scans").options
    from ptycho_ray.cluster.evaluate import evaluate_on_cluster
    from ptycho_ray.config import ExecutionConfig

    execution = ExecutionConfig(address=options.address, cpus_per_device=options.cpus_per_device)
    rows = evaluate_on_cluster(options.scans, options.model_path, options.output_dir, execution)
    result: Result = {"scans": rows, "table": options.output_dir / "evaluation.json"}
    write_json(options.output_dir / "evaluation.json", jsonable(result))
    return result
