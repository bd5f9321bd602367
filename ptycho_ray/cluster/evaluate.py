"""Reconstructing and judging many scans with one model, each scan a task of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import ray

from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.preflight import check_nodes
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import InputError
from ptycho_ray.training.scan_training import distinct_names

Figures = dict[str, object]


def evaluate_on_cluster(
    scans: Sequence[Path], evaluate_one: Callable[[Path, Path], Figures], output_dir: Path, execution: ExecutionConfig
) -> list[Figures]:
    """The figures of every scan, each in a line with ``scan``.

    Args:
        evaluate_one: ``evaluate_one(scan, folder)`` reconstructs a scan into a folder of its own in ``output_dir`` and measures
            the image; it runs on the workers. An InputError stands in the line of the scan under ``error`` and leaves the
            others alone.

    Raises:
        InputError: a machine of the cluster does not see a scan, or has other packages.
    """
    with connected(execution):
        check_nodes(files=[str(path.absolute()) for path in scans])
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(_evaluate).options(num_cpus=execution.cpus_per_device, num_gpus=gpus)
        waiting = [
            task.remote(evaluate_one, path.absolute(), output_dir.absolute() / name)
            for name, path in zip(distinct_names([str(path) for path in scans]), scans, strict=True)
        ]
        return ray.get(waiting)


def _evaluate(evaluate_one: Callable[[Path, Path], Figures], scan: Path, folder: Path) -> Figures:
    """Run on a worker."""
    try:
        figures = evaluate_one(scan, folder)
    except InputError as error:
        figures = {"error": str(error)}
    return {"scan": str(scan), **figures}
