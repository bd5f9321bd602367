"""Training on a Ray cluster: the core's ``train_cdi_model`` on several workers, surviving the loss of any of them.

Ray's part is to place the workers, to join them (gloo on processors, nccl on GPUs), to keep checkpoints and to start
again what was lost. Every worker runs the same core on its share of each batch.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from pyarrow.fs import FileSelector, FileSystem
from ray.train import Checkpoint, CheckpointConfig, CheckpointUploadMode, FailureConfig, RunConfig
from ray.train.torch import TorchConfig
from safetensors.torch import load, save

from ptycho_ray import workflow
from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.dashboard_metrics import DashboardMetrics
from ptycho_ray.cluster.event_queue import DriverRelay, WorkerReporter, raise_failure, start_event_queue
from ptycho_ray.cluster.failures import BEGUN, TrainingLost, last_line, sigterm_as_interrupt
from ptycho_ray.cluster.lean_trainer import LeanTrainer
from ptycho_ray.cluster.object_store import in_memory_if_they_fit
from ptycho_ray.cluster.preflight import Workers, check_nodes, scaling_of, storage, workers_for
from ptycho_ray.cluster.start_watch import START_FAILURES, StartWatch, now_and_then
from ptycho_ray.cluster.whole_scan import read_energies
from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.data import PtychoDataContainer, RawData
from ptycho_ray.errors import InputError, TrainingInterrupted
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.transfer import groups_to_reconstruct
from ptycho_ray.training.checkpoint import load_weights, read_checkpoint
from ptycho_ray.training.finish import Results, finish_training, training_results
from ptycho_ray.training.health import WarningLogger
from ptycho_ray.training.loop import Callback
from ptycho_ray.training.parallel import DataParallel, unique_state
from ptycho_ray.training.scan_training import Scan, scans_to_train, whole_model

log = logging.getLogger(__name__)

STATE = "state.safetensors"
#: A file in the folder of a run that ended; the same command then starts a new one.
FINISHED = "finished.json"
SNAPSHOT = "checkpoint_manager_snapshot.json"
#: How long workers wait for each other. A worker that died is noticed at once; this is for one that hangs.
PEER_TIMEOUT_S = 600
#: Of scans larger than this the workers read the intensities of all patterns, before anything else is done.
LARGE_BYTES = 2**30


def train_on_cluster(
    train_data: Scan | Sequence[Scan],
    test_data: Scan | None,
    config: TrainingConfig,
    *,
    execution: ExecutionConfig | None = None,
    initial: PhysicsInformedModel | None = None,
    callbacks: Sequence[Callback] = (),
    keep_patches: bool = True,
    resume: bool | None = None,
    run_name: str = "train",
    tell: Callable[[str], None] = lambda line: None,
) -> Results:
    """:func:`ptycho_ray.workflow.train_cdi_model` on the workers of a Ray cluster, with the same results; the members of an
    ensemble side by side (``ptycho_ray.cluster.ensemble``).

    Patterns go into the object store once, and all workers of a machine read the same copy. The state is kept after every
    epoch under ``execution.storage_path`` (``ray`` in ``config.output_dir`` if not given). A lost worker or machine costs
    what was done since; with ``execution.min_devices`` the run goes on with what is left.

    Args:
        callbacks: called in this process, with None for the model.
        resume: None resumes an unfinished run of that name; True also a finished one, and there must be one; False
            starts a new run.
        run_name: folder of the run in the storage.
        tell: told what happens until the first step.

    Raises:
        InputError, ConfigurationError: the cluster, the storage or the data do not allow the run.
        TrainingInterrupted: after Ctrl-C.
        TrainingLost: more losses than ``execution.max_failures``.
    """
    execution = execution or ExecutionConfig()
    if config.ensemble_members > 1:
        from ptycho_ray.cluster.ensemble import train_ensemble_on_cluster

        return train_ensemble_on_cluster(
            train_data, test_data, config,
            execution=execution, initial=initial, callbacks=callbacks, keep_patches=keep_patches, resume=resume, tell=tell,
        )  # fmt: skip
    own_cluster = False
    with ExitStack() as stack:
        if large := [scan for scan in _scans_of(train_data) if scan.patterns.nbytes > LARGE_BYTES]:
            own_cluster = stack.enter_context(connected(execution, tell))
            for scan in large:
                read_energies(scan, now_and_then(tell))  # by which patterns are normalised
        scans = scans_to_train(train_data, config, initial)
        test = None
        if test_data is not None:
            test = groups_to_reconstruct(scans[0].model, test_data, config)
        own_cluster |= stack.enter_context(connected(execution, tell))
        workers = workers_for(execution, tell)
        place = _storage_path(config, execution)
        system, folder = storage(place)
        raws = in_memory_if_they_fit([scan.container.raw for scan in scans])
        containers = [replace(scan.container, raw=raw) for scan, raw in zip(scans, raws, strict=True)]
        shared = [str(Path(c.raw.source).absolute()) for c in containers if not c.raw.patterns.in_memory]
        check_nodes(files=shared if "://" in place else [*shared, folder])
        _prepare_run(system, f"{folder}/{run_name}", resume)
        result = _fit(containers, config, execution, workers, callbacks, place, run_name, initial, tell, own_cluster)
        _finish(system, f"{folder}/{run_name}", result["history"])
    load_weights(whole_model([scan.model for scan in scans]), load(result["weights"]), "the cluster's result")
    results = training_results(scans, result["history"], result["warnings"])
    return finish_training(results, test, config, execution, keep_patches=keep_patches)


def _scans_of(data: Scan | Sequence[Scan]) -> list[RawData]:
    """The scans of what is trained on, without what has been made of them."""
    each = data if isinstance(data, Sequence) else [data]
    return [one.raw if isinstance(one, PtychoDataContainer) else one for one in each]


def unfinished(config: TrainingConfig, execution: ExecutionConfig, run_name: str = "train") -> bool:
    """Whether :func:`train_on_cluster` would go on with a run that did not end."""
    if config.ensemble_members > 1:
        return (config.output_dir / "checkpoints" / BEGUN).is_file()
    system, folder = storage(_storage_path(config, execution))
    files = _files_in(system, f"{folder}/{run_name}")
    return SNAPSHOT in files and FINISHED not in files


def _storage_path(config: TrainingConfig, execution: ExecutionConfig) -> str:
    return execution.storage_path or str((config.output_dir / "ray").absolute())


def _files_in(system: FileSystem, folder: str) -> set[str]:
    return {info.base_name for info in system.get_file_info(FileSelector(folder, allow_not_found=True))}


def _prepare_run(system: FileSystem, folder: str, resume: bool | None) -> None:
    """Leave the folder of a run that is to be continued, clear that of one that is not."""
    files = _files_in(system, folder)
    if resume and SNAPSHOT not in files:
        raise InputError(file=folder, field="--resume", found="no run", expected="a run that was started there")
    if resume is False or (resume is None and FINISHED in files):
        system.delete_dir_contents(folder, missing_dir_ok=True)
    elif FINISHED in files:
        system.delete_file(f"{folder}/{FINISHED}")
    elif SNAPSHOT in files:
        log.warning("resuming the unfinished run in %s", folder)


def _finish(system: FileSystem, folder: str, history: Mapping[str, list[float]]) -> None:
    with system.open_output_stream(f"{folder}/{FINISHED}") as stream:
        stream.write(json.dumps({"epochs": len(history["loss"]), "loss": history["loss"][-1]}).encode())


def _fit(
    containers: Sequence[Any],
    config: TrainingConfig,
    execution: ExecutionConfig,
    workers: Workers,
    callbacks: Sequence[Callback],
    storage_path: str,
    run_name: str,
    initial: PhysicsInformedModel | None,
    tell: Callable[[str], None],
    own_cluster: bool,
) -> dict[str, Any]:
    """Run the training and return what its first worker returned."""
    use_gpu = "GPU" in workers.resources
    board = start_event_queue()
    trainer = LeanTrainer(
        _train_on_worker,
        train_loop_config={
            "containers": ray.put(list(containers)),
            "config": config,
            "execution": replace(execution, accelerator="gpu" if use_gpu else "cpu", devices=1, min_devices=None),
            "initial": initial,
            "board": board,
            "run_name": run_name,
        },
        own_cluster=own_cluster,
        scaling_config=scaling_of(workers),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=PEER_TIMEOUT_S),
        run_config=RunConfig(
            name=run_name,
            storage_path=storage_path,
            failure_config=FailureConfig(max_failures=execution.max_failures, controller_failure_limit=START_FAILURES),
            checkpoint_config=CheckpointConfig(
                num_to_keep=execution.checkpoint_save_top_k + 1,  # one to spare, should the last be damaged
                checkpoint_score_attribute="monitored",
                checkpoint_score_order="min",
            ),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    system, folder = storage(storage_path)
    with (
        StartWatch(workers, tell) as watch,
        closing(DriverRelay(board, [*callbacks, WarningLogger()], _say_workers, watch.up)),
    ):
        try:
            with sigterm_as_interrupt():
                result = watch.fit(trainer, now_and_then(tell))
        except (KeyboardInterrupt, SystemExit):  # Ray Train ends a run at Ctrl-C, and then the program
            saved = SNAPSHOT in _files_in(system, f"{folder}/{run_name}")
            raise TrainingInterrupted(Path(storage_path) / run_name if saved else None) from None
        except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
            raise_failure(board)
            raise TrainingLost(
                f"the training was lost more often than execution.max_failures = {execution.max_failures} allows; the "
                f"last time: {last_line(error)}. The same call resumes from the last checkpoint in {storage_path}"
            ) from error
        raise_failure(board)
    return result.return_value


def _say_workers(workers: int, epochs_done: int) -> None:
    if epochs_done:
        log.warning("resuming after epoch %d with %d worker%s", epochs_done, workers, "" if workers == 1 else "s")


# -- on each worker ---------------------------------------------------------------------------------------------------


def _train_on_worker(task: dict[str, Any]) -> dict[str, Any] | None:
    """What every worker runs; the first one returns history and weights."""
    board = task["board"]
    if ray.get(board.failure.remote()) is not None:
        return None  # another start cannot mend what the user has to
    if not ray.train.get_context().get_world_rank():
        board.post.remote([("up", ray.train.get_context().get_world_size())])
    try:
        return _train_share(task)
    except (InputError, ArithmeticError) as error:
        ray.get(board.fail.remote(error))
        raise


def _train_share(task: dict[str, Any]) -> dict[str, Any] | None:
    context = ray.train.get_context()
    parallel = DataParallel(context.get_world_rank(), context.get_world_size())
    config, execution = task["config"], task["execution"]
    torch.set_num_threads(execution.cpus_per_device)
    containers = ray.get(task["containers"])
    callbacks: list[Any] = []
    if parallel.rank == 0:
        callbacks = [WorkerReporter(task["board"], parallel.size), DashboardMetrics(task["run_name"])]
    with _newest_whole_checkpoint() as resume_from:
        results = workflow.train_cdi_model(
            containers,
            None,
            config,
            execution=execution,
            initial=task["initial"],
            resume_from=resume_from,
            checkpoints=ReportedCheckpoints(parallel.rank),
            parallel=parallel,
            callbacks=callbacks,
        )
    if parallel.rank:
        return None
    state = unique_state(whole_model(list(results["models"].values())))
    weights = {name: value.cpu().contiguous() for name, value in state.items()}
    return {"history": results["history"], "weights": save(weights), "warnings": results["warnings"]}


class ReportedCheckpoints:
    """Checkpoints that Ray Train uploads beside the training and prunes (a ``CheckpointStore`` of the training loop)."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def keep(self, write: Callable[[Path], None], figures: Mapping[str, float], *, epoch: int, best: bool) -> None:
        checkpoint = None
        if self.rank == 0:
            folder = tempfile.mkdtemp(prefix="ptycho-ray-")  # deleted by Ray when it is uploaded
            write(Path(folder) / STATE)
            checkpoint = Checkpoint.from_directory(folder)
        ray.train.report(
            {**figures, "epoch": epoch},
            checkpoint=checkpoint,
            checkpoint_dir_name=f"epoch-{epoch:05d}",
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        )

    def keep_interrupted(self, write: Callable[[Path], None]) -> None:
        """A run on a cluster is not stopped between two epochs."""

    @contextmanager
    def best(self, epoch: int) -> Iterator[Path | None]:
        kept = [reported.checkpoint for reported in _reported() if reported.metrics["epoch"] == epoch]
        with ExitStack() as stack:
            yield Path(stack.enter_context(kept[0].as_directory())) / STATE if kept else None


@contextmanager
def _newest_whole_checkpoint() -> Iterator[Path | None]:
    """The newest checkpoint of this run that can be read; None if there is none."""
    newest_first = sorted(_reported(), key=lambda reported: -reported.metrics["epoch"])
    for reported in newest_first:
        with reported.checkpoint.as_directory() as folder:
            path = Path(folder) / STATE
            try:
                read_checkpoint(path)
            except InputError as error:
                log.warning("a checkpoint cannot be read and is skipped: %s", error)
                continue
            yield path
            return
    yield None


def _reported() -> list[Any]:
    """Checkpoints of this run that have been uploaded, with their figures; every worker must ask."""
    return ray.train.get_all_reported_checkpoints()
