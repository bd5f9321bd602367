"""The training loop: epochs over groups of patterns, validation, checkpoints, exact resume."""

from __future__ import annotations

import itertools
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.data.batches import Batch, batches, prefetched
from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.errors import ConfigurationError, InputError, TrainingInterrupted
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.training.checkpoint import load_checkpoint, save_checkpoint
from ptycho_ray.training.device import network_dtype, resolve_device
from ptycho_ray.training.loss import TrainingLoss
from ptycho_ray.training.optimisation import Schedule, build_optimizer, clip_gradients

LAST_CHECKPOINT = "last.safetensors"
BEST_CHECKPOINT = "best.safetensors"
#: Settings that may differ between a run and its continuation.
FREE_ON_RESUME = ("nepochs", "output_dir", "train_data_file", "test_data_file")


class TrainingDiverged(ArithmeticError):
    """The loss is no longer a finite number."""


class Callback(Protocol):
    """What may follow a training run: a progress bar, a tracker, a report to a cluster."""

    def on_step(self, progress: Progress, figures: dict[str, float], steps_in_epoch: int) -> None: ...

    def on_epoch(self, progress: Progress, figures: dict[str, float], model: PhysicsInformedModel) -> None: ...


@dataclass
class Progress:
    """Where a run stands; everything that a checkpoint needs beside weights and optimiser state.

    Attributes:
        epoch, batch: the batch that comes next.
        sums: sums of the training figures over the groups of the present epoch so far, and their number ``groups``.
        history: one list a figure, one value an epoch.
        best: lowest monitored figure so far, and ``best_epoch``.
        schedule: memory of the learning-rate schedule.
        scaler: memory of the float16 gradient scaler (empty without one).
        settings: the training settings, to refuse a continuation with others.
        seconds: time spent training.
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


class Trainer:
    """Trains a model on the groups of a container.

    Args:
        model: is trained in place. It ends with the weights of the best validation figure if there are validation groups
            and checkpoints, else with the last ones.
        training, validation: groups; validation may be None.
        folder: where checkpoints go; None for none.
        callbacks: told of every step and epoch.
    """

    def __init__(
        self,
        model: PhysicsInformedModel,
        training: PtychoDataContainer,
        validation: PtychoDataContainer | None,
        config: TrainingConfig,
        execution: ExecutionConfig,
        *,
        folder: Path | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.device = resolve_device(execution)
        self.model = model.to(self.device)
        self.model.network_dtype = network_dtype(execution, self.device)
        self.model.log_object_scale.requires_grad_(config.intensity_scale_trainable)
        self.training, self.validation = training, validation
        self.config, self.execution = config, execution
        self.folder = folder if execution.enable_checkpointing else None
        self.callbacks = callbacks
        self.loss = TrainingLoss(config, training.normalisation)
        self.schedule = Schedule(config, execution)
        self.optimizer = build_optimizer(model, config, execution)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.model.network_dtype == torch.float16)
        self.clip_value = execution.gradient_clip_val or config.gradient_clip_val
        self.clip_algorithm = (
            execution.gradient_clip_algorithm if execution.gradient_clip_val else config.gradient_clip_algorithm
        )
        self.largest_shift_px = max(c.largest_shift_px for c in (training, validation) if c is not None)
        self.progress = Progress(settings=_settings(config))
        monitor = execution.checkpoint_monitor_metric
        self.monitor = monitor if validation is not None or not monitor.startswith("val_") else "loss"
        self._stop_requested = False

    # -- the run ---------------------------------------------------------------------------------------------------

    def fit(self, resume_from: Path | None = None) -> dict[str, list[float]]:
        """Train to ``config.nepochs`` and return the history, one list a figure.

        Raises:
            TrainingInterrupted: after Ctrl-C or SIGTERM, once the state is saved.
            TrainingDiverged: when the loss is not finite; the last good epoch is on disk.
        """
        if resume_from is not None:
            self._restore(resume_from)
        with _deterministic(self.execution.deterministic), self._stop_on_signal():
            while self.progress.epoch < self.config.nepochs and not self._out_of_patience():
                self._train_epoch()
                self._end_epoch()
        if self._best_weights_on_disk():
            assert self.folder is not None
            load_checkpoint(self.folder / BEST_CHECKPOINT, self.model)
        return self.progress.history

    def _train_epoch(self) -> None:
        progress, batch_size = self.progress, self.config.batch_size
        order = np.random.default_rng((self.config.seed, progress.epoch)).permutation(len(self.training))
        rows = [order[some] for some in batches(len(order), batch_size)]
        self.model.train()
        loaded = prefetched(self.training, rows[progress.batch :], self.execution)
        while progress.batch < len(rows):
            start = time.monotonic()
            figures = self._accumulated_step(list(itertools.islice(loaded, self.execution.accum_steps)))
            progress.batch = min(progress.batch + self.execution.accum_steps, len(rows))
            progress.seconds += time.monotonic() - start
            for callback in self.callbacks:
                callback.on_step(progress, figures, len(rows))
            if self._stop_requested:
                raise TrainingInterrupted(self._save(LAST_CHECKPOINT))

    def _accumulated_step(self, loaded: Sequence[Batch]) -> dict[str, float]:
        """One step of the optimiser over one or more batches; each group counts the same."""
        groups = sum(len(photons) for photons, _ in loaded)
        steps_in_epoch = math.ceil(len(self.training) / self.config.batch_size)
        factor = self.schedule.factor(self.progress.epoch + self.progress.batch / steps_in_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        probe_moves = self.config.probe_trainable and self.progress.epoch >= self.config.probe_start_epoch
        self.model.probe_parts.requires_grad_(probe_moves)

        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, float] = {}
        for batch in loaded:
            figures = self._figures(batch)
            share = len(batch[0]) / groups
            self.scaler.scale(figures["loss"] * share).backward()
            for name, figure in figures.items():
                totals[name] = totals.get(name, 0.0) + float(figure.detach()) * len(batch[0])
        if not math.isfinite(totals["loss"]):
            raise TrainingDiverged(
                f"the loss became {totals['loss']} in epoch {self.progress.epoch + 1}; a smaller "
                f"execution.learning_rate (now {self.execution.learning_rate}) or gradient_clip_val may help"
            )
        self.scaler.unscale_(self.optimizer)
        if self.clip_value:
            clip_gradients(self.model.parameters(), self.clip_value, self.clip_algorithm)
        self.scaler.step(self.optimizer)
        self.scaler.update()

        sums = self.progress.sums
        for name, total in [*totals.items(), ("groups", float(groups))]:
            sums[name] = sums.get(name, 0.0) + total
        return {name: value / groups for name, value in totals.items()} | {"learning_rate": self._learning_rate()}

    def _figures(self, batch: Batch) -> dict[str, Tensor]:
        photons, relative = (tensor.to(self.device, non_blocking=True) for tensor in batch)
        return self.loss(self.model(photons, relative, self.largest_shift_px), photons)

    def _end_epoch(self) -> None:
        progress = self.progress
        groups = progress.sums.pop("groups")
        figures = {name: value / groups for name, value in progress.sums.items()}
        if self.validation is not None:
            figures |= {f"val_{name}": value for name, value in self.evaluate(self.validation).items()}
        figures["learning_rate"] = self._learning_rate()
        figures["object_scale"] = float(self.model.object_scale.detach())
        for name, value in figures.items():
            progress.history.setdefault(name, []).append(value)
        self.schedule.end_of_epoch(figures.get("val_loss", figures["loss"]))
        progress.epoch, progress.batch, progress.sums = progress.epoch + 1, 0, {}
        monitored = self._monitored(figures)
        improved = monitored < progress.best
        if improved:
            progress.best, progress.best_epoch = monitored, progress.epoch
        self._save(LAST_CHECKPOINT)
        if improved and self.execution.checkpoint_save_top_k:
            self._save(BEST_CHECKPOINT)
        for callback in self.callbacks:
            callback.on_epoch(progress, figures, self.model)

    @torch.no_grad()
    def evaluate(self, container: PtychoDataContainer) -> dict[str, float]:
        """Mean figures of a container's groups, without training."""
        self.model.eval()
        totals: dict[str, float] = {}
        for batch in prefetched(container, batches(len(container), self.config.batch_size), self.execution):
            for name, value in self._figures(batch).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(batch[0])
        return {name: value / len(container) for name, value in totals.items()}

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

    def _best_weights_on_disk(self) -> bool:
        keep = self.validation is not None and self.execution.checkpoint_save_top_k > 0
        return keep and self.folder is not None and 0 < self.progress.best_epoch < self.progress.epoch

    def _learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _save(self, name: str) -> Path | None:
        if self.folder is None:
            return None
        self.progress.schedule = dict(self.schedule.state)
        self.progress.scaler = self.scaler.state_dict()
        save_checkpoint(self.folder / name, self.model, self.optimizer, asdict(self.progress))
        return self.folder / name

    def _restore(self, path: Path) -> None:
        progress = Progress(**load_checkpoint(path, self.model, self.optimizer))
        wanted = _settings(self.config)
        changed = sorted(name for name in wanted if wanted[name] != progress.settings.get(name))
        if changed:
            name = changed[0]
            raise InputError(
                "a run can only be continued with the settings it was started with",
                file=path, field=name, found=wanted[name], expected=progress.settings.get(name),
            )  # fmt: skip
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


def _settings(config: TrainingConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name not in FREE_ON_RESUME}


@contextmanager
def _deterministic(mode: bool | str) -> Iterator[None]:
    """Only algorithms that give the same numbers every time ('warn': report the others), for the length of the block."""
    before, warn_before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    torch.use_deterministic_algorithms(bool(mode), warn_only=mode == "warn")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_before)
