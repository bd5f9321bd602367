"""``ptycho-ray evaluate-scans``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.commands.common import FILE, FOLDER, SCAN, ReadingOptions, Result
from ptycho_ray.commands.output import WritingOptions, folder_to_write
from ptycho_ray.config.command_line import parse
from ptycho_ray.files import jsonable, write_json


@dataclass(kw_only=True)
class Options(ReadingOptions, WritingOptions):
    """Reconstruct many scans, automatically or with one trained network, and evaluate the images, in parallel on a Ray cluster.

    Example: ptycho-ray evaluate-scans a.npz b.npz --output-dir images
    """

    scans: Annotated[tuple[Path, ...], tyro.conf.Positional, SCAN]
    """The scans: NPZ, HDF5 or CXI."""
    model_path: Annotated[str | None, FILE] = None
    """Use a trained model: wts.h5.zip, the folder that train wrote to, or an MLflow model (models:/... or runs:/...)."""
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
    from ptycho_ray.training.scan_training import distinct_names

    inputs = options.inputs(*options.scans)
    for name in distinct_names([str(path) for path in options.scans]):
        folder_to_write(options.output_dir / name, given=True, overwrite=options.overwrite, inputs=inputs)
    how = [] if options.model_path is None else ["--model-path", options.model_path]
    how += ["--overwrite"] if options.overwrite else []
    execution = ExecutionConfig(address=options.address, cpus_per_device=options.cpus_per_device)
    evaluate_one = functools.partial(reconstruct_and_evaluate, how, options.reading.absolute().words())
    rows = evaluate_on_cluster(options.scans, evaluate_one, options.output_dir, execution)
    result: Result = {"scans": rows, "table": options.output_dir / "evaluation.json"}
    write_json(options.output_dir / "evaluation.json", jsonable(result))
    return result


def reconstruct_and_evaluate(how: Sequence[str], reading: Sequence[str], scan: Path, folder: Path) -> Result:
    """The commands ``reconstruct`` and ``evaluate`` for one scan, with the words ``how`` for the first and ``reading`` for
    both; the figures that stand in the table."""
    from ptycho_ray.commands import evaluate, reconstruct

    made = reconstruct.run([str(scan), *how, "--output-dir", str(folder), *reading])
    found = evaluate.run([str(folder), str(scan), *reading])
    figures: Result = {"r_factor": found["diffraction"]["r_factor"]}
    figures |= {name: made[name] for name in ("verdict", "trusted") if name in made}
    for part in ("amplitude", "phase"):
        if "truth" in found:
            figures |= {f"{part}_{name}": found["truth"][part][name] for name in ("mae", "ssim")}
    return figures | {"image": f"{folder}/reconstruction.npz"}
