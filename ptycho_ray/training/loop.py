"""The training loop: epochs over batches, validation, schedules, checkpoints, exact resume.

What the batches are, and what the loss, comes from a :class:`TrainingSource`: the groups of measured scans
(``training.scan_source``) or scans that are simulated as they are needed (``training.pretraining``).
"""

from __future__ import annotations

import itertools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.data.batches import prefetched, sent
from ptycho_ray.errors import ConfigurationError, InputError, TrainingInterrupted
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.training.checkpoint import CheckpointStore, load_checkpoint, save_checkpoint
from ptycho_ray.training.device import arithmetic
from ptycho_ray.training.optimisation import Schedule, build_optimizer, clip_gradients
from ptycho_ray.training.parallel import DataParallel

#: Steps whose figures are read from a GPU at once: it is given the next ones while it computes.
READ_EVERY = 16


class TrainingDiverged(ArithmeticError):
    """The loss is no longer a finite number."""


class Callback(Protocol):
    """An observer of a training run: a progress bar, a tracker, a report to a cluster.

    ``model`` is None where the training runs in other processes.
    """

    def on_step(self, progress: Progress, figures: dict[str, float], steps_in_epoch: int) -> None: ...

    def on_epoch(self, progress: Progress, figures: dict[str, float], model: PhysicsInformedModel | None) -> None: ...


@dataclass
class Progress:
    """Progress of a run; everything that a checkpoint needs in addition to weights and optimiser state.

    Attributes:
        epoch, batch: the batch that comes next.
        sums: sums of the training figures over the groups of the present epoch so far, and their number ``groups``.
        history: one list per metric, with one value per epoch.
        best: lowest monitored metric so far, and ``best_epoch``.
        schedule: state of the learning-rate schedule.
        scaler: state of the float16 gradient scaler (empty without one).
        settings: the training settings, to refuse a continuation with different ones.
        seconds: time spent training.
        warnings: problems and remedies, as text, each once.
    """

    epoch: int = 0
    batch: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: dict[str, list[float]] = field(default_factory=dict)
    best: float = math.inf
    best_epoch: int = -1
    schedule: dict[str, float] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)


class Step(NamedTuple):
    """A step whose figures are still on the device: their sums ``totals`` [F] over its ``items``; ``batch`` comes after it."""

    batch: int
    items: int
    learning_rate: float
    totals: Tensor


class Piece(Protocol):
    """A part of a batch whose loss is computed at once.

    Attributes:
        size: how many items it holds; the loss of a batch is the mean over its items.
    """

    @property
    def size(self) -> int: ...

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The piece with every tensor changed (put on another device)."""


class TrainingSource(Protocol):
    """What a Trainer trains on.

    Attributes:
        models: physics around one shared network, for the optimiser; ``module`` holds all that is trained, for checkpoints.
        device: where they are.
        names: the figures of a piece, ``loss`` among them.
        settings: what must be the same when a run goes on, JSON-able.
        has_validation: whether anything is held out.
    """

    @property
    def models(self) -> Sequence[PhysicsInformedModel]: ...
    @property
    def module(self) -> nn.Module: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def has_validation(self) -> bool: ...

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """The batches of an epoch, each an array of items; the same ones whenever the epoch is asked for."""

    def read(self, items: NDArray[np.int64]) -> Sequence[Any]:
        """The pieces of some items of a batch, in memory; called by several threads."""

    def figures(self, piece: Any, epoch: float) -> dict[str, Tensor]:
        """Means over a piece, by name; ``loss`` has a gradient. ``epoch`` is a fraction within an epoch."""

    def before_step(self, epoch: int) -> None:
        """Say which parameters may move."""

    def after_step(self) -> None:
        """Bring parameters back to where they are allowed to be."""

    def validate(self, stream: Stream, add_up: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Figures of what is held out, by name; ``stream`` reads it, ``add_up`` adds over all processes."""

    def state_figures(self) -> dict[str, float]:
        """Further figures of the model after an epoch."""

    def diagnose(self, history: Mapping[str, list[float]]) -> list[str]:
        """What goes wrong and what to change, in words."""

    def finish(self) -> None:
        """After the last epoch."""


#: ``stream(read, batches)`` reads ahead: this process's share of each batch, on the device.
Stream = Callable[[Callable[[NDArray[np.int64]], Sequence[Any]], Sequence[NDArray[np.int64]]], Iterator[Sequence[Any]]]


