"""``ptycho-ray evaluate-scans``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.commands.common import FILE, FOLDER, SCAN, ReadingOptions, Result
from ptycho_ray.config.command_line import parse
from ptycho_ray.files import jsonable, write_json


@dataclass(kw_only=True)
class Options(ReadingOptions):
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
    evaluate_one = functools.partial(reconstruct_and_evaluate, options.model_path, options.reading.words())
    rows = evaluate_on_cluster(options.scans, evaluate_one, options.output_dir, execution)
    result: Result = {"scans": rows, "table": options.output_dir / "evaluation.json"}
    write_json(options.output_dir / "evaluation.json", jsonable(result))
    return result


def reconstruct_and_evaluate(model_path: str, reading: Sequence[str], scan: Path, folder: Path) -> Result:
    """The commands ``reconstruct`` and ``evaluate`` for one scan; the figures that stand in the table."""
    from ptycho_ray.commands import evaluate, reconstruct

    reconstruct.run([str(scan), "--model-path", model_path, "--output-dir", str(folder), *reading])
    found = evaluate.run([str(folder), str(scan), *reading])
    figures: Result = {"r_factor": found["diffraction"]["r_factor"]}
    for part in ("amplitude", "phase"):
        if "truth" in found:
            figures |= {f"{part}_{name}": found["truth"][part][name] for name in ("mae", "ssim")}
    return figures | {"image": f"{folder}/reconstruction.npz"}
