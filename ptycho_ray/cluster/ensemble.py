"""The members of an ensemble side by side, each a task of a Ray cluster: the core's ``train_cdi_model`` with a seed of its own.

What a member becomes does not depend on where it is trained, so the ensemble is the one that a single process trains.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import ray
import torch
from safetensors.torch import load, save

from ptycho_ray import workflow
from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.event_queue import DriverRelay, WorkerReporter, start_event_queue
from ptycho_ray.cluster.failures import BEGUN, sigterm_as_interrupt
from ptycho_ray.cluster.preflight import check_nodes, free_of, workers_for
from ptycho_ray.cluster.tasks import of_one_worker, results_of
from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.data import PtychoDataContainer
from ptycho_ray.display.scans_progress import waiting_line
from ptycho_ray.errors import TrainingInterrupted
from ptycho_ray.files import write_json
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.transfer import groups_to_reconstruct
from ptycho_ray.training.checkpoint import load_weights
from ptycho_ray.training.ensemble import clear_members, last_of_member, member_configs, member_folder, together
from ptycho_ray.training.finish import Results, finish_training, training_results
from ptycho_ray.training.health import WarningLogger
from ptycho_ray.training.loop import Callback
from ptycho_ray.training.parallel import unique_state
from ptycho_ray.training.scan_training import Scan, listed, scans_to_train, whole_model


def train_ensemble_on_cluster(
    train_data: Scan | Sequence[Scan],
    test_data: Scan | None,
    config: TrainingConfig,
    *,
    execution: ExecutionConfig,
    initial: PhysicsInformedModel | None,
    callbacks: Sequence[Callback],
    keep_patches: bool,
    resume: bool | None,
    tell: Callable[[str], None],
) -> Results:
    """Train ``config.ensemble_members`` networks, ``execution.devices`` at a time; see
    :func:`ptycho_ray.cluster.train.train_on_cluster`.

    Every member keeps its checkpoints in ``checkpoints/member-K`` of ``config.output_dir`` and goes on from there when its
    worker is lost or the same call is made again; a machine that does not see that folder starts it anew. Callbacks hear of
    the first member.
    """
    scans = listed(train_data)
    folder = (config.output_dir / "checkpoints").absolute()
    begun = (folder / BEGUN).is_file()
    if not (resume or (resume is None and begun)):
        clear_members(folder)
    write_json(folder / BEGUN, {"members": config.ensemble_members})
    configs = member_configs(config)
    with connected(execution, tell):
        workers = workers_for(execution, tell)
        raws = [data.raw if isinstance(data, PtychoDataContainer) else data for data in scans]
        check_nodes(files=[str(Path(raw.source).absolute()) for raw in raws if not raw.patterns.in_memory])
        board = start_event_queue()
        task = {
            "scans": ray.put(scans),
            "execution": of_one_worker(execution, workers),
            "initial": initial,
            "folder": folder,
            "board": board,
        }
        remote = ray.remote(_train_member).options(
            num_cpus=execution.cpus_per_device,
            num_gpus=workers.resources.get("GPU", 0),
            max_retries=execution.max_failures,
        )
        starts = [lambda n=n, c=c: remote.remote(task, c, n) for n, c in enumerate(configs)]
        tell(waiting_line(workers.resources, free_of(workers.resources)) or f"starting {len(starts)} trainings")
        with closing(DriverRelay(board, [*callbacks, WarningLogger()], lambda workers, epochs_done: None)):
            try:
                with sigterm_as_interrupt():
                    trained = results_of(starts, at_once=workers.most)
            except (KeyboardInterrupt, SystemExit):
                saved = any(last_of_member(folder, number) for number in range(config.ensemble_members))
                raise TrainingInterrupted(folder if saved else None) from None
    members = [_built(scans, of, initial, back) for of, back in zip(configs, trained, strict=True)]
    (folder / BEGUN).unlink()
    results = together(members)
    test = None
    if test_data is not None:
        test = groups_to_reconstruct(results["model_instance"], test_data, config)
    return finish_training(results, test, config, execution, keep_patches=keep_patches)


def _train_member(task: dict[str, Any], config: TrainingConfig, number: int) -> dict[str, Any]:
    """Run on a worker: train one member and return its history and weights."""
    torch.set_num_threads(task["execution"].cpus_per_device)
    results = workflow.train_cdi_model(
        ray.get(task["scans"]),
        None,
        config,
        execution=task["execution"],
        initial=task["initial"],
        resume_from=last_of_member(task["folder"], number),
        checkpoint_dir=member_folder(task["folder"], number),
        callbacks=[] if number else [WorkerReporter(task["board"], 1)],
    )
    state = unique_state(whole_model(list(results["models"].values())))
    weights = {name: value.cpu().contiguous() for name, value in state.items()}
    return {"history": results["history"], "weights": save(weights), "warnings": results["warnings"]}


def _built(
    data: Sequence[Scan], config: TrainingConfig, initial: PhysicsInformedModel | None, trained: dict[str, Any]
) -> Results:
    """The results of a member from what its worker sent back."""
    scans = scans_to_train(data, config, copy.deepcopy(initial))
    load_weights(whole_model([scan.model for scan in scans]), load(trained["weights"]), "the cluster's result")
    return training_results(scans, trained["history"], trained["warnings"])
