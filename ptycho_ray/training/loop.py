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
from ptycho_ray.data.batches import batches, prefetched
from ptycho_ray.errors import ConfigurationError, InputError, TrainingInterrupted
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.training.checkpoint import CheckpointStore, load_checkpoint, save_checkpoint
from ptycho_ray.training.device import network_dtype, resolve_device
from ptycho_ray.training.forward import predict_piece
from ptycho_ray.training.health import diagnose, health_figures
from ptycho_ray.training.loss import TrainingLoss
from ptycho_ray.training.optimisation import Schedule, build_optimizer, clip_gradients, unfreeze
from ptycho_ray.training.parallel import DataParallel
from ptycho_ray.training.scan_training import GroupList, ScanBatch, ScanTraining, require_labels, whole_model

#: Settings that may differ between a run and its continuation.
FREE_ON_RESUME = (
    "nepochs",
    "output_dir",
    "train_data_file",
    "further_train_data_files",
    "test_data_file",
    "initial_model",
)


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
        history: one list per metric, with one value per epoch. best: lowest monitored metric so far, and ``best_epoch``.
        schedule: state of the learning-rate schedule. scaler: state of the float16 gradient scaler (empty without one).
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


class Trainer:
    """Trains the network that one or more scans share, each scan inside its own physics.

    Args:
        scans: the models are trained in place. They end with the weights of the best validation figure if there are
            validation groups and checkpoints, else with the last ones.
        parallel: the place of this process among those that train together; every one of them makes the same calls.
        checkpoints: keeps the state after every epoch; None keeps nothing.
        callbacks: called after every step and epoch.
    """

    def __init__(
        self,
        scans: Sequence[ScanTraining],
        config: TrainingConfig,
        execution: ExecutionConfig,
        *,
        parallel: DataParallel | None = None,
        checkpoints: CheckpointStore | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.device = resolve_device(execution)
        self.scans, self.config, self.execution = scans, config, execution
        self.parallel = parallel or DataParallel()
        self.checkpoints = checkpoints if execution.enable_checkpointing else None
        self.callbacks = callbacks
        models = [scan.model.to(self.device) for scan in scans]
        for model in models:
            model.network_dtype = network_dtype(execution, self.device)
        self.model = whole_model(models)
        self.parallel.align(self.model)
        self.losses = [
            TrainingLoss(config, scan.training.normalisation, scan.training.raw.bad_pixels) for scan in scans
        ]
        needs = {"labels": self.losses[0].needs_labels, "partners": self.losses[0].needs_partners}
        if needs["labels"]:
            require_labels(scans)
        self.training = GroupList([scan.training for scan in scans], **needs)
        self.validation = GroupList([scan.validation for scan in scans], **needs)
        self.validation.choose_partners(np.random.default_rng((config.seed, 2)))
        self.schedule = Schedule(config, execution)
        self.optimizer = build_optimizer(models, config, execution)
        dtype = models[0].network_dtype
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        self.clip_value = execution.gradient_clip_val or config.gradient_clip_val
        self.clip_algorithm = (
            execution.gradient_clip_algorithm if execution.gradient_clip_val else config.gradient_clip_algorithm
        )
        containers = [c for scan in scans for c in (scan.training, scan.validation) if c is not None]
        self.largest_shift_px = max(container.largest_shift_px for container in containers)
        if config.positions_trainable and config.model.gridsize > 1:
            self.largest_shift_px += 2 * config.position_limit_px
        self.progress = Progress(settings=_settings(config, scans))
        monitor = execution.checkpoint_monitor_metric
        self.monitor = monitor if len(self.validation) or not monitor.startswith("val_") else "loss"
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
        with _deterministic(self.execution.deterministic), self._stop_on_signal():
            while self.progress.epoch < self.config.nepochs and not self._out_of_patience():
                self._train_epoch()
                self._end_epoch()
        self._take_best_weights()
        if self.config.probe_trainable:
            for scan in self.scans:
                scan.model.orthogonalise_probe()
        return self.progress.history

    def _train_epoch(self) -> None:
        progress = self.progress
        generator = np.random.default_rng((self.config.seed, progress.epoch))
        order = self.training.order(self.config.scan_sampling, generator)
        self.training.choose_partners(np.random.default_rng((self.config.seed, 2, progress.epoch)))
        rows = [order[some] for some in batches(len(order), self.config.batch_size)]
        loaded = self._read_ahead(self.training, rows[progress.batch :])
        self.model.train()
        while progress.batch < len(rows):
            start = time.monotonic()
            groups = sum(len(some) for some in rows[progress.batch :][: self.execution.accum_steps])
            figures = self._step(list(itertools.islice(loaded, self.execution.accum_steps)), groups, len(rows))
            progress.batch = min(progress.batch + self.execution.accum_steps, len(rows))
            progress.seconds += time.monotonic() - start
            for callback in self.callbacks:
                callback.on_step(progress, figures, len(rows))
            if self._stop_requested:
                raise TrainingInterrupted(self._save_interrupted())

    def _step(self, loaded: Sequence[list[ScanBatch]], groups: int, steps_in_epoch: int) -> dict[str, float]:
        """One step of the optimiser over one or more batches of ``groups`` groups; each group counts the same."""
        now = self.progress.epoch + self.progress.batch / steps_in_epoch
        step = (self.progress.epoch * steps_in_epoch + self.progress.batch) // self.execution.accum_steps
        factor = self.schedule.factor(now, step)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        for scan in self.scans:
            unfreeze(scan.model, self.config, self.progress.epoch)

        self.optimizer.zero_grad(set_to_none=True)
        names = self.losses[0].names
        totals = torch.zeros(len(names), dtype=self._sum_dtype, device=self.device)
        for piece in itertools.chain.from_iterable(loaded):
            figures, count = self._figures(piece, now), len(piece.photons)
            self.scaler.scale(figures["loss"] * (count / groups)).backward()
            totals += self._as_row(figures) * count
        totals = self.parallel.add_up(self.model.parameters(), totals)
        values = dict(zip(names, totals.tolist(), strict=True))
        if not math.isfinite(values["loss"]):
            raise TrainingDiverged(
                f"the loss became {values['loss']} in epoch {self.progress.epoch + 1}; a smaller "
                f"execution.learning_rate (now {self.execution.learning_rate}) or gradient_clip_val may help"
            )
        self.scaler.unscale_(self.optimizer)
        if self.clip_value:
            clip_gradients(self.model.parameters(), self.clip_value, self.clip_algorithm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        for scan in self.scans:
            if scan.model.positions is not None:
                scan.model.positions.limit(self.config.position_limit_px)

        sums = self.progress.sums
        for name, total in [*values.items(), ("groups", float(groups))]:
            sums[name] = sums.get(name, 0.0) + total
        return {name: value / groups for name, value in values.items()} | {"learning_rate": self._learning_rate()}

    def _read_ahead(self, groups: GroupList, rows: Sequence[np.ndarray]) -> Iterator[list[ScanBatch]]:
        """This process's share of each of the batches ``rows``, on the device."""
        execution = self.execution
        pin = execution.pin_memory and self.device.type == "cuda"

        def read(some: np.ndarray) -> list[ScanBatch]:
            pieces = groups.read(self.parallel.share(some))
            return [piece.each(Tensor.pin_memory) for piece in pieces] if pin else pieces

        threads = execution.num_workers
        ahead = threads * (execution.prefetch_factor or 2)
        for pieces in prefetched(read, rows, threads=threads, ahead=ahead):
            yield [piece.each(lambda tensor: tensor.to(self.device, non_blocking=True)) for piece in pieces]

    def _figures(self, piece: ScanBatch, epoch: float | None = None) -> dict[str, Tensor]:
        prediction, evidence = predict_piece(self.scans[piece.scan].model, piece, self.largest_shift_px)
        return self.losses[piece.scan](prediction, piece.photons, evidence, epoch=epoch)

    def _as_row(self, figures: dict[str, Tensor]) -> Tensor:
        return torch.stack([figures[name].detach() for name in self.losses[0].names]).to(self._sum_dtype)

    @property
    def _sum_dtype(self) -> torch.dtype:
        return torch.float32 if self.device.type == "mps" else torch.float64

    def _end_epoch(self) -> None:
        progress = self.progress
        groups = progress.sums.pop("groups")
        figures = {name: value / groups for name, value in progress.sums.items()}
        figures |= {f"val_{name}": value for name, value in self.evaluate(self.validation).items()}
        figures["learning_rate"] = self._learning_rate()
        for scan in self.scans:
            figures[self._of_scan("object_scale", scan)] = float(scan.model.object_scale.detach())
            if scan.model.positions is not None:
                figures[self._of_scan("position_shift_rms_px", scan)] = scan.model.positions.rms_px()
            health = health_figures(scan.model, scan.validation or scan.training)
            figures |= {self._of_scan(name, scan): value for name, value in health.items()}
        for name, value in figures.items():
            progress.history.setdefault(name, []).append(value)
        if not progress.warnings:
            complaints = [
                diagnose(progress.history, self.config.nepochs, self._of_scan("", scan)) for scan in self.scans
            ]
            progress.warnings += [text for text in complaints if text is not None]
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
            callback.on_epoch(progress, figures, self.scans[0].model)

    @torch.no_grad()
    def evaluate(self, groups: GroupList) -> dict[str, float]:
        """Mean figures of groups, without training: over all of them and, if there are several, of each scan."""
        if len(groups) == 0:
            return {}
        self.model.eval()
        names = self.losses[0].names
        totals = torch.zeros(len(self.scans), len(names), dtype=self._sum_dtype, device=self.device)
        rows = list(batches(len(groups), self.config.batch_size))
        for piece in itertools.chain.from_iterable(self._read_ahead(groups, rows)):
            totals[piece.scan] += self._as_row(self._figures(piece)) * len(piece.photons)
        totals = self.parallel.add_up([], totals.flatten()).reshape(totals.shape).cpu()
        figures = dict(zip(names, (totals.sum(dim=0) / len(groups)).tolist(), strict=True))
        if len(self.scans) > 1:
            for scan, total, size in zip(self.scans, totals, groups.sizes, strict=True):
                if size:
                    means = (total / size).tolist()
                    figures |= {self._of_scan(n, scan): mean for n, mean in zip(names, means, strict=True)}
        return figures

    def _of_scan(self, figure: str, scan: ScanTraining) -> str:
        return figure if len(self.scans) == 1 else f"{figure}/{scan.name}"

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
        if self.checkpoints is None or not len(self.validation) or not 0 < best < self.progress.epoch:
            return
        with self.checkpoints.best(best) as path:
            if path is not None:
                load_checkpoint(path, self.model)

    def _learning_rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _write(self, path: Path) -> None:
        self.progress.schedule = dict(self.schedule.state)
        self.progress.scaler = self.scaler.state_dict()
        save_checkpoint(path, self.model, self.optimizer, asdict(self.progress))

    def _save_interrupted(self) -> Path | None:
        return None if self.checkpoints is None else self.checkpoints.keep_interrupted(self._write)

    def _restore(self, path: Path) -> None:
        progress = Progress(**load_checkpoint(path, self.model, self.optimizer))
        wanted = _settings(self.config, self.scans)
        changed = sorted(name for name in wanted if wanted[name] != progress.settings.get(name))
        if changed:
            name = changed[0]
            raise InputError(
                "a run can only be resumed with the settings it was started with",
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


def _settings(config: TrainingConfig, scans: Sequence[ScanTraining]) -> dict[str, Any]:
    """What must agree when a run is resumed: its settings, and the scales of its scans as a fingerprint of the data."""
    kept = {name: value for name, value in asdict(config).items() if name not in FREE_ON_RESUME}
    kept["loss_schedule"] = list(config.loss_schedule)  # as JSON gives it back
    return kept | {"data": [scan.container.normalisation.to_dict() for scan in scans]}


@contextmanager
def _deterministic(mode: bool | str) -> Iterator[None]:
    """Use only deterministic algorithms ('warn': report the others) within the block. Uninitialised memory is not
    filled, as torch would do: this costs up to 7% of the time and only serves to detect layers that read memory
    before writing it.
    """
    memory: Any = torch.utils.deterministic
    before, warn_before, fill_before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        memory.fill_uninitialized_memory,
    )
    torch.use_deterministic_algorithms(bool(mode), warn_only=mode == "warn")
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_before)
        memory.fill_uninitialized_memory = fill_before
