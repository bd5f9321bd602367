"""Training on a Ray cluster: the core's ``train_cdi_model`` on several workers, surviving the loss of any of them.

Ray's part is to place the workers, to join them (gloo on processors, nccl on GPUs), to keep checkpoints and to start
again what was lost. Every worker runs the same core on its share of each batch.
"""

from __future__ import annotations

import json
import logging
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from pyarrow.fs import FileSelector, FileSystem
from ray.train import Checkpoint, CheckpointConfig, CheckpointUploadMode, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from safetensors.torch import load, save

from ptycho_ray import workflow
from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.dashboard_metrics import DashboardMetrics
from ptycho_ray.cluster.event_queue import DriverRelay, WorkerReporter, start_event_queue
from ptycho_ray.cluster.preflight import Workers, check_nodes, storage, workers_for
from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.errors import InputError, TrainingInterrupted
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.reconstruction.inference import predict_all
from ptycho_ray.training.checkpoint import load_weights, read_checkpoint
from ptycho_ray.training.health import WarningLogger
from ptycho_ray.training.loop import Callback
from ptycho_ray.training.parallel import DataParallel, unique_state
from ptycho_ray.training.scan_training import ScanTraining, whole_model
from ptycho_ray.workflow import Results, Scan

log = logging.getLogger(__name__)

STATE = "state.safetensors"
#: A file in the folder of a run that ended; the same command then starts a new one.
FINISHED = "finished.json"
SNAPSHOT = "checkpoint_manager_snapshot.json"
#: A file beside the checkpoints of an ensemble that has begun and not ended.
BEGUN = "begun.json"
#: A scan that takes up more of the object store than that stays on disk.
STORE_SHARE = 0.6
#: How long workers wait for each other. A worker that died is noticed at once; this is for one that hangs.
PEER_TIMEOUT_S = 600
#: How often an elastic run looks whether it can have more workers.
GROW_INTERVAL_S = 10.0


class TrainingLost(RuntimeError):
    """Workers were lost more often than the settings allow."""


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
            execution=execution, initial=initial, callbacks=callbacks, keep_patches=keep_patches, resume=resume,
        )  # fmt: skip
    scans = workflow.scans_to_train(train_data, config, initial)
    test = None
    if test_data is not None:
        test = workflow.groups_to_reconstruct(scans[0].model, test_data, config)
    with connected(execution):
        workers = workers_for(execution)
        place = _storage_path(config, execution)
        system, folder = storage(place)
        containers = [_in_memory_if_it_fits(scan) for scan in scans]
        shared = [str(Path(c.raw.source).absolute()) for c in containers if not c.raw.patterns.in_memory]
        check_nodes(files=shared if "://" in place else [*shared, folder])
        _prepare_run(system, f"{folder}/{run_name}", resume)
        result = _fit(containers, config, execution, workers, callbacks, place, run_name, initial)
        _finish(system, f"{folder}/{run_name}", result["history"])
    load_weights(whole_model([scan.model for scan in scans]), load(result["weights"]), "the cluster's result")
    results = workflow.training_results(scans, result["history"], result["warnings"])
    if test is not None and keep_patches:
        model = workflow.model_for_groups(scans[0].model, test)
        results |= predict_all(model, test, execution.inference_batch_size or config.batch_size)
        results["stitched_obj"] = None
    return results | {"test_container": test}


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


def _in_memory_if_it_fits(scan: ScanTraining) -> Any:
    """The groups of a scan with its patterns in memory, so that they can be shared, unless the object store is too small."""
    container = scan.container
    patterns = container.raw.patterns
    room = STORE_SHARE * ray.cluster_resources().get("object_store_memory", 0)
    return container if patterns.in_memory or patterns.nbytes > room else container.in_memory()


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
) -> dict[str, Any]:
    """Run the training and return what its first worker returned."""
    use_gpu = "GPU" in workers.resources
    board = start_event_queue()
    trainer = TorchTrainer(
        _train_on_worker,
        train_loop_config={
            "containers": ray.put(list(containers)),
            "config": config,
            "execution": replace(execution, accelerator="gpu" if use_gpu else "cpu", devices=1, min_devices=None),
            "initial": initial,
            "board": board,
            "run_name": run_name,
        },
        scaling_config=ScalingConfig(
            num_workers=workers.most if workers.fewest == workers.most else (workers.fewest, workers.most),
            use_gpu=use_gpu,
            resources_per_worker=dict(workers.resources),
            elastic_resize_monitor_interval_s=GROW_INTERVAL_S,
        ),
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=PEER_TIMEOUT_S),
        run_config=RunConfig(
            name=run_name,
            storage_path=storage_path,
            failure_config=FailureConfig(max_failures=execution.max_failures, controller_failure_limit=3),
            checkpoint_config=CheckpointConfig(
                num_to_keep=execution.checkpoint_save_top_k + 1,  # one to spare, should the last be damaged
                checkpoint_score_attribute="monitored",
                checkpoint_score_order="min",
            ),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    with closing(DriverRelay(board, [*callbacks, WarningLogger()], _say_workers)):
        try:
            with sigterm_as_interrupt():
                result = trainer.fit()
        except (KeyboardInterrupt, SystemExit):  # Ray Train ends a run at Ctrl-C, and then the program
            raise TrainingInterrupted(Path(storage_path) / run_name) from None
        except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
            _raise_failure(board)
            raise TrainingLost(
                f"the training was lost more often than execution.max_failures = {execution.max_failures} allows; the "
                f"last time: {last_line(error)}. The same call resumes from the last checkpoint in {storage_path}"
            ) from error
        _raise_failure(board)
    return result.return_value


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C, for which Ray Train has a handler, and put back what was there before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(error: BaseException) -> str:
    """What happened, without the traceback of the worker that is part of the text."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)


def _raise_failure(board: Any) -> None:
    failure = ray.get(board.failure.remote())
    if failure is not None:
        raise failure


def _say_workers(workers: int, epochs_done: int) -> None:
    if epochs_done:
        log.warning("resuming after epoch %d with %d worker%s", epochs_done, workers, "" if workers == 1 else "s")


# -- on each worker ---------------------------------------------------------------------------------------------------


def _train_on_worker(task: dict[str, Any]) -> dict[str, Any] | None:
    """What every worker runs; the first one returns history and weights."""
    board = task["board"]
    if ray.get(board.failure.remote()) is not None:
        return None  # another start cannot mend what the user has to
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
