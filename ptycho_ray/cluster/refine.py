"""Refining one scan on several workers of a Ray cluster: each computes a share of every batch, and the sums are the same; or
each has a tile of a scan that is too large for that."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
import ray.train
import torch
from numpy.typing import NDArray
from ray.train import FailureConfig, RunConfig
from ray.train.torch import TorchConfig

from ptycho_ray import workflow
from ptycho_ray.cluster.connect import connected
from ptycho_ray.cluster.dividing import ImagesOfTiles, divides, files_to_see, with_room
from ptycho_ray.cluster.event_queue import DriverRelay, raise_failure, start_event_queue
from ptycho_ray.cluster.failures import TrainingLost, last_line, sigterm_as_interrupt
from ptycho_ray.cluster.lean_trainer import LeanTrainer
from ptycho_ray.cluster.object_store import in_memory_if_they_fit
from ptycho_ray.cluster.preflight import check_nodes, scaling_of, workers_for
from ptycho_ray.cluster.start_watch import START_FAILURES, OnWait, StartWatch, now_and_then, wait_for_room
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.data import RawData
from ptycho_ray.errors import InputError, TrainingInterrupted
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.slab import slab_between
from ptycho_ray.refinement.solver import Progress, Refinement, RefinementConfig, RefinementResult, refine
from ptycho_ray.refinement.tile_files import complete_sets, folder_of_tiles, read_tiles
from ptycho_ray.refinement.tiled_solver import refine_tile
from ptycho_ray.training.parallel import DataParallel

T = TypeVar("T")


def refine_on_cluster(
    scan: RawData,
    config: RefinementConfig | None = None,
    *,
    checkpoint: Path,
    start: workflow.Start = None,
    resume: bool = True,
    execution: ExecutionConfig | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_image: Callable[[Progress, StitchedObject], None] | None = None,
    image_every: int = 0,
    tell: Callable[[str], None] = lambda line: None,
) -> RefinementResult:
    """:func:`ptycho_ray.workflow.refine_cdi_image` on ``execution.devices`` workers, with the same result: see
    :func:`solve_on_cluster`."""
    result, _ = solve_on_cluster(
        scan, config, checkpoint=checkpoint, start=workflow.starting_image(start, scan), resume=resume,
        execution=execution, on_progress=on_progress, on_image=on_image, image_every=image_every, tell=tell,
    )  # fmt: skip
    return result


def solve_on_cluster(
    scan: RawData,
    config: RefinementConfig | None = None,
    *,
    checkpoint: Path,
    start: StitchedObject | None = None,
    probe: NDArray[np.complex64] | None = None,
    held_out: NDArray[np.int64] | None = None,
    judge: Callable[[Refinement], T] | None = None,
    resume: bool = True,
    execution: ExecutionConfig | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_image: Callable[[Progress, StitchedObject], None] | None = None,
    image_every: int = 0,
    tell: Callable[[str], None] = lambda line: None,
    on_wait: OnWait | None = None,
) -> tuple[RefinementResult, list[T]]:
    """Refine a scan on ``execution.devices`` workers.

    ``execution.split`` says how: with 'data' every worker has the whole scan and a share of each batch, with 'tiles' its own
    patterns and part of the object, and the result is the same within its noise; 'auto' takes tiles if a worker has no room for
    the whole. In tiles this process never reads patterns, and has the image only at the end.

    The first worker keeps the checkpoint, or each of them its tile in a folder beside it; after the loss of a worker, at most
    ``execution.max_failures`` times, all go on from there, with ``execution.min_devices`` also fewer. ``on_progress`` and
    ``on_image`` are called in this process, and what they raise ends the run.

    Args:
        checkpoint: as for :func:`.workflow.refine_cdi_image`; every machine must reach its folder, in which Ray keeps what it
            needs while the run lasts.
        start, probe, held_out: as for :class:`.solver.Refinement`.
        judge: called at the end on the workers that have held-out patterns: with shared batches the first one, and in tiles
            each for its own. A function of a module, so that it can be sent there.
        tell: told what happens until the first step.
        on_wait: called about every second with what is waited for, while the cluster has no room for the workers; what it
            raises ends the run. Without it that is told now and then.

    Returns:
        the result, and what ``judge`` has returned.

    Raises:
        ConfigurationError: tiles with settings that need the whole scan on every worker.
        InputError: the cluster or the scan do not allow the run.
        Diverged: the loss grows however small the steps are.
        TrainingInterrupted: after Ctrl-C.
        TrainingLost: more losses than ``execution.max_failures``.
    """
    execution = execution or ExecutionConfig()
    config = config or RefinementConfig()
    checkpoint = checkpoint.absolute()
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if not resume:
        forget(checkpoint)
    storage, name = checkpoint.parent / "ray", f"refine-{secrets.token_hex(4)}"
    with connected(execution, tell) as own_cluster:
        workers, on_wait = workers_for(execution, tell), on_wait or now_and_then(tell)
        wait_for_room(workers, on_wait)
        tiles = divides(scan, config, execution, workers, checkpoint)
        if tiles:
            config = with_room(config, workers)
        else:
            (scan,) = in_memory_if_they_fit([scan])
        check_nodes(files=files_to_see(scan))
        use_gpu = "GPU" in workers.resources
        board = start_event_queue()
        trainer = LeanTrainer(
            _refine_on_worker,
            train_loop_config={
                "task": ray.put((scan, config, {"start": start, "probe": probe, "held_out": held_out}, judge)),
                "checkpoint": checkpoint,
                "tiles": tiles,
                "gpu": use_gpu,
                "threads": execution.cpus_per_device,
                "board": board,
                "image_every": image_every if on_image is not None else 0,
            },
            own_cluster=own_cluster,
            scaling_config=scaling_of(workers),
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
            run_config=RunConfig(
                name=name,
                storage_path=str(storage),
                failure_config=FailureConfig(
                    max_failures=execution.max_failures, controller_failure_limit=START_FAILURES
                ),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            ),
        )
        follower = _Follower(on_progress, on_image)
        with (
            StartWatch(workers, tell) as watch,
            closing(DriverRelay(board, [follower], lambda workers, epochs_done: None, watch.up)),
        ):
            try:
                with sigterm_as_interrupt():
                    result = watch.fit(trainer, on_wait)
            except (KeyboardInterrupt, SystemExit):
                raise TrainingInterrupted(checkpoint if checkpoint.exists() else None) from None
            except (ray.train.TrainingFailedError, ray.exceptions.RayActorError) as error:
                raise_failure(board)
                raise TrainingLost(
                    f"the refinement was lost more often than execution.max_failures = {execution.max_failures} allows; "
                    f"the last time: {last_line(error)}. With resume it goes on from {checkpoint}"
                ) from error
            raise_failure(board)
    shutil.rmtree(storage / name, ignore_errors=True)
    with suppress(OSError):  # runs of others are in it
        storage.rmdir()
    found, judged = result.return_value
    if tiles:
        found = read_tiles(complete_sets(checkpoint)[0]).result(slab_between(scan, config))
    return found, judged


def forget(checkpoint: Path) -> None:
    """Remove the state that a run has kept, in one file or in tiles."""
    checkpoint.unlink(missing_ok=True)
    shutil.rmtree(folder_of_tiles(checkpoint), ignore_errors=True)


class _Follower:
    """Hands what the first worker reports to the functions of the caller."""

    def __init__(
        self,
        on_progress: Callable[[Progress], None] | None,
        on_image: Callable[[Progress, StitchedObject], None] | None,
    ) -> None:
        self.on_progress, self.on_image = on_progress, on_image
        self.tiles = ImagesOfTiles()

    def on_step(self, *told: Any) -> None:
        """A refinement has no steps to tell of."""

    def on_epoch(self, *told: Any) -> None:
        """And no epochs."""

    def on_refinement(
        self, posted: dict[str, Any], image: StitchedObject | None, tile: tuple[int, int] | None = None
    ) -> None:
        progress = Progress(**posted)
        if image is not None and tile is not None:
            image = self.tiles.add(progress.iteration, *tile, image)
            if image is None:
                return
        if image is not None and self.on_image is not None:
            self.on_image(progress, image)
        if image is None and self.on_progress is not None:
            self.on_progress(progress)


class _Unwanted(RuntimeError):
    """The program that started the run does not want it any more."""


def _refine_on_worker(settings: dict[str, Any]) -> tuple[RefinementResult | None, list[Any]] | None:
    """What every worker runs; the first one returns the result, unless it is in tiles, and what was judged."""
    board = settings["board"]
    if ray.get(board.failure.remote()) is not None:
        return None  # another start cannot mend what the user has to
    if not ray.train.get_context().get_world_rank():
        board.post.remote([("up", ray.train.get_context().get_world_size())])
    try:
        return _refine_share(settings)
    except (InputError, ArithmeticError) as error:
        ray.get(board.fail.remote(error))
        raise


def _refine_share(settings: dict[str, Any]) -> tuple[RefinementResult | None, list[Any]]:
    context, board = ray.train.get_context(), settings["board"]
    parallel = DataParallel(context.get_world_rank(), context.get_world_size())
    torch.set_num_threads(settings["threads"])
    scan, config, begin, judge = ray.get(settings["task"])
    judged: list[Any] = []

    def tell(progress: Progress, image: StitchedObject | None = None) -> None:
        if parallel.rank == 0:
            board.post.remote([("refinement", (asdict(progress), image))])  # the board then needs nothing of ours
            if ray.get(board.failure.remote()) is not None:
                raise _Unwanted

    def tell_tile(progress: Progress, image: StitchedObject) -> None:
        board.post.remote([("refinement", (asdict(progress), image, (parallel.rank, parallel.size)))])

    def at_end(refinement: Refinement) -> None:
        if judge is not None and len(refinement.held_out):
            judged.append(judge(refinement))

    common = {
        "device": torch.device("cuda") if settings["gpu"] else None,
        "parallel": parallel,
        "checkpoint": settings["checkpoint"],
        "on_progress": tell,
        "image_every": settings["image_every"],
    }
    if not settings["tiles"]:
        first = parallel.rank == 0
        on_image, at_end_of_first = (tell, at_end) if first else (None, None)
        result = refine(scan, config, **begin, **common, on_image=on_image, at_end=at_end_of_first)
        return (result, judged) if first else (None, [])
    refine_tile(scan, config, **begin, **common, on_image=tell_tile, at_end=at_end)
    parts: list[Any] = [judged] * parallel.size
    if parallel.size > 1:
        torch.distributed.all_gather_object(parts, judged)
    return None, [each for part in parts for each in part]
