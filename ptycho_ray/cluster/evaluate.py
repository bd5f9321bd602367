"""Reconstructing and judging many scans with one model, each scan a task of a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ray

from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.preflight import check_nodes
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import InputError
from ptycho_ray.training.scan_training import distinct_names

Figures = dict[str, object]


def evaluate_on_cluster(
    scans: Sequence[Path], model_path: str, output_dir: Path, execution: ExecutionConfig
) -> list[Figures]:
    """Reconstruct every scan into a folder of its own in ``output_dir`` and measure the image.

    An error with one scan is recorded in its row under ``error`` and does not affect the others.

    Raises:
        InputError: a machine of the cluster does not see a scan, or has other packages.
    """
    with connected(execution):
        check_nodes(files=[str(path.absolute()) for path in scans])
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(_evaluate).options(num_cpus=execution.cpus_per_device, num_gpus=gpus)
        waiting = [
            task.remote(str(path.absolute()), model_path, str(output_dir.absolute() / name))
            for name, path in zip(distinct_names([str(path) for path in scans]), scans, strict=True)
        ]
        return ray.get(waiting)


def _evaluate(scan: str, model_path: str, folder: str) -> Figures:
    """Run on a worker: the commands ``reconstruct`` and ``evaluate`` for one scan."""
    from ptycho_ray.commands import evaluate, reconstruct

    figures: Figures = {"scan": scan}
    try:
        reconstruct.run([scan, "--model-path", model_path, "--output-dir", folder])
        found = evaluate.run([folder, scan])
    except InputError as error:
        return figures | {"error": str(error)}
    figures["r_factor"] = found["diffraction"]["r_factor"]
    for part in ("amplitude", "phase"):
        if "truth" in found:
            figures |= {f"{part}_{name}": found["truth"][part][name] for name in ("mae", "ssim")}
    return figures | {"image": f"{folder}/reconstruction.npz"}
