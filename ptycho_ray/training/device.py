"""The device and the number format of a run."""

from __future__ import annotations

import torch

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import ConfigurationError


def resolve_device(execution: ExecutionConfig) -> torch.device:
    """The device that ``execution.accelerator`` names; ConfigurationError if this machine does not have it."""
    wanted = {"gpu": "cuda"}.get(execution.accelerator, execution.accelerator)
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if available[name])
    if not available[wanted]:
        found = [name for name, there in available.items() if there]
        raise ConfigurationError(
            "this machine does not have this device",
            field="execution.accelerator",
            found=repr(execution.accelerator),
            expected=f"auto or one of {', '.join(found)}",
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
