"""Sweeps on a Ray cluster: Ray Tune around the trials of ``ptycho_ray.tuning``.

Ray's part is to run trials side by side, to stop those that are behind, and to survive those that die. What is proposed
comes from :class:`ptycho_ray.tuning.search.Search`, what happened goes line by line to
:class:`ptycho_ray.tracking.sweep_record.SweepRecord`, so that a sweep whose program was killed loses no trial that ended.
"""

from __future__ import annotations

import functools
import logging
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from ptycho_ray.cluster.connect import connected, environment
from ptycho_ray.cluster.dashboard_metrics import SweepMetrics
from ptycho_ray.cluster.object_store import in_memory_if_they_fit
from ptycho_ray.cluster.population import export_checkpoint, load_parent, population_scheduler
from ptycho_ray.cluster.preflight import check_nodes
from ptycho_ray.cluster.trial_room import trial_room
from ptycho_ray.data import RawData
from ptycho_ray.data.corrections import apply_corrections
from ptycho_ray.errors import ConfigurationError, TrainingInterrupted
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.slab import slab_between
from ptycho_ray.tracking.objectives import OBJECTIVES
from ptycho_ray.tracking.sweep_record import SweepRecord, TrialRecord, trial_folder
from ptycho_ray.tuning.bounds import MOST_WIDENINGS, holding, on_bounds, widened
from ptycho_ray.tuning.search import Search
from ptycho_ray.tuning.space import DIRECT_SETTINGS, Space, refinement_settings
from ptycho_ray.tuning.trial import run_trial, trial_config

log = logging.getLogger(__name__)

#: How Ray Tune behaves here: its own tables, logs and handling of Ctrl-C are not wanted.
TUNE_DEFAULTS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}
#: Early stopping: the first decision after this share of the epochs, then each time the epochs have grown by this factor,
#: and of the trials that came so far one in as many goes on.
GRACE_SHARE, REDUCTION = 1 / 9, 3
#: Further trials after a bound was moved: this share of those asked for, and at least so many.
FURTHER_SHARE, LEAST_FURTHER = 0.25, 8
#: A note in the folder of a trial that failed.
ERROR_NOTE = "error.txt"

Watcher = Callable[[SweepRecord, TrialRecord], None]


@dataclass(frozen=True)
class _Task:
    """What all trials have in common."""

    kind: str
    base: Mapping[str, Any]
    objectives: tuple[str, ...]
    folder: str
    threads: int
    device: str
    on_workers: bool
    in_population: bool


def run_sweep(
    scan: RawData,
    base: Mapping[str, Any],
    space: Space,
    record: SweepRecord,
    trials: int,
    *,
    seed: int = 0,
    learn_from: Sequence[SweepRecord] = (),
    watcher: Watcher | None = None,
) -> Space:
    """Run trials until ``record`` has ``trials`` that ended, failed ones included.

    Where the best trial of the experiment lies on a bound of the space, the bound is moved and further trials are run, at most
    ``MOST_WIDENINGS`` times.

    Args:
        base: settings of all trials by name, ``execution.devices`` and ``execution.address`` among them.
        record: what has been done so far; the trials go on from there.
        learn_from: finished sweeps whose results the search may use.
        watcher: called in this process whenever a trial begins, reports or ends.

    Returns:
        the space, with the bounds that were moved.

    Raises:
        ConfigurationError: the objectives, the scheduler and the cluster do not go together.
        TrainingInterrupted: after Ctrl-C.
    """
    check_sweep(scan, base, space)
    further = max(LEAST_FURTHER, math.ceil(trials * FURTHER_SHARE))
    space, times = holding(space, [trial.parameters for trial in record.trials.values()])
    with environment(TUNE_DEFAULTS), connected(trial_config(base, {})[1]):
        check_nodes(files=[] if scan.patterns.in_memory else [str(Path(scan.source).absolute())])
        while True:
            _run_trials(scan, base, space, record, trials, seed=seed, learn_from=learn_from, watcher=watcher)
            best = record.best()
            sides = {} if best is None or len(space.objectives) > 1 else on_bounds(space, best.parameters)
            if best is None or not sides:
                return space
            names = ", ".join(sides)
            wider = widened(space, best.parameters)
            if not space.of_experiment or times == MOST_WIDENINGS or wider == space:
                log.warning("the best trial lies on a bound of %s, which stays where it is", names)
                return space
            log.warning("the best trial lies on a bound of %s: the range is widened, %d further trials", names, further)
            space, times, trials = wider, times + 1, len(record.ended) + further


