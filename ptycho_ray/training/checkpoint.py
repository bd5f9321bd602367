"""Training state on disk: one safetensors file with the tensors and, in its header, everything else as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path, require_file

SCHEMA = "ptycho_ray.checkpoint/1"


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Mapping[str, Any]
) -> None:
    """Write weights, optimiser state and ``progress`` (JSON-able) so that training goes on exactly where it stopped."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()}
    state = optimizer.state_dict()
    for index, values in state["state"].items():
        for name, value in values.items():
            tensors[f"optimizer/{index}/{name}"] = torch.as_tensor(value)
    header = {"schema": SCHEMA, "optimizer_groups": state["param_groups"], "progress": dict(progress)}
    with atomic_path(path) as temporary:
        save_file(_storable(tensors), temporary, metadata={"ptycho_ray": json.dumps(header)})


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a checkpoint; InputError if the file is not one, or not whole."""
    require_file(path, "checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("ptycho_ray", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise InputError(file=path, field="checkpoint", found=str(error), expected="a whole checkpoint file") from None
    if header.get("schema") != SCHEMA:
        raise InputError(file=path, field="schema", found=header.get("schema"), expected=SCHEMA)
    return tensors, header


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Put a checkpoint into ``model`` (and ``optimizer``) and return its ``progress``."""
    tensors, header = read_checkpoint(path)
    weights = {name.removeprefix("model/"): value for name, value in tensors.items() if name.startswith("model/")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            file=path, field="weights", found=str(error).splitlines()[-1].strip(), expected="those of this model"
        ) from None
    if optimizer is not None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = _laid_out_like(parameters[int(index)], value)
        optimizer.load_state_dict({"state": state, "param_groups": header["optimizer_groups"]})
    return header["progress"]


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """``value`` in the memory layout of its parameter: the fused optimisers walk both in memory order."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def _storable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
