"""The polish of a sweep (:mod:`ptycho_ray.tuning.polish`), its trials side by side on the cluster of the sweep."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.object_store import in_memory_if_they_fit
from ptycho_ray.cluster.trial_room import trial_room
from ptycho_ray.data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.tracking.sweep_record import SweepRecord, TrialRecord, trial_folder
from ptycho_ray.tuning.parameter import Values
from ptycho_ray.tuning.polish import Polished, polish
from ptycho_ray.tuning.space import Space, refinement_settings
from ptycho_ray.tuning.trial import JUDGED, Figures, run_trial, trial_config

#: Objectives that have a value for every held-out pattern.
BY_PATTERN = ("likelihood", "deviance", "r_factor")


def polish_sweep(
    scan: RawData,
    base: Mapping[str, Any],
    space: Space,
    record: SweepRecord,
    tell: Callable[[str], None] = lambda line: None,
) -> Polished | None:
    """Improve the best trial of a sweep and say what determines its parameters; the polished one is added to the record.

    Args:
        tell: given a line before every round of trials.

    Returns:
        None for a sweep over networks, over several objectives or another one than those of held-out patterns, one without a
        trial that finished, and one without a continuous parameter.
    """
    best = record.best()
    parameters = [p for p in space.parameters if best and p.continuous and p.name in best.parameters]
    if best is None or not parameters or not space.of_experiment or len(space.objectives) > 1:
        return None
    objective = space.objectives[0]
    if objective not in BY_PATTERN:
        return None
    config, execution = trial_config(base, {})
    place = (record.folder / "polish").absolute()
    began = time.time()
    with connected(execution):
        shared = ray.put(in_memory_if_they_fit([scan])[0])
        resources, device, _ = trial_room(execution, space.trial, scan)
        run = ray.remote(max_retries=1, num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0))(_judged)

        def evaluate(points: Sequence[Values]) -> list[NDArray[np.float64] | None]:
            tell(f"polishing trial {best.number}: {len(points)} to run")
            tasks = [
                run.remote(
                    shared,
                    space.trial,
                    dict(base),
                    point,
                    objective,
                    str(place / str(number)),
                    execution.cpus_per_device,
                    device,
                )
                for number, point in enumerate(points)
            ]
            return [losses for losses, _ in ray.get(tasks)]

        polished = polish(parameters, best.parameters, evaluate)
        if polished.gain > 0:
            number = max(record.trials) + 1
            folder = trial_folder(record.folder / "trials", number).absolute()
            task = run.remote(
                shared, space.trial, dict(base), polished.values, objective, str(folder), execution.cpus_per_device,
                device,
            )  # fmt: skip
            figures = ray.get(task)[1]
            record.write(
                TrialRecord(
                    number, polished.values, "finished", config.nepochs, figures, [[config.nepochs, figures[objective]]],
                    began=began, ended=time.time(),
                )
            )  # fmt: skip
    shutil.rmtree(place, ignore_errors=True)
    return polished


def _judged(
    scan: RawData,
    kind: str,
    base: Mapping[str, Any],
    point: Values,
    objective: str,
    folder: str,
    threads: int,
    device: str,
) -> tuple[NDArray[np.float64] | None, Figures]:
    """A trial, by the loss of each held-out pattern [k] and its figures; None if it failed."""
    torch.set_num_threads(threads)
    settings, execution = trial_config(base, point)
    execution = replace(execution, accelerator=device)
    try:
        figures = run_trial(
            kind, scan, settings, execution, (objective,), Path(folder), lambda *_: None,
            refinement=refinement_settings({**base, **point}),
        )  # fmt: skip
    except (ArithmeticError, InputError):
        return None, {}
    with np.load(Path(folder) / JUDGED, allow_pickle=False) as judged:
        return judged[objective], figures