def _run_trials(
    scan: RawData,
    base: Mapping[str, Any],
    space: Space,
    record: SweepRecord,
    trials: int,
    *,
    seed: int,
    learn_from: Sequence[SweepRecord],
    watcher: Watcher | None,
) -> None:
    """Those of one space."""
    config, execution = trial_config(base, {})
    left = trials - len(record.ended)
    if left <= 0:
        return
    resources, device, concurrent = trial_room(execution, space.trial, scan)
    search = _informed_search(space, seed, record, learn_from)
    on_workers = execution.devices != 1
    task = _Task(
        space.trial, dict(base), space.objectives, str((record.folder / "trials").absolute()),
        execution.cpus_per_device, device, on_workers, space.scheduler == "pbt",
    )  # fmt: skip
    watchers: list[Watcher] = [SweepMetrics(record.folder.name)]
    if watcher is not None:
        watchers.append(watcher)
    recorder = _Recorder(record, config.nepochs, watchers)
    storage = record.folder / "ray"
    shutil.rmtree(storage, ignore_errors=True)
    trainable = tune.with_parameters(_trial, scan=in_memory_if_they_fit([scan])[0], task=task)
    searcher = _Searcher(search, record, config.nepochs)
    population = [searcher.suggest(str(n))["trial"] for n in range(left)] if task.in_population else []
    tuner = tune.Tuner(
        tune.with_resources(trainable, tune.PlacementGroupFactory([resources])),
        param_space={"trial": tune.grid_search(population)} if population else None,
        tune_config=tune.TuneConfig(
            num_samples=1 if population else left,
            search_alg=None if population else searcher,
            scheduler=_scheduler(space, config.nepochs, on_workers),
            max_concurrent_trials=concurrent,
            reuse_actors=space.scheduler != "pbt",
            trial_name_creator=_name,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="sweep", storage_path=str(storage.absolute()), verbose=0, callbacks=[recorder],
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )  # fmt: skip
    try:
        with _quiet_ray(), _one_thread():
            tuner.fit()
    except KeyboardInterrupt:
        raise TrainingInterrupted(record.folder) from None
    shutil.rmtree(storage, ignore_errors=True)


@contextmanager
def _quiet_ray() -> Iterator[None]:
    """Without Ray Tune's log: trials that fail stand in the record, with the reason."""
    logger = logging.getLogger("ray.tune")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The trials have the processors; the search of this process needs one thread, and more would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_sweep(scan: RawData, base: Mapping[str, Any], space: Space) -> None:
    """Whether the scan has what objectives and parameters need.

    Raises:
        ConfigurationError: an objective needs the truth, or held-out patterns, and there are none; a parameter needs a pixel
            size or an energy that the scan does not state, or has no effect on it; nothing could be stopped early.
    """
    config = trial_config(base, {})[0]
    for parameter in space.parameters:
        if parameter.name in DIRECT_SETTINGS:
            apply_corrections(scan, trial_config(base, {parameter.name: parameter.values[-1]})[0])
    if space.trial == "refine":
        first = {parameter.name: parameter.values[-1] for parameter in space.parameters if not parameter.when}
        slab_between(scan, RefinementConfig(**refinement_settings({**base, **first})))
    _scheduler(space, config.nepochs, False)
    for name in space.objectives:
        if OBJECTIVES[name].needs_truth and scan.object_truth is None:
            without = ", ".join(n for n, objective in OBJECTIVES.items() if not objective.needs_truth)
            raise ConfigurationError(
                f"needs the true object, which {scan.source or 'the scan'} does not hold",
                field="objective",
                found=repr(name),
                expected=without,
            )
    if not config.validation_fraction and {"likelihood", "deviance", "r_factor"} & set(space.objectives):
        raise ConfigurationError(
            "the objective needs held-out patterns", field="validation_fraction", found=0, expected="more than 0"
        )


def _informed_search(space: Space, seed: int, record: SweepRecord, others: Sequence[SweepRecord]) -> Search:
    """A search that knows what is known, and begins with the trials that had begun."""
    search = Search(space, seed + len(record.trials))
    for trial in record.judged():
        search.learn(trial.parameters, trial.figures)
    for other in others:
        known = [trial for trial in other.judged() if search.learn(trial.parameters, trial.figures)]
        log.warning("%d of the %d trials of %s are used", len(known), len(other.ended), other.folder)
    search.drop_points([trial.parameters for trial in record.trials.values()])
    search.put_first([trial.parameters for trial in record.running])
    return search


def _scheduler(space: Space, epochs: int, on_workers: bool) -> TrialScheduler:
    """What stops trials early; 'auto' is ASHA for networks, and nothing for direct solutions, which take seconds."""
    first = space.objectives[0]
    whole = OBJECTIVES[first].at_end or on_workers or len(space.objectives) > 1
    kind = space.scheduler
    if kind == "auto":
        kind = "none" if whole or space.of_experiment else "asha"
    if kind == "none":
        return FIFOScheduler()
    if whole:
        raise ConfigurationError(
            "with several objectives, or one that is known only at the end, trials cannot be stopped early",
            field="scheduler",
            found=repr(kind),
            expected="'none'",
        )
    common: dict[str, Any] = {"time_attr": "epoch", "metric": first, "mode": OBJECTIVES[first].mode}
    grace = max(1, math.floor(epochs * GRACE_SHARE))
    if kind == "median":
        return MedianStoppingRule(grace_period=grace, min_samples_required=3, **common)
    if kind == "pbt":
        return population_scheduler(space, epochs, common)
    return ASHAScheduler(max_t=epochs, grace_period=grace, reduction_factor=REDUCTION, **common)


def _name(trial: Any) -> str:
    """The number of a trial as its name: its configuration may become that of another one, its name stays."""
    return f"{trial.config['trial']['number']:04}"


def _number(trial: Any) -> int:
    return int(trial.custom_trial_name)


class _StaysHere:
    """Ray Tune writes its parts to disk in case that it has to restore them; ours are restored from the record."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Searcher(_StaysHere, Searcher):
    """Ray's view of a search."""

    def __init__(self, search: Search, record: SweepRecord, epochs: int) -> None:
        first = record.objectives[0]
        super().__init__(metric=first, mode=OBJECTIVES[first].mode)
        self.search, self.record, self.epochs = search, record, epochs
        self.numbers: dict[str, int] = {}
        self.again = [trial.number for trial in record.running]
        self.next = max(record.trials, default=-1) + 1

    def suggest(self, trial_id: str) -> Any:
        if self.again:
            number = self.again.pop(0)
        else:
            number, self.next = self.next, self.next + 1
        parameters = self.search.ask(number)
        if parameters is None:
            return Searcher.FINISHED
        self.numbers[trial_id] = number
        return {"trial": {"number": number, "parameters": parameters}}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if self.record.objectives[0] in result:
            self.search.report(self.numbers[trial_id], result["epoch"], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self.numbers.pop(trial_id)
        known = result if result and not error and all(n in result for n in self.record.objectives) else None
        self.search.tell(number, known, stopped=known is not None and known["epoch"] < self.epochs)

    def save(self, checkpoint_path: str) -> None:
        """The record is what lasts; Ray wants a file all the same."""
        Path(checkpoint_path).write_bytes(b"")

    def restore(self, checkpoint_path: str) -> None:
        raise NotImplementedError("a sweep goes on from its own record")


class _Recorder(_StaysHere, tune.Callback):
    """Writes the record as trials begin, report and end."""

    def __init__(self, record: SweepRecord, epochs: int, watchers: Sequence[Watcher]) -> None:
        self.record, self.epochs, self.watchers = record, epochs, watchers

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        number = _number(trial)
        known = self.record.trials.get(number)
        if known is None or known.status != "running" or not known.began:
            self._write(TrialRecord(number, trial.config["trial"]["parameters"], began=time.time()))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        known = self.record.trials[_number(trial)]
        if "epoch" not in result:
            return
        known.parameters = dict(trial.config["trial"]["parameters"])
        known.epoch = result["epoch"]
        known.figures = {name: float(result[name]) for name in OBJECTIVES if name in result}
        first = self.record.objectives[0]
        if first in known.figures:
            known.curve.append([known.epoch, known.figures[first]])
        self._tell(known)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        known = self.record.trials[_number(trial)]
        known.status = "finished" if known.epoch >= self.epochs else "stopped"
        self._end(known)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        known = self.record.trials[_number(trial)]
        known.status, known.error = "failed", self._reason(known.number)
        self._end(known)

    def _reason(self, number: int) -> str:
        """Why a trial failed: what its process left as a note, if it still could."""
        note = trial_folder(self.record.folder / "trials", number) / ERROR_NOTE
        return note.read_text(encoding="utf-8") if note.exists() else "its process died: killed, or out of memory"

    def _end(self, trial: TrialRecord) -> None:
        trial.ended = time.time()
        self._write(trial)

    def _write(self, trial: TrialRecord) -> None:
        self.record.write(trial)
        self._tell(trial)

    def _tell(self, trial: TrialRecord) -> None:
        for watcher in self.watchers:
            watcher(self.record, trial)


# -- in the process of a trial ----------------------------------------------------------------------------------------


def _trial(config: dict[str, Any], *, scan: RawData, task: _Task) -> None:
    """What Ray Tune runs for every trial."""
    folder = trial_folder(Path(task.folder), int(tune.get_context().get_trial_name()))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _run(config, scan, task, folder)
    except Exception as error:  # whatever it is, it belongs into the record
        (folder / ERROR_NOTE).write_text(" ".join(str(error).split()) or type(error).__name__, encoding="utf-8")
        raise


def _run(config: dict[str, Any], scan: RawData, task: _Task, folder: Path) -> None:
    torch.set_num_threads(task.threads)
    settings, execution = trial_config(task.base, config["trial"]["parameters"])
    train = None
    if not task.on_workers:
        execution = replace(execution, accelerator=task.device)
    if task.in_population:
        load_parent(folder, execution.learning_rate)
    if task.on_workers:
        from ptycho_ray.cluster.train import train_on_cluster

        train = functools.partial(train_on_cluster)

    def report(epoch: int, figures: dict[str, float]) -> None:
        if not all(math.isfinite(value) for value in figures.values()):
            raise ArithmeticError(f"diverged: {figures}")
        if task.objectives[0] in figures:
            tune.report(
                {"epoch": epoch, **figures}, checkpoint=export_checkpoint(folder) if task.in_population else None
            )

    refinement = refinement_settings({**task.base, **config["trial"]["parameters"]})
    run_trial(
        task.kind, scan, settings, execution, task.objectives, folder, report, refinement=refinement, train=train
    )  # fmt: skip