class Trainer:
    """Trains the network of a source.

    Args:
        source: its models are trained in place. They end with the weights of the best validation figure if something is held
            out and the best checkpoint is kept, else with the last ones.
        parallel: the place of this process among those that train together; every one of them makes the same calls.
        checkpoints: keeps the state after every epoch; None keeps nothing.
        callbacks: called after every step and epoch.
    """

    def __init__(
        self,
        source: TrainingSource,
        config: TrainingConfig,
        execution: ExecutionConfig,
        *,
        parallel: DataParallel | None = None,
        checkpoints: CheckpointStore | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.source, self.config, self.execution = source, config, execution
        self.device, self.module = source.device, source.module
        self.parallel = parallel or DataParallel()
        self.checkpoints = checkpoints if execution.enable_checkpointing else None
        self.callbacks = callbacks
        self.parallel.align(self.module)
        self.schedule = Schedule(config, execution)
        self.optimizer = build_optimizer(source.models, config, execution)
        half = source.models[0].network_dtype == torch.float16
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.clip_value = execution.gradient_clip_val or config.gradient_clip_val
        self.clip_algorithm = (
            execution.gradient_clip_algorithm if execution.gradient_clip_val else config.gradient_clip_algorithm
        )
        self.progress = Progress(settings=source.settings)
        monitor = execution.checkpoint_monitor_metric
        self.monitor = monitor if source.has_validation or not monitor.startswith("val_") else "loss"
        self.read_every = 1 if self.device.type == "cpu" else READ_EVERY
        self._stop_requested = False

    # -- the run ---------------------------------------------------------------------------------------------------

    def fit(self, resume_from: Path | None = None) -> dict[str, list[float]]:
        """Train to ``config.nepochs`` and return the history, one list per metric.

        Raises:
            TrainingInterrupted: after Ctrl-C or SIGTERM, once the state is saved.
            TrainingDiverged: when the loss is not finite; the last good epoch is on disk.
        """
        if resume_from is not None:
            self._restore(resume_from)
        with arithmetic(self.execution, self.device), self._stop_on_signal():
            while self.progress.epoch < self.config.nepochs and not self._out_of_patience():
                self._train_epoch()
                self._end_epoch()
        self._take_best_weights()
        self.source.finish()
        return self.progress.history

    def _train_epoch(self) -> None:
        progress = self.progress
        batches = self.source.batches(progress.epoch)
        loaded = self._read_ahead(self.source.read, batches[progress.batch :])
        self.module.train()
        unread: list[Step] = []
        while progress.batch < len(batches):
            start = time.monotonic()
            items = sum(len(batch) for batch in batches[progress.batch :][: self.execution.accum_steps])
            totals = self._step(list(itertools.islice(loaded, self.execution.accum_steps)), items, len(batches))
            progress.batch = min(progress.batch + self.execution.accum_steps, len(batches))
            progress.seconds += time.monotonic() - start
            unread.append(Step(progress.batch, items, self._learning_rate(), totals))
            if len(unread) == self.read_every or progress.batch == len(batches) or self._stop_requested:
                self._read_figures(unread, len(batches))
                unread = []
            if self._stop_requested:
                raise TrainingInterrupted(self._save_interrupted())

    def _read_figures(self, steps: Sequence[Step], steps_in_epoch: int) -> None:
        """Read the figures of some steps, for which a GPU must have taken them, and tell of them."""
        names, progress, sums = self.source.names, self.progress, self.progress.sums
        start = time.monotonic()
        rows = torch.stack([step.totals for step in steps]).tolist()
        progress.seconds += time.monotonic() - start
        for step, row in zip(steps, rows, strict=True):
            values = dict(zip(names, row, strict=True))
            if not math.isfinite(values["loss"]):
                raise TrainingDiverged(
                    f"the loss became {values['loss']} in epoch {progress.epoch + 1}; a smaller "
                    f"execution.learning_rate (now {self.execution.learning_rate}) or gradient_clip_val may help"
                )
            for name, total in [*values.items(), ("groups", float(step.items))]:
                sums[name] = sums.get(name, 0.0) + total
            figures = {name: value / step.items for name, value in values.items()}
            for callback in self.callbacks:
                then = replace(progress, batch=step.batch)
                callback.on_step(then, figures | {"learning_rate": step.learning_rate}, steps_in_epoch)

    def _step(self, loaded: Sequence[Sequence[Any]], items: int, steps_in_epoch: int) -> Tensor:
        """One step of the optimiser over one or more batches of ``items`` items; each item counts the same. The sums of the
        figures over the items, [F]."""
        now = self.progress.epoch + self.progress.batch / steps_in_epoch
        step = (self.progress.epoch * steps_in_epoch + self.progress.batch) // self.execution.accum_steps
        factor = self.schedule.factor(now, step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self.source.before_step(self.progress.epoch)

        self.optimizer.zero_grad(set_to_none=True)
        names = self.source.names
        totals = torch.zeros(len(names), dtype=sum_dtype(self.device), device=self.device)
        for piece in itertools.chain.from_iterable(loaded):
            figures = self.source.figures(piece, now)
            self.scaler.scale(figures["loss"] * (piece.size / items)).backward()
            totals += as_row(figures, names) * piece.size
        totals = self.parallel.add_up(self.module.parameters(), totals)
        self.scaler.unscale_(self.optimizer)
        if self.clip_value:
            clip_gradients(self.module.parameters(), self.clip_value, self.clip_algorithm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.source.after_step()
        return totals

    def _read_ahead(
        self, read: Callable[[NDArray[np.int64]], Sequence[Any]], batches: Sequence[NDArray[np.int64]]
    ) -> Iterator[Sequence[Any]]:
        """This process's share of each of the batches, on the device."""
        threads = self.execution.num_workers or (0 if self.device.type == "cpu" else 1)
        ahead = threads * (self.execution.prefetch_factor or 2)
        for pieces in prefetched(lambda batch: read(self.parallel.share(batch)), batches, threads=threads, ahead=ahead):
            yield [piece.each(lambda tensor: sent(tensor, self.device)) for piece in pieces]

    def _end_epoch(self) -> None:
        progress = self.progress
        groups = progress.sums.pop("groups")
        figures = {name: value / groups for name, value in progress.sums.items()}
        held_out = self.source.validate(self._read_ahead, lambda sums: self.parallel.add_up([], sums))
        figures |= {f"val_{name}": value for name, value in held_out.items()}
        figures["learning_rate"] = self._learning_rate()
        figures |= self.source.state_figures()
        for name, value in figures.items():
            progress.history.setdefault(name, []).append(value)
        if not progress.warnings:
            progress.warnings += self.source.diagnose(progress.history)
        self.schedule.end_of_epoch(figures.get("val_loss", figures["loss"]))
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        monitored = self._monitored(figures)
        improved = monitored < progress.best
        if improved:
            progress.best, progress.best_epoch = monitored, progress.epoch
        if self.checkpoints is not None:
            kept = {**figures, "monitored": monitored}
            self.checkpoints.keep(self._write, kept, epoch=progress.epoch, best=improved)
        for callback in self.callbacks:
            callback.on_epoch(progress, figures, self.source.models[0])

    # -- stopping, saving, resuming --------------------------------------------------------------------------------

    def _monitored(self, figures: dict[str, float]) -> float:
        try:
            value = figures[self.monitor]
        except KeyError:
            raise ConfigurationError(
                field="execution.checkpoint_monitor_metric",
                found=repr(self.monitor),
                expected=f"one of {sorted(figures)}",
            ) from None
        return value if self.execution.checkpoint_mode == "min" else -value

    def _out_of_patience(self) -> bool:
        progress = self.progress
        return progress.epoch - max(progress.best_epoch, 0) >= self.execution.early_stop_patience

    def _take_best_weights(self) -> None:
        best = self.progress.best_epoch
        if self.checkpoints is None or not self.source.has_validation or not 0 < best < self.progress.epoch:
            return
        with self.checkpoints.best(best) as path:
            if path is not None:
                load_checkpoint(path, self.module)

    def _learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _write(self, path: Path) -> None:
        self.progress.schedule = dict(self.schedule.state)
        self.progress.scaler = self.scaler.state_dict()
        save_checkpoint(path, self.module, self.optimizer, asdict(self.progress))

    def _save_interrupted(self) -> Path | None:
        return None if self.checkpoints is None else self.checkpoints.keep_interrupted(self._write)

    def _restore(self, path: Path) -> None:
        def check(stored: dict[str, Any]) -> None:
            wanted, found = self.source.settings, stored.get("settings", {})
            name = min((name for name in wanted if wanted[name] != found.get(name)), default=None)
            if name is not None:
                raise InputError(
                    "a run can only be continued with the settings it was started with",
                    file=path, field=name, found=wanted[name], expected=found.get(name),
                )  # fmt: skip

        progress = Progress(**load_checkpoint(path, self.module, self.optimizer, check))
        self.progress = progress
        self.schedule.state.update(progress.schedule)
        if progress.scaler:
            self.scaler.load_state_dict(progress.scaler)

    @contextmanager
    def _stop_on_signal(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM end the run after the present step, once; a second Ctrl-C ends it at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def request_stop(number: int, _frame: Any) -> None:
            self._stop_requested = True
            signal.signal(number, previous[signal.Signals(number)])

        for number in previous:
            signal.signal(number, request_stop)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def sum_dtype(device: torch.device) -> torch.dtype:
    """In which sums over an epoch are kept."""
    return torch.float32 if device.type == "mps" else torch.float64


def as_row(figures: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """The figures ``names`` [F] for a sum."""
    row = torch.stack([figures[name].detach() for name in names])
    return row.to(sum_dtype(row.device))
