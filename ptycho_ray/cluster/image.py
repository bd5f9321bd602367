"""The image after a training on a cluster: made by a GPU of the cluster where this machine, which started it, has none, or by a
worker that reads the scan if that stayed on disk."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
import torch

from ptycho_ray import workflow
from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.object_store import room_for_scans
from ptycho_ray.cluster.preflight import worker_resources
from ptycho_ray.cluster.tasks import results_of
from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.data import PtychoDataContainer
from ptycho_ray.training.scan_training import Scan

Image = tuple[np.ndarray, np.ndarray, dict[str, Any]]


def reassemble_on_cluster(
    test_data: Scan, config: TrainingConfig, *axes: Any, model: workflow.Models, execution: ExecutionConfig, **how: Any
) -> Image:
    """:func:`ptycho_ray.workflow.reassemble_cdi_image` on a GPU: of this machine, else of the cluster; if neither has one, on
    the processors of this machine or, if the scan stayed on disk, of a worker; on those of this machine if
    no GPU is wanted.

    Raises:
        InputError: the cluster does not answer.
        TrainingLost: the worker was lost more than ``execution.max_failures`` times.
    """
    models = list(model) if isinstance(model, Sequence) else [model]
    if execution.accelerator not in ("cpu", "mps"):
        if torch.cuda.is_available():
            for each in models:
                each.to("cuda")
        elif ray.is_initialized() or execution.address or "RAY_ADDRESS" in os.environ:
            with connected(execution):
                resources, device = worker_resources(execution)
                raw = test_data.raw if isinstance(test_data, PtychoDataContainer) else test_data
                if device != "cpu" or (not raw.patterns.in_memory and raw.patterns.nbytes > room_for_scans()):
                    return image_on_worker(test_data, config, models, execution, resources, device, *axes, **how)
    return workflow.reassemble_cdi_image(test_data, config, *axes, model=model, execution=execution, **how)


def image_on_worker(
    test_data: Scan,
    config: TrainingConfig,
    models: Sequence[Any],
    execution: ExecutionConfig,
    resources: dict[str, float],
    device: str,
    *axes: Any,
    **how: Any,
) -> Image:
    """The image by one worker of the connected cluster that has these resources."""
    options = {"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0)}
    task = ray.remote(max_retries=execution.max_failures, **options)(_reassemble)
    alone = replace(execution, accelerator=device, devices=1, min_devices=None)
    found: Image = results_of([lambda: task.remote(test_data, config, list(models), alone, *axes, **how)], at_once=1)[0]
    return found


def _reassemble(
    test_data: Scan, config: TrainingConfig, models: list[Any], execution: ExecutionConfig, *axes: Any, **how: Any
) -> Image:
    """Run on a worker."""
    torch.set_num_threads(execution.cpus_per_device)
    for model in models:
        model.to(execution.accelerator)
    return workflow.reassemble_cdi_image(test_data, config, *axes, model=models, execution=execution, **how)
