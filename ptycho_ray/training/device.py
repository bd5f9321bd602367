"""Which device and which number format a run uses, and what one process cannot do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.models.number_format import convolutions
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
            field="device",
            found=repr(execution.accelerator),
            expected=f"{', '.join(['auto', *there[:-1]])} or {there[-1]}",
            hint="It is --device DEVICE, in a file of settings execution: accelerator",
        )
    return torch.device(wanted)


def network_dtype(execution: ExecutionConfig, device: torch.device) -> torch.dtype | None:
    """Number format in which the network's convolutions run, None for plain 32 bits; the physics never changes.

    On a processor without bfloat16 arithmetic 'bf16-mixed' is plain 32 bits: torch would emulate it, several times slower.
    """
    if execution.precision in ("32-true", "tf32"):
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


@contextmanager
def arithmetic(execution: ExecutionConfig, device: torch.device) -> Iterator[None]:
    """Compute as ``execution.precision`` and ``execution.deterministic`` say within the block.

    Uninitialised memory is not filled, as torch would do: this costs up to 7% of the time and only serves to detect layers that
    read memory before writing it.

    Raises:
        ConfigurationError: an operation has no deterministic algorithm on this device.
    """
    memory: Any = torch.utils.deterministic
    mode, cudnn = execution.deterministic, torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory, cudnn.benchmark
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    if mode and device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, torch refuses every matrix product
    torch.use_deterministic_algorithms(bool(mode), warn_only=mode == "warn")
    memory.fill_uninitialized_memory, cudnn.benchmark = False, not mode
    try:
        with convolutions(tf32=execution.precision == "tf32"):
            yield
    except RuntimeError as error:
        operation = re.search(r"(\S+) does not have a deterministic implementation", str(error))
        if operation is None:
            raise
        raise ConfigurationError(
            "an operation has no deterministic algorithm on this device",
            field="execution.deterministic",
            found=f"{mode} with {operation[1]}",
            expected="'warn' or False",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=warned)
        memory.fill_uninitialized_memory, cudnn.benchmark = before[1:]
