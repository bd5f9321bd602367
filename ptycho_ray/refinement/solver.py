"""Refining an image of a scan with an iterative solver: from a network's image, a file, or a flat object::

    for progress in Refinement(scan, RefinementConfig(iterations=30), start=stitched):
        print(progress.iteration, progress.loss)
    result = refinement.result()

or, in one call, ``refine(scan, config, start=stitched)``. Everything that the patterns depend on can be refined:
object, probe modes, positions, intensities, background (``RefinementConfig``). ``docs/refinement.md`` describes the
method.
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.data.patterns import evenly_spread
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.evaluation.explained import Explained, Figures, mean_figures
from ptycho_ray.evaluation.frc import RingCorrelation
from ptycho_ray.evaluation.half_data import half_data_correlation
from ptycho_ray.physics.probe import orthogonal_modes
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement import checkpoint
from ptycho_ray.refinement.after_iteration import AfterIteration
from ptycho_ray.refinement.batching import held_out_patterns
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.lean import lean_error_px
from ptycho_ray.refinement.measured_amplitude import Amplitude
from ptycho_ray.refinement.methods import JUDGE_THEIR_START, METHODS
from ptycho_ray.refinement.prior_choice import choose_prior
from ptycho_ray.refinement.result import Diverged, Progress, RefinementResult
from ptycho_ray.refinement.run import Run
from ptycho_ray.refinement.setup import build_run
from ptycho_ray.refinement.slab import Slab, slab_between
from ptycho_ray.refinement.tiles import Neighbours
from ptycho_ray.refinement.unseen import PatternFigures, judge_unseen
from ptycho_ray.training.parallel import DataParallel

__all__ = [
    "Diverged",
    "Progress",
    "Refinement",
    "RefinementConfig",
    "RefinementResult",
    "half_data_agreement",
    "refine",
]

log = logging.getLogger(__name__)

#: A step has diverged if the loss is that many times that of the start (or of a flat object, if larger), or ...
WORSE_THAN_FIRST = 3.0
#: ... that many times the lowest one and at least this share of that of the start.
WORSE_THAN_BEST, SHARE_OF_FIRST = 4.0, 0.3
#: Relative difference of the held-out deviance within which two estimates explain as much.
SAME_DEVIANCE = 0.01
#: Steps are halved at most that often.
MOST_BACKOFFS = 8


def _some(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most ``count`` of the rows, spread over all of them."""
    return rows[evenly_spread(len(rows), count)]


