"""The state of a refinement in one safetensors file: tensors by name, everything else as JSON in its header."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path
from ptycho_ray.refinement.auxiliary_unknowns import AuxiliaryUnknowns
from ptycho_ray.refinement.estimate import Estimate
from ptycho_ray.refinement.moments import Moments
from ptycho_ray.training.checkpoint import read_checkpoint

SCHEMA = "ptycho_ray.refinement/1"


def snapshot(state: Estimate) -> dict[str, Tensor]:
    """Copies of all tensors of the estimate."""
    named = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: value.clone() for name, value in named.items() if value is not None}


def restore(state: Estimate, kept: Mapping[str, Tensor]) -> None:
    """Put a snapshot back."""
    for field in dataclasses.fields(state):
        if field.name in kept:
            getattr(state, field.name).copy_(kept[field.name])


def save(path: Path, parts: Mapping[str, object], header: Mapping[str, Any], positions: NDArray[np.float64]) -> None:
    """Write the tensors and numbers of ``parts``, the positions and ``header``."""
    tensors = {"positions_px": torch.from_numpy(positions.copy())}
    numbers: dict[str, float] = {}
    for part, thing in parts.items():
        for name, owner, attribute in _leaves(thing, part):
            value = owner[attribute] if isinstance(owner, dict | list) else getattr(owner, attribute)
            if isinstance(value, Tensor):
                real = torch.view_as_real(value) if value.is_complex() else value
                tensors[name] = real.detach().cpu().contiguous()
            else:
                numbers[name] = value
    text = json.dumps({"schema": SCHEMA, "numbers": numbers, **header})
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"ptycho_ray": text})


def load(path: Path, parts: Mapping[str, object], config: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Put a file of :func:`save` into ``parts``; its header and positions.

    Raises:
        InputError: not such a file, damaged, of another scan, or made with other settings (``iterations`` and ``memory_GB`` may
            differ).
    """
    tensors, header = read_checkpoint(path, SCHEMA)
    for name, value in config.items():
        if name not in ("iterations", "memory_GB") and header["config"].get(name) != value:
            raise InputError(
                "the checkpoint was made with another setting",
                file=path,
                field=name,
                found=header["config"].get(name),
                expected=value,
            )
    for part, thing in parts.items():
        for name, owner, attribute in _leaves(thing, part):
            value = owner[attribute] if isinstance(owner, dict | list) else getattr(owner, attribute)
            if not isinstance(value, Tensor):
                setattr(owner, attribute, type(value)(header["numbers"][name]))
                continue
            target = torch.view_as_real(value) if value.is_complex() else value
            found = tensors.get(name)
            if found is None or found.shape != target.shape:
                raise InputError(
                    file=path,
                    field=name,
                    found=None if found is None else tuple(found.shape),
                    expected=tuple(target.shape),
                    hint="Is it from another scan?",
                )
            target.copy_(found)
    return header, tensors["positions_px"].numpy()


def _leaves(thing: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """(name, owner, attribute) of every tensor and number in the state of ``thing``, at any depth."""
    pairs = thing.items() if isinstance(thing, dict) else vars(thing).items()
    for attribute, value in list(pairs):
        place = f"{name}/{attribute}"
        if attribute.startswith("_"):
            continue
        if isinstance(value, Tensor) or (isinstance(value, int | float) and not isinstance(value, bool)):
            yield place, thing, attribute
        elif isinstance(value, list) and value and all(isinstance(item, Tensor) for item in value):
            yield from ((f"{place}/{index}", value, index) for index in range(len(value)))
        elif isinstance(value, dict | Moments | AuxiliaryUnknowns):
            yield from _leaves(value, place)
