"""Progress of long computations: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm


class TrainingProgress:
    """Follows a training run (a ``Callback`` of the training loop): the losses of every epoch, the time left."""

    def __init__(self, n_epochs: int, *, force_bar: bool = False) -> None:
        self.n_epochs = n_epochs
        self.force_bar = force_bar
        self.bar: tqdm | None = None
        self.started, self.first_epoch = time.monotonic(), 0

    def on_member(self, number: int, members: int) -> None:
        """The training of a member of an ensemble begins, counted from 0."""
        self.close()
        self.bar = None
        tqdm.write(f"member {number + 1}/{members}", file=sys.stderr)

    def on_step(self, progress: Any, figures: Mapping[str, float], steps_in_epoch: int) -> None:
        """A step of the optimiser was made; ``progress`` says where the run stands, its ``batch`` is the next one."""
        done = progress.epoch * steps_in_epoch + progress.batch
        if self.bar is None:
            self.started, self.first_epoch = time.monotonic(), progress.epoch
            self.bar = _bar(self.n_epochs * steps_in_epoch, "step", done, self.force_bar)
        self.bar.set_description(f"epoch {progress.epoch + 1}/{self.n_epochs}", refresh=False)
        self.bar.set_postfix(loss=f"{figures['loss']:.5g}", refresh=False)
        self.bar.update(done - self.bar.n)

    def on_epoch(self, progress: Any, figures: Mapping[str, float], model: Any) -> None:
        """An epoch is over; ``progress.epoch`` epochs are."""
        words = [f"epoch {progress.epoch}/{self.n_epochs}"]
        words += [f"{name} {figures[name]:.6g}" for name in ("loss", "val_loss", "learning_rate") if name in figures]
        seconds = (time.monotonic() - self.started) / (progress.epoch - self.first_epoch)
        words.append(f"{tqdm.format_interval(seconds * (self.n_epochs - progress.epoch))} left")
        tqdm.write("  ".join(words), file=sys.stderr)

    def close(self) -> None:
        """Remove the bar from the terminal, so that the next output starts on a new line."""
        if self.bar is not None:
            self.bar.close()


class BatchProgress:
    """Follows work that reports how much of it is done, as ``reconstruct`` does to its ``on_batch``."""

    def __init__(self, name: str, unit: str = "group", *, force_bar: bool = False) -> None:
        self.name, self.unit, self.force_bar = name, unit, force_bar
        self.bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        if self.bar is None:
            self.bar = _bar(total, self.unit, 0, self.force_bar)
            self.bar.set_description(self.name, refresh=False)
        self.bar.update(done - self.bar.n)
        if done >= total:
            self.bar.close()


class RefinementProgress:
    """Follows a refinement: the error in the bar of a terminal, and as a line whenever held-out patterns are judged."""

    def __init__(self, *, force_bar: bool = False) -> None:
        self.force_bar = force_bar
        self.bar: tqdm | None = None

    def __call__(self, progress: Any) -> None:
        if self.bar is None:
            self.bar = _bar(progress.iterations, "iteration", progress.iteration - 1, self.force_bar)
            self.bar.set_description("refining", refresh=False)
        self.bar.set_postfix(loss=f"{progress.loss:.5g}", refresh=False)
        self.bar.update(progress.iteration - self.bar.n)
        if progress.r_factor is not None:
            words = f"iteration {progress.iteration}/{progress.iterations}  loss {progress.loss:.5g}"
            tqdm.write(f"{words}  held-out R-factor {progress.r_factor:.4f}", file=sys.stderr)
        if progress.iteration >= progress.iterations:
            self.close()

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self.bar is not None:
            self.bar.close()


def _bar(total: int, unit: str, done: int, force: bool) -> tqdm:
    """A bar on standard error, shown only on a terminal unless forced."""
    return tqdm(total=total, unit=unit, initial=done, disable=False if force else None, file=sys.stderr, leave=False)
