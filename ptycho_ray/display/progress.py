"""Progress of long computations: a bar in a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

#: The time of a training is told once so many seconds or steps have been measured after the first step, which is slower.
MEASURED_S, MEASURED_STEPS = 2.0, 20
#: A training that takes longer than this is told with what is quicker.
LONG_S = 60.0
#: Seconds per detector pixel that ``ptycho-ray reconstruct`` takes for a scan: between the 6e-6 of one with a known experiment
#: and the 2e-5 of one where probe and positions were wrong (docs/automatic.md).
SOLVER_S = 1e-5


class TrainingProgress:
    """Follows a training run (a ``Callback`` of the training loop): at the beginning how long it will take, the losses of every
    epoch, the time left.

    Args:
        first_look: what to do instead of a long training, from :func:`first_look`.
    """

    def __init__(self, n_epochs: int, *, first_look: str = "", force_bar: bool = False) -> None:
        self.n_epochs, self.first_look = n_epochs, first_look
        self.force_bar = force_bar
        self.bar: tqdm | None = None
        self.started, self.first_epoch = time.monotonic(), 0
        self.first_step, self.members, self.told = 0, 1, False

    def on_member(self, number: int, members: int) -> None:
        """The training of a member of an ensemble begins, counted from 0."""
        self.close()
        self.bar, self.members = None, members
        tqdm.write(f"member {number + 1}/{members}", file=sys.stderr)

    def on_step(self, progress: Any, figures: Mapping[str, float], steps_in_epoch: int) -> None:
        """A step of the optimiser was made; ``progress`` says where the run stands, its ``batch`` is the next one."""
        done = progress.epoch * steps_in_epoch + progress.batch
        if self.bar is None:
            self.started, self.first_epoch, self.first_step = time.monotonic(), progress.epoch, done
            self.bar = _bar(self.n_epochs * steps_in_epoch, "step", done, self.force_bar)
        self.bar.set_description(f"epoch {progress.epoch + 1}/{self.n_epochs}", refresh=False)
        self.bar.set_postfix(loss=f"{figures['loss']:.5g}", refresh=False)
        self.bar.update(done - self.bar.n)
        seconds, steps = time.monotonic() - self.started, done - self.first_step
        if not self.told and steps and (seconds > MEASURED_S or steps >= MEASURED_STEPS):
            self.told = True
            tqdm.write(self._outlook(seconds / steps, steps_in_epoch), file=sys.stderr)

    def _outlook(self, per_step: float, steps_in_epoch: int) -> str:
        """How long the whole training takes, in a line."""
        seconds = per_step * steps_in_epoch * self.n_epochs * self.members
        what = f"{self.n_epochs} epochs" + (f" of {self.members} networks" if self.members > 1 else "")
        line = f"about {in_words(seconds)} for {what} ({per_step:.2g} s a batch)"
        return f"{line}; for a first look: {self.first_look}" if seconds > LONG_S and self.first_look else line

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


def first_look(n_epochs: int, pixels: int, *, notebook: bool = False) -> str:
    """What is quicker than a training of ``n_epochs``: fewer of them, or no network.

    Args:
        pixels: measured pixels of the scan, patterns times N times N.
        notebook: in the words of Python, not of the command line.
    """
    fewer, seconds = max(1, n_epochs // 10), in_words(SOLVER_S * pixels)
    epochs, command = f"--nepochs {fewer}", "`ptycho-ray reconstruct SCAN`"
    if notebook:
        epochs, command = f"nepochs={fewer}", "reconstruct(scan)"
    alternative = f"{command} (no network, about {seconds})"
    return f"{epochs} or {alternative}" if n_epochs > 1 else alternative


def in_words(seconds: float) -> str:
    """A duration with one or two digits: 8 s, 12 min, 1.5 h."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


class TimeLeft:
    """What is left of work, from the pace since it was first asked."""

    def __init__(self) -> None:
        self.began: tuple[float, int] | None = None

    def words(self, done: int, total: int) -> str:
        """As '12 min left', or 'beginning' while there is no pace yet."""
        now = time.monotonic()
        if self.began is None:
            self.began = (now, done)
        since, first = self.began
        return f"{in_words((now - since) / (done - first) * (total - done))} left" if done > first else "beginning"


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
            self.close()

    def close(self) -> None:
        """Remove the bar from the terminal, also of work that ended early."""
        if self.bar is not None:
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
            self.bar = None


def _bar(total: int, unit: str, done: int, force: bool) -> tqdm:
    """A bar on standard error, shown only on a terminal unless forced."""
    return tqdm(total=total, unit=unit, initial=done, disable=False if force else None, file=sys.stderr, leave=False)
