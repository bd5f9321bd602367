"""Deep ensembles: the same training repeated with different seeds. See ``ptycho_ray.reconstruction.ensemble``."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_ray.config import TrainingConfig
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.training.checkpoint import LAST_CHECKPOINT

Results = dict[str, Any]


def member_configs(config: TrainingConfig) -> list[TrainingConfig]:
    """What each member is trained with; the first one is the run without an ensemble."""
    return [
        replace(config, ensemble_members=1, seed=member_seed(config.seed, number))
        for number in range(config.ensemble_members)
    ]


def member_seed(seed: int, number: int) -> int:
    """The seed of a member; that of the first is the given one."""
    return int(np.random.SeedSequence((seed, number)).generate_state(1)[0]) if number else seed


def member_folder(checkpoints: Path, number: int) -> Path:
    """Where a member, counted from 0, keeps its checkpoints."""
    return checkpoints / f"member-{number + 1}"


def clear_members(checkpoints: Path) -> None:
    """Remove the checkpoints of an earlier ensemble."""
    for folder in checkpoints.glob("member-*"):
        shutil.rmtree(folder)


def last_of_member(checkpoints: Path, number: int) -> Path | None:
    """The checkpoint with which a member goes on, if it has begun."""
    path = member_folder(checkpoints, number) / LAST_CHECKPOINT
    return path if path.is_file() else None


def train_members(
    train_one: Callable[..., Results],
    config: TrainingConfig,
    *,
    checkpoint_dir: Path | None,
    resume_from: Path | None,
    initial: PhysicsInformedModel | None,
    callbacks: Sequence[Any],
) -> Results:
    """Train the members one after the other and put their results together.

    Args:
        train_one: ``train_one(config, checkpoint_dir=..., resume_from=..., initial=..., callbacks=...)``.
        checkpoint_dir: each member has a folder in it.
        resume_from: the checkpoint folder of an ensemble that was interrupted; finished members are not repeated.
            callbacks: those with ``on_member`` are called for every member, and with ``on_member(number, members)`` at
            the start of each; those without only for the first.
    """
    if checkpoint_dir is not None and resume_from is None:
        clear_members(checkpoint_dir)
    members = []
    for number, of_member in enumerate(member_configs(config)):
        following = [callback for callback in callbacks if number == 0 or hasattr(callback, "on_member")]
        for callback in following:
            if hasattr(callback, "on_member"):
                callback.on_member(number, config.ensemble_members)
        members.append(
            train_one(
                of_member,
                checkpoint_dir=None if checkpoint_dir is None else member_folder(checkpoint_dir, number),
                resume_from=None if resume_from is None else last_of_member(resume_from, number),
                initial=copy.deepcopy(initial),
                callbacks=following,
            )
        )
    return together(members)


def together(members: Sequence[Results]) -> Results:
    """The results of a training of several members: those of the first, and ``ensembles``, the models of all members for each
    scan by its name; ``ensemble`` are those of the (first) scan."""
    first = members[0]
    ensembles = {name: [member["models"][name] for member in members] for name in first["models"]}
    return first | {
        "ensemble": [member["model_instance"] for member in members],
        "ensembles": ensembles,
        "histories": [member["history"] for member in members],
        "warnings": [
            f"member {number + 1}: {text}" for number, member in enumerate(members) for text in member["warnings"]
        ],
    }
