"""Refining one scan on several workers of a Ray cluster: each computes a share of every batch, the sums are the same."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.preflight import check_nodes, workers_for
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.data import RawData
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.solver import RefinementConfig, RefinementResult, refine
from ptycho_ray.training.parallel import DataParallel


def refine_on_cluster(
    scan: RawData,
    config: RefinementConfig,
    *,
    storage_path: Path,
    start: StitchedObject | None = None,
    execution: ExecutionConfig | None = None,
) -> RefinementResult:
    """:func:`ptycho_ray.refinement.solver.refine` on ``execution.devices`` workers, with the same result.

    The first worker keeps a checkpoint every ``config.check_every`` iterations; after the loss of a worker, at most
    ``execution.max_failures`` times, all go on from it.

    Args:
        storage_path: folder for the checkpoint and what Ray keeps about the run; every machine must reach it.

    Raises:
        InputError: the cluster or the scan do not allow the run.
        ray.train.TrainingFailedError: a worker failed, or was lost too often.
    """
    execution = execution or ExecutionConfig()
    name = f"refine-{secrets.token_hex(4)}"
    checkpoint = storage_path.absolute() / f"{name}.safetensors"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    with connected(execution):
        workers = workers_for(execution)
        check_nodes()
        use_gpu = "GPU" in workers.resources
        trainer = TorchTrainer(
            _refine_share,
            train_loop_config={
                "task": ray.put((scan, config, start)),
                "checkpoint": checkpoint,
                "gpu": use_gpu,
                "threads": execution.cpus_per_device,
            },
            scaling_config=ScalingConfig(
                num_workers=workers.most, use_gpu=use_gpu, resources_per_worker=dict(workers.resources)
            ),
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            run_config=RunConfig(
                name=name,
                storage_path=str(storage_path.absolute()),
                failure_config=FailureConfig(max_failures=execution.max_failures),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        result: RefinementResult = trainer.fit().return_value
    checkpoint.unlink(missing_ok=True)
    return result


def _refine_share(settings: dict[str, Any]) -> RefinementResult | None:
    """What every worker runs; the first one returns the result."""
    context = ray.train.get_context()
    parallel = DataParallel(context.get_world_rank(), context.get_world_size())
    torch.set_num_threads(settings["threads"])
    scan, config, start = ray.get(settings["task"])
    device = torch.device("cuda") if settings["gpu"] else None
    result = refine(scan, config, start=start, parallel=parallel, device=device, checkpoint=settings["checkpoint"])
    return result if parallel.rank == 0 else None