class Refinement:
    """An iterative solver for one scan; iterating over it does the work.

    Args:
        scan: patterns, positions and the probe to begin with.
        config: settings.
        start: object to begin with; one everywhere if None.
        probe: modes [P, N, N] to begin with, in any scale; those of the scan if None.
        learn: numbers of the patterns that are fitted; if None all but a random ``config.held_out_fraction``.
        held_out: numbers of the patterns that judge.
        support: support of the sample on the canvas (that of ``stitched()``), bool [H, W]; outside, the object is one.
        parallel: the place of this process among those that share every batch.
        device: where tensors live.
        tiles: the other workers, where ``scan`` is only the part of this one (``tiled_solver.py``).

    Raises:
        InputError: the probe is larger than its window, or the starting image lies elsewhere.
    """

    def __init__(
        self,
        scan: RawData,
        config: RefinementConfig | None = None,
        *,
        start: StitchedObject | None = None,
        probe: NDArray[np.complex64] | None = None,
        learn: NDArray[np.int64] | None = None,
        held_out: NDArray[np.int64] | None = None,
        support: NDArray[np.bool_] | None = None,
        parallel: DataParallel | None = None,
        device: torch.device | None = None,
        tiles: Neighbours | None = None,
    ) -> None:
        self.config = config or RefinementConfig()
        n = len(scan)
        self._slab, self._pixel_m = slab_between(scan, self.config), scan.pixel_size_m
        if held_out is None:
            generator = np.random.default_rng((self.config.seed, 3))
            held_out = np.flatnonzero(held_out_patterns(n, self.config.held_out_fraction, generator))
        self.held_out = held_out if learn is None else np.setdiff1d(held_out, learn)
        self._is_judged = self._any(self.held_out)
        rows = np.setdiff1d(np.arange(n), self.held_out) if learn is None else np.asarray(learn)
        self.parallel = parallel or DataParallel()
        self.run, self._photons = build_run(
            scan, self.config, start, probe, rows, self.parallel, device or torch.device("cpu"), tiles
        )
        self.history: list[Progress] = []
        self.stopped = ""
        self._start = self._snapshot() if tiles is None else {}  # a tile is never solved again
        self.method = METHODS[self.config.method](self.run)
        self.after = AfterIteration(self.run, support)
        self._proven = self._snapshot() if self.config.method in JUDGE_THEIR_START else None
        with torch.no_grad():
            self._first_loss = self._loss_to_begin_with(_some(rows, 64))
        self._lowest, self._backoffs = self._first_loss, 0
        self._best_judged, self._since_best = math.inf, 0
        self._best = self._snapshot()  # not the start itself: a checkpoint is read into it
        self._best_iteration = 0
        if start is not None and self._is_judged:
            with torch.no_grad():
                self._best_judged = self.judge(self.held_out).deviance

    def __iter__(self) -> Iterator[Progress]:
        """Iterate until all iterations are done or the held-out patterns have not improved for long enough.

        Raises:
            Diverged: steps were halved MOST_BACKOFFS times and the loss still grows.
        """
        began = time.monotonic()
        while self.run.iteration < self.config.iterations and not self.stopped:
            step = self.run.schedule()
            with torch.no_grad():
                loss = self._guarded_iteration()
            r_of, deviance = None, None
            done = self.run.iteration
            if self._is_judged and (done % self.config.check_every == 0 or done == self.config.iterations):
                with torch.no_grad():
                    judged = self.judge(self.held_out)
                self._consider_stopping(judged.deviance)
                if (done == self.config.iterations or self.stopped) and self._put_best_back(judged.deviance):
                    with torch.no_grad():
                        judged = self.judge(self.held_out)
                r_of, deviance = judged.r_factor, judged.deviance
            self.history.append(
                Progress(
                    done, self.config.iterations, loss, step, self._backoffs, time.monotonic() - began, r_of, deviance
                )
            )
            yield self.history[-1]
        self.stopped = self.stopped or "all iterations done"

    @torch.no_grad()
    def judge(self, rows: NDArray[np.int64]) -> Figures:
        """How well the present estimate explains the patterns ``rows``, means over them."""
        return mean_figures(self.explained(rows))

    def explained(self, rows: NDArray[np.int64]) -> Iterator[Explained]:
        """The patterns ``rows`` as they are predicted, in the detector order of the propagator, some at a time."""
        kernel = self.run.kernel
        for piece in np.array_split(rows, max(1, -(-len(rows) // 32))):
            waves = kernel.forward(self.run.state, self.run.tensor(piece))
            counts = kernel.amplitude.index_select(0, waves.rows).square()
            yield Explained(waves.intensity, counts if kernel.good is None else counts * kernel.good, kernel.good)

    def judge_unseen(
        self, rows: NDArray[np.int64], photons_per_unit: float | None, *, intensities: bool | None = None
    ) -> PatternFigures:
        """How well the present estimate explains patterns that it has not learnt from; see :func:`.unseen.judge_unseen`.

        Args:
            photons_per_unit: photons per unit of the scan's intensity; None if not known.
            intensities: fit the intensity of each; if None, only if that is an unknown here.
        """
        config = self.config
        return judge_unseen(
            self.run,
            rows,
            positions=config.position_start is not None and config.position_model == "free",
            intensities=config.intensity_start is not None if intensities is None else intensities,
            photons_per_unit=self.photons_per_count(photons_per_unit),
        )

    def photons_per_count(self, photons_per_unit: float | None) -> float | None:
        """Photons per unit of what is predicted here, given those per unit of the scan's intensity; None if not known."""
        return None if photons_per_unit is None else photons_per_unit / self._photons

    def again(self, amplitude: Amplitude, config: RefinementConfig, *, from_the_start: bool = False) -> Refinement:
        """A refinement that begins with the present estimate, for measured amplitudes [n, N, N] and settings of its own.

        It must have the unknowns of this one. This one is not changed by it.

        Args:
            from_the_start: begin with what this one began with.
        """
        other, old = copy.copy(self), self.run
        kernel = copy.copy(old.kernel)
        kernel.amplitude, kernel.geometry = amplitude, copy.copy(old.geometry)
        begin = self._start if from_the_start else self._snapshot()
        kernel.geometry.place(begin["positions_px"].numpy())
        state = dataclasses.replace(old.state, **checkpoint.snapshot(old.state))
        checkpoint.restore(state, begin)
        generator = np.random.default_rng((config.seed, 6))
        other.run = Run(kernel, state, config, old.rows, generator, self.parallel)
        other.config, other.history, other.stopped, other._backoffs = config, [], "", 0
        other._best_judged, other.after = math.inf, copy.copy(self.after)
        other._begin_method()
        other._proven = other._snapshot() if config.method in JUDGE_THEIR_START else None
        with torch.no_grad():
            other._first_loss = other._lowest = other._loss_to_begin_with(_some(old.rows, 64))
        return other

    @torch.no_grad()
    def stitched(self) -> StitchedObject:
        """The present object with the illumination as weight; its mean phase is zero."""
        return self._with_light().with_zero_mean_phase()

    def _with_light(self) -> StitchedObject:
        image = self.run.state.object.prod(dim=0).cpu().numpy().astype(np.complex64)
        weight = self.run.illumination().cpu().numpy().astype(np.float32)
        return StitchedObject(image, weight, self.run.geometry.origin_px)

    @torch.no_grad()
    def result(self) -> RefinementResult:
        """The present result."""
        state, unit = self.run.state, math.sqrt(self._photons)
        background = None
        if state.background is not None:
            background = self.run.kernel.propagator.restore(state.background).cpu().numpy().astype(np.float32)
            background /= self._photons
        return RefinementResult(
            stitched=self.stitched(),
            slices=state.object.cpu().numpy().astype(np.complex64),
            probe=(orthogonal_modes(state.probe) / unit).cpu().numpy().astype(np.complex64),
            positions_px=self.run.geometry.positions_px,
            intensity=state.scale.square().cpu().numpy().astype(np.float32),
            background=background,
            slab=self._present_slab(),
            history=list(self.history),
            stopped=self.stopped,
        )

    def _present_slab(self) -> Slab | None:
        """What lies between the slices, with the tilt that was found."""
        further = self.run.state.slice_shift_px
        if self._slab is None or further is None:
            return self._slab
        assert self._pixel_m is not None
        shift = torch.tensor(self._slab.shift_px, dtype=further.dtype, device=further.device) + further
        return self._slab.shifted(shift.tolist(), lean_error_px(self.run, shift).tolist(), self._pixel_m)

    def save(self, path: Path) -> None:
        """Write everything that is needed to resume, atomically."""
        header = {
            "config": dataclasses.asdict(self.config),
            "iteration": self.run.iteration,
            "backoff": self.run.backoff,
            "backoffs": self._backoffs,
            "stopped": self.stopped,
            "lowest": self._lowest,
            "best_judged": self._best_judged if math.isfinite(self._best_judged) else None,
            "best_iteration": self._best_iteration,
            "since_best": self._since_best,
            "generator": self.run.generator.bit_generator.state,
            "history": [dataclasses.asdict(progress) for progress in self.history],
        }
        checkpoint.save(path, self._parts(), header, self.run.geometry.positions_px)

    def resume(self, path: Path) -> None:
        """Resume from a file of :meth:`save`, made from the same scan with the same settings; more iterations are allowed.

        Raises:
            InputError: the file is no such file, is damaged, or was made with other settings.
        """
        header, positions = checkpoint.load(path, self._parts(), dataclasses.asdict(self.config))
        self.run.geometry.place(positions)
        self.run.iteration, self.run.backoff = header["iteration"], header["backoff"]
        self._backoffs, self._lowest = header["backoffs"], header["lowest"]
        self._best_judged = math.inf if header["best_judged"] is None else header["best_judged"]
        self._since_best, self._best_iteration = header["since_best"], header["best_iteration"]
        self.run.generator.bit_generator.state = header["generator"]
        self.history = [Progress(**item) for item in header["history"]]

    # -- an iteration ------------------------------------------------------------------------------------------------

    def _begin_method(self) -> None:
        self.method = METHODS[self.config.method](self.run)
        self.after.begin(self.run)

    def _parts(self) -> dict[str, object]:
        parts: dict[str, object] = {"state": self.run.state, "method": self.method}
        parts |= {} if self._proven is None else {"proven": self._proven}
        parts |= {"best": self._best} if self._is_judged else {}
        return parts | ({} if self.after.smooth is None else {"smooth": self.after.smooth})

    def _guarded_iteration(self) -> float:
        """One iteration, taken back and done again with smaller steps while it diverges; the loss per learnt pixel.

        Where the loss is that of the iteration's start, the step before is to blame, and what is put back is the estimate
        before that step, whose loss was good: the same iteration again would see the same loss.
        """
        before = self._snapshot()
        while True:
            loss = self._iterate()
            too_much = WORSE_THAN_FIRST * self._first_loss, WORSE_THAN_BEST * self._lowest
            if loss <= too_much[0] and (loss <= too_much[1] or loss <= SHARE_OF_FIRST * self._first_loss):
                self._lowest = min(loss, self._lowest)
                self.run.iteration += 1
                if self._proven is not None:
                    self._proven = before
                return loss
            self._backoffs += 1
            if self._backoffs > MOST_BACKOFFS:
                raise Diverged(
                    f"the refinement diverges: loss {loss:.4g} per pixel in iteration {self.run.iteration + 1}, "
                    f"{self._first_loss:.4g} at the start, although steps were halved {MOST_BACKOFFS} times"
                )
            self.run.backoff /= 2
            log.warning(
                "iteration %d diverged (loss %.4g per pixel, lowest %.4g); it is repeated with steps of %g",
                self.run.iteration + 1,
                loss,
                self._lowest,
                self.run.backoff,
            )
            before = before if self._proven is None else self._proven
            checkpoint.restore(self.run.state, before)
            self.run.geometry.place(before["positions_px"].numpy())
            self._begin_method()

    def _iterate(self) -> float:
        """One iteration, whatever becomes of it; the loss per learnt pixel."""
        self.method.auxiliary.begin(self.run)
        total = float(self.method.iterate(self.run))
        self.method.auxiliary.settle(self.run)
        self.after.apply(self.run)
        return total / (len(self.run.rows) * self.run.kernel.amplitude.shape[1:].numel())

    def _any(self, rows: NDArray[np.int64]) -> bool:
        """Whether there are any patterns ``rows``."""
        return len(rows) > 0

    def _snapshot(self) -> dict[str, Tensor]:
        return checkpoint.snapshot(self.run.state) | {"positions_px": torch.from_numpy(self.run.geometry.positions_px)}

    def _loss_to_begin_with(self, rows: NDArray[np.int64]) -> float:
        """The loss a pixel of the start, or of a flat object if that is larger: the first steps may disturb a good start."""
        image = self.run.state.object
        start, loss = image.clone(), self.run.loss_of(rows)
        image.fill_(1)
        loss = max(loss, self.run.loss_of(rows))
        image.copy_(start)
        return loss

    def _put_best_back(self, deviance: float) -> bool:
        """At the end: if the held-out patterns were explained better before, the estimate is what it was then."""
        if deviance <= self._best_judged * (1 + SAME_DEVIANCE):
            return False
        checkpoint.restore(self.run.state, self._best)
        self.run.geometry.place(self._best["positions_px"].numpy())
        when = f"iteration {self._best_iteration}" if self._best_iteration else "the start"
        kept = f"the held-out patterns were explained best by {when}, which is kept"
        self.stopped = f"{self.stopped or 'all iterations done'}; {kept}"
        return True

    def _consider_stopping(self, deviance: float) -> None:
        self._since_best = 0 if deviance < self._best_judged else self._since_best + 1
        if deviance < self._best_judged:
            self._best_judged, self._best, self._best_iteration = deviance, self._snapshot(), self.run.iteration
        if self.config.patience is not None and self._since_best >= self.config.patience:
            self.stopped = f"no improvement on the held-out patterns in {self._since_best} checks"


def refine(
    scan: RawData,
    config: RefinementConfig | None = None,
    *,
    start: StitchedObject | None = None,
    probe: NDArray[np.complex64] | None = None,
    held_out: NDArray[np.int64] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_image: Callable[[Progress, StitchedObject], None] | None = None,
    image_every: int = 0,
    at_end: Callable[[Refinement], None] | None = None,
    parallel: DataParallel | None = None,
    device: torch.device | None = None,
    checkpoint: Path | None = None,
    resume: bool = True,
) -> RefinementResult:
    """Refine to the end; see :class:`Refinement`.

    Args:
        on_progress: called after every iteration.
        on_image: given the present image every ``image_every`` iterations.
        at_end: given the refinement after the last one.
        checkpoint: written by the first process every ``config.check_every`` iterations and after the last one.
        resume: resume from ``checkpoint`` if it exists. With a prior the checkpoint is that of the chosen solution, written at
            the end; the choice begins anew.
    """

    def begin(settings: RefinementConfig | None) -> Refinement:
        how: dict[str, Any] = {"held_out": held_out, "parallel": parallel, "device": device}
        return Refinement(scan, settings, start=start, probe=probe, **how)

    def finish(refinement: Refinement, checkpoint: Path | None = None) -> None:
        for progress in refinement:
            due = progress.iteration % refinement.config.check_every == 0 or progress.iteration == progress.iterations
            if checkpoint is not None and due and refinement.parallel.rank == 0:
                refinement.save(checkpoint)
            if on_progress is not None:
                on_progress(progress)
            if on_image is not None and image_every and progress.iteration % image_every == 0:
                on_image(progress, refinement.stitched())

    if config is not None and config.prior != "none":
        refinement, choice = choose_prior(config, begin, finish)
        if checkpoint is not None and refinement.parallel.rank == 0:
            refinement.save(checkpoint)
        if at_end is not None:
            at_end(refinement)
        return dataclasses.replace(refinement.result(), prior=choice)
    refinement = begin(config)
    if checkpoint is not None and resume and checkpoint.exists():
        refinement.resume(checkpoint)
    finish(refinement, checkpoint)
    if at_end is not None:
        at_end(refinement)
    return refinement.result()


def half_data_agreement(
    scan: RawData,
    config: RefinementConfig,
    result: RefinementResult,
    *,
    start: StitchedObject | None = None,
    device: torch.device | None = None,
) -> RingCorrelation:
    """Fourier ring correlation of two refinements, each of half of the patterns, where both are well lit.

    Probe and positions are those of ``result`` and fixed, so that both halves share the same coordinates: the agreement
    measures the uncertainty of the object given them. Halves are drawn at random; each starts from ``start``. A learned
    prior takes no part: it would agree with itself.

    Raises:
        Diverged: half of the patterns do not determine the object.
    """
    rows = np.random.default_rng((config.seed, 4)).permutation(len(scan))
    fixed = dataclasses.replace(
        config, probe_start=None, position_start=None, probe_modes=None, held_out_fraction=0.0, prior="none"
    )
    if result.slab is not None and result.slab.tilt_mrad is not None:
        row, column = result.slab.tilt_mrad
        fixed = dataclasses.replace(fixed, tilt_row_mrad=row, tilt_column_mrad=column, tilt_start=None)
    moved = scan.at(result.positions_px)
    halves = []
    for part in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        half = Refinement(moved, fixed, start=start, probe=result.probe, learn=np.sort(part), device=device)
        for _ in half:
            pass
        halves.append(half.stitched())
    first, second = halves
    return half_data_correlation(first.image, second.image, first.covered() & second.covered())
