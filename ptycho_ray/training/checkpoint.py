"""Training state on disk: one safetensors file with the tensors and, in its header, everything else as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.files import atomic_path, require_file
from ptycho_ray.training.parallel import unique_state

SCHEMA = "ptycho_ray.checkpoint/1"
LAST_CHECKPOINT = "last.safetensors"
BEST_CHECKPOINT = "best.safetensors"


class CheckpointStore(Protocol):
    """Storage for the state of a run. ``write`` writes it to a file of the given name.

    Every process of a parallel run makes these calls, in the same order.
    """

    def keep(self, write: Callable[[Path], None], figures: Mapping[str, float], *, epoch: int, best: bool) -> None:
        """After an epoch; ``best`` if the monitored figure has never been as good."""

    def keep_interrupted(self, write: Callable[[Path], None]) -> Path | None:
        """In the middle of an epoch, because the user wants to stop."""

    def best(self, epoch: int) -> AbstractContextManager[Path | None]:
        """The file kept after ``epoch``, the best one; None if there is none."""


class FolderCheckpoints:
    """Checkpoints as two files in a folder: the last one and, unless ``best_to_keep`` is 0, the best one."""

    def __init__(self, folder: Path, best_to_keep: int) -> None:
        if best_to_keep > 1:
            raise ConfigurationError(
                "a run on a cluster keeps several, a folder one best checkpoint",
                field="execution.checkpoint_save_top_k",
                found=best_to_keep,
                expected="0 or 1",
            )
        self.folder, self.keep_best = folder, best_to_keep == 1

    def keep(self, write: Callable[[Path], None], figures: Mapping[str, float], *, epoch: int, best: bool) -> None:
        write(self.folder / LAST_CHECKPOINT)
        if best and self.keep_best:
            write(self.folder / BEST_CHECKPOINT)

    def keep_interrupted(self, write: Callable[[Path], None]) -> Path:
        write(self.folder / LAST_CHECKPOINT)
        return self.folder / LAST_CHECKPOINT

    @contextmanager
    def best(self, epoch: int) -> Iterator[Path | None]:
        yield self.folder / BEST_CHECKPOINT if self.keep_best else None


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Mapping[str, Any]
) -> None:
    """Write weights, optimiser state and ``progress`` (JSON-able) so that training resumes exactly where it stopped."""
    tensors = {f"model/{name}": value for name, value in unique_state(model).items()}
    state = optimizer.state_dict()
    for index, values in state["state"].items():
        for name, value in values.items():
            tensors[f"optimizer/{index}/{name}"] = torch.as_tensor(value)
    header = {"schema": SCHEMA, "optimizer_groups": state["param_groups"], "progress": dict(progress)}
    with atomic_path(path) as temporary:
        save_file(_storable(tensors), temporary, metadata={"ptycho_ray": json.dumps(header)})


def read_checkpoint(path: Path, schema: str = SCHEMA) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a checkpoint of that schema; InputError if the file is not one, or not whole."""
    require_file(path, "checkpoint")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("ptycho_ray", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, json.JSONDecodeError) as error:
        raise InputError(
            file=path, field="checkpoint", found=str(error), expected="a complete checkpoint file"
        ) from None
    if header.get("schema") != schema:
        raise InputError(file=path, field="schema", found=header.get("schema"), expected=schema)
    return tensors, header


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Put a checkpoint into ``model`` (and ``optimizer``) and return its ``progress``."""
    tensors, header = read_checkpoint(path)
    load_weights(
        model, {n.removeprefix("model/"): value for n, value in tensors.items() if n.startswith("model/")}, path
    )
    if optimizer is not None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = _laid_out_like(parameters[int(index)], value)
        optimizer.load_state_dict({"state": state, "param_groups": header["optimizer_groups"]})
    return header["progress"]


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str | Path) -> None:
    """Put ``weights``, the :func:`unique_state` of such a model, into ``model``; InputError if they are of another."""
    state = unique_state(model)
    for name in sorted(state.keys() | weights.keys()):
        found = tuple(weights[name].shape) if name in weights else "nothing"
        expected = tuple(state[name].shape) if name in state else "nothing"
        if found != expected:
            raise InputError(file=source, field=f"weights {name}", found=found, expected=expected)
    for name, value in state.items():
        value.copy_(weights[name])


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    """``value`` in the memory layout of its parameter: the fused optimisers walk both in memory order."""
    return torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value


def _storable(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
