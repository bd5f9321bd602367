"""Population-based training: the learning rate becomes a schedule that the population finds.

Every few epochs a trial that is behind takes over the weights of one that is ahead and goes on with another learning rate
(Jaderberg et al., arXiv:1711.09846).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import PopulationBasedTraining
from safetensors.torch import save_file

from ptycho_ray.files import atomic_path
from ptycho_ray.training.checkpoint import LAST_CHECKPOINT, read_checkpoint
from ptycho_ray.tuning.parameter import Parameter
from ptycho_ray.tuning.space import SCHEDULED_SETTINGS, Space

#: How often the population is compared, as a share of the epochs, and which part of it is replaced.
INTERVAL_SHARE, QUANTILE = 1 / 9, 0.25


def population_scheduler(space: Space, epochs: int, common: dict[str, Any]) -> PopulationBasedTraining:
    """The scheduler for the parameters of a space that may change while a network trains."""
    changed = {p.name: _distribution(p) for p in space.parameters if p.name in SCHEDULED_SETTINGS}
    return PopulationBasedTraining(
        perturbation_interval=max(1, round(epochs * INTERVAL_SHARE)),
        hyperparam_mutations={"trial": {"parameters": changed}},
        quantile_fraction=QUANTILE,
        **common,
    )


def _distribution(parameter: Parameter) -> Any:
    if parameter.kind == "choice":
        return list(parameter.values)
    low, high = parameter.values
    return tune.loguniform(low, high) if parameter.kind == "loguniform" else tune.uniform(low, high)


def load_parent(folder: Path, learning_rate: float) -> None:
    """Put the checkpoint that Ray hands to a trial, its own or that of a better one, where the trial goes on from, with the
    learning rate that it is to have."""
    given = tune.get_checkpoint()
    if given is None:
        return
    with given.as_directory() as place:
        tensors, header = read_checkpoint(Path(place) / LAST_CHECKPOINT)
    network = header["optimizer_groups"][0]
    network["base_lr"] = network["lr"] = learning_rate
    with atomic_path(folder / "checkpoints" / LAST_CHECKPOINT) as temporary:
        save_file(tensors, temporary, metadata={"ptycho_ray": json.dumps(header)})


def export_checkpoint(folder: Path) -> tune.Checkpoint | None:
    """The state of a trial after an epoch, for Ray to keep."""
    place = folder / "checkpoints"
    return tune.Checkpoint.from_directory(str(place)) if (place / LAST_CHECKPOINT).exists() else None
