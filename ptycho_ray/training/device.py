"""Which device and which number format a run uses."""

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
            "this machine does not have that device",
            field="execution.accelerator",
            found=repr(execution.accelerator),
            expected=f"auto or one of {', '.join(found)}",
        )
    return torch.device(wanted)


def network_dtype(execution: ExecutionConfig, device: torch.device) -> torch.dtype | None:
    """Number format in which the network's convolutions run, None for plain 32 bits; the physics never changes."""
    if execution.precision == "32-true":
        return None
    if execution.precision == "16-mixed" and device.type == "cpu":
        raise ConfigurationError(
            "float16 training needs a GPU",
            field="execution.precision",
            found="'16-mixed'",
            expected="'bf16-mixed' on a CPU",
        )
    return torch.bfloat16 if execution.precision == "bf16-mixed" else torch.float16
