"""``ptycho-ray evaluate-scans``."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from ptycho_ray.commands.common import FILE, Result
from ptycho_ray.commands.many_scans import BatchOptions, treat_all
from ptycho_ray.commands.many_scans import as_text as as_text
from ptycho_ray.config.command_line import parse

if TYPE_CHECKING:
    from ptycho_ray.cluster.each_alone import Treatment


@dataclass(kw_only=True)
class Options(BatchOptions):
    """Reconstruct many scans, automatically or with one trained network, and evaluate the images, in parallel on a Ray cluster.

    Each scan succeeds or fails alone. The same command, given again, does what is missing.

    Example: ptycho-ray evaluate-scans a.npz b.npz --output-dir images
    """

    model_path: Annotated[str | None, FILE] = None
    """Use a trained model: wts.h5.zip, the folder that train wrote to, or an MLflow model (models:/... or runs:/...)."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray evaluate-scans").options
    model, files = options.model_path, dict[str, Path]()
    if model is not None:
        from ptycho_ray.bundle import bundle_path, is_mlflow_uri

        if not is_mlflow_uri(model):
            files["model"] = bundle_path(model).absolute()
            model = str(files["model"])
    how = [] if model is None else ["--model-path", model]
    reading = options.reading.absolute().words()

    def judged() -> Treatment:
        from ptycho_ray.cluster.evaluate import Judged

        return Judged(functools.partial(reconstruct_and_evaluate, how, reading))

    return treat_all(options, judged, options.execution(), {"by": "evaluate", "model": model}, files, "evaluation.json")


def reconstruct_and_evaluate(
    how: Sequence[str], reading: Sequence[str], scan: Path, folder: Path, device: str
) -> Result:
    """The commands ``reconstruct`` and ``evaluate`` for one scan, with the words ``how`` for the first and ``reading`` for
    both; the figures that stand in the table. What the folder holds is replaced."""
    from ptycho_ray.commands import evaluate, reconstruct

    where = ["--execution.accelerator", device, "--output-dir", str(folder), "--overwrite"]
    made = reconstruct.run([str(scan), *how, *where, *reading])
    found = evaluate.run([str(folder), str(scan), *reading])
    figures: Result = {"r_factor": found["diffraction"]["r_factor"]}
    figures |= {name: made[name] for name in ("verdict", "trusted") if name in made}
    for part in ("amplitude", "phase"):
        if "truth" in found:
            figures |= {f"{part}_{name}": found["truth"][part][name] for name in ("mae", "ssim")}
    return figures | {"image": f"{folder}/reconstruction.npz"}
