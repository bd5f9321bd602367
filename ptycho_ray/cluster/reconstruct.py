"""The automatic reconstruction of many scans, each a task of a Ray cluster that succeeds or fails alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray

from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.failures import last_line
from ptycho_ray.cluster.preflight import check_nodes
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.config.reading import Reading
from ptycho_ray.errors import InputError
from ptycho_ray.training.scan_training import distinct_names

#: The exit codes of ``ptycho-ray reconstruct``.
OK, FAILED, BAD_INPUT, NOT_TRUSTED = 0, 1, 2, 3


def reconstruct_scans_automatically(
    scans: Sequence[Path],
    output_dir: Path,
    execution: ExecutionConfig,
    wishes: Mapping[str, Any],
    *,
    reading: Reading | None = None,
) -> list[dict[str, Any]]:
    """Reconstruct every scan into a folder of its own in ``output_dir``; a line about each.

    Args:
        execution: ``devices`` is the number of scans at a time ('auto': as many as the cluster has processor cores or GPUs
            for), ``cpus_per_device`` the cores of each.
        wishes: arguments of ``workflow.reconstruct_scan``: seed, settings, budget_s, uncertainty.
        reading: how all scans are read, with absolute paths.

    Returns:
        ``scan``, ``exit_code`` as that of ``ptycho-ray reconstruct``, and ``error`` or the verdict and the files.

    Raises:
        InputError: a machine of the cluster does not see what this one sees, or has other packages.
    """
    with connected(execution):
        check_nodes(files=[str(path.absolute()) for path in scans if path.is_file()])
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        task = ray.remote(_reconstruct).options(num_cpus=execution.cpus_per_device, num_gpus=gpus)
        names = distinct_names([str(path) for path in scans])

        def one(name: str, path: Path) -> dict[str, Any]:
            at, cores = output_dir.absolute() / name, execution.cpus_per_device
            try:
                line: dict[str, Any] = ray.get(task.remote(path.absolute(), at, dict(wishes), reading, cores))
            except ray.exceptions.RayError as error:
                line = {"exit_code": FAILED, "error": f"the worker was lost: {last_line(error)}"}
            return {"scan": str(path), **line}

        at_once = len(scans) if execution.devices == "auto" else execution.devices
        with ThreadPoolExecutor(max(1, at_once)) as pool:
            return list(pool.map(one, names, scans))


def _reconstruct(
    scan_file: Path, folder: Path, wishes: dict[str, Any], reading: Reading | None, cores: int
) -> dict[str, Any]:
    """Run on a worker."""
    import torch

    from ptycho_ray import workflow
    from ptycho_ray.display.automatic_report import save_automatic
    from ptycho_ray.display.report import provenance

    torch.set_num_threads(cores)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        scan = workflow.load_data(scan_file, reading=reading)
        made = workflow.reconstruct_scan(scan, device=device, **wishes)
        origin = provenance(seed=wishes["seed"], data_files=[scan_file])
        result = save_automatic(made, folder, str(scan_file), origin)
    except InputError as error:
        return {"exit_code": BAD_INPUT, "error": str(error)}
    except (OSError, RuntimeError, ValueError, ArithmeticError, MemoryError) as error:
        return {"exit_code": FAILED, "error": str(error) or type(error).__name__}
    kept = ("verdict", "trusted", "image", "refined_scan", "report", "patterns", "seconds")
    code = OK if result["trusted"] else NOT_TRUSTED
    return {"exit_code": code} | {name: result[name] for name in kept}
