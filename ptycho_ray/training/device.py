"""Which device and which number format a run uses, and what one process cannot do."""

from __future__ import annotations

import torch

from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.training.checkpoint import CheckpointStore
from ptycho_ray.training.parallel import DataParallel


def resolve_device(execution: ExecutionConfig) -> torch.device:
    """The device that ``execution.accelerator`` names; ConfigurationError if this machine does not have it."""
    wanted = {"gpu": "cuda"}.get(execution.accelerator, execution.accelerator)
    there = ["cuda"] if torch.cuda.is_available() else []
    there += [f"cuda:{number}" for number in range(torch.cuda.device_count())] if there else []
    there += ["mps"] if torch.backends.mps.is_available() else []
    there.append("cpu")
    if wanted == "auto":
        wanted = there[0]
    if wanted not in there:
        raise ConfigurationError(
            "this machine does not have this device",
            field="execution.accelerator",
            found=repr(execution.accelerator),
            expected=f"{', '.join(['auto', *there[:-1]])} or {there[-1]}",
        )
    return torch.device(wanted)


def network_dtype(execution: ExecutionConfig, device: torch.device) -> torch.dtype | None:
    """Number format in which the network's convolutions run, None for plain 32 bits; the physics never changes.

    On a processor without bfloat16 arithmetic 'bf16-mixed' is plain 32 bits: torch would emulate it, several times slower.
    """
    if execution.precision == "32-true":
        return None
    if execution.precision == "16-mixed" and device.type == "cpu":
        raise ConfigurationError(
            "float16 training needs a GPU",
            field="execution.precision",
            found="'16-mixed'",
            expected="'bf16-mixed' on a CPU",
        )
    if execution.precision == "16-mixed":
        return torch.float16
    return None if device.type == "cpu" and not _processor_has_bfloat16() else torch.bfloat16


def _processor_has_bfloat16() -> bool:
    return any(found for name, found in torch.cpu.get_capabilities().items() if "bf16" in name)


def refuse_unavailable(
    config: TrainingConfig,
    execution: ExecutionConfig,
    parallel: DataParallel | None,
    checkpoints: CheckpointStore | None,
) -> None:
    """ConfigurationError for a setting that could have no effect here."""
    if not config.positions_provided:
        raise ConfigurationError("not part of this version", field="positions_provided", found="False", expected="True")
    if execution.devices not in (1, "auto") and parallel is None:
        raise ConfigurationError(
            "one process trains on one device",
            field="execution.devices",
            found=execution.devices,
            expected="1",
            hint="ptycho_ray.cluster.train.train_on_cluster and 'ptycho-ray train --workers' use several",
        )
    if config.ensemble_members > 1 and (checkpoints is not None or parallel is not None):
        raise ConfigurationError(
            "the members of an ensemble are trained one by one",
            field="ensemble_members",
            found=config.ensemble_members,
            expected="1 for what a single worker does",
        )
