"""From any scan to its image without a setting: examine, repair, choose, solve, judge."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_ray.automatic.choose import FIRST_ROUND, SOLUTION, Choice, choose, more_modes
from ptycho_ray.automatic.electrons import calibrated_probes
from ptycho_ray.automatic.examine import Examined, ReadWhole, examine
from ptycho_ray.automatic.guesses import first_probes
from ptycho_ray.automatic.trials import Part, Trial, drawn, fitting, surrounded
from ptycho_ray.automatic.verdict import Judgement, Verdict, findings, judge, judgement
from ptycho_ray.data.position_maps import transformed_positions
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.error_bars import ErrorBars, error_bars_and_halves
from ptycho_ray.refinement.prior_choice import choose_prior
from ptycho_ray.refinement.result import Progress, RefinementResult
from ptycho_ray.refinement.solver import Refinement

#: Patterns below which none can be spared to judge.
LEAST_PATTERNS = 8
#: Patterns that are held out to judge: at least so many, if that is not more than a tenth.
JUDGES, LEAST_HELD_OUT, MOST_HELD_OUT = 24, 0.02, 0.1

OnProgress = Callable[[Progress], None]
JudgePart = Callable[[Refinement], Judgement]


class Solve(Protocol):
    """Solves a scan, here or elsewhere, beginning with its probe and a flat object."""

    def __call__(
        self,
        scan: RawData,
        config: RefinementConfig,
        *,
        held_out: NDArray[np.int64],
        judge: JudgePart | None,
        on_progress: OnProgress | None,
    ) -> tuple[RefinementResult, list[Judgement]]:
        """The solution, and what ``judge`` says at the end of the patterns ``held_out`` in each process that has some."""


@dataclass(frozen=True)
class Plan:
    """What is done with a scan, before it is done.

    Attributes:
        examined: the scan as it is solved, and what was mended.
        choice: probe, positions and settings that explain its patterns best.
        seconds: processor seconds that the plan took.
    """

    examined: Examined
    choice: Choice
    seconds: float

    @property
    def trials(self) -> list[Trial]:
        """All of them, in their order."""
        return self.choice.part.trials

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of :class:`RefinementConfig` that the solution begins with, as far as they were decided."""
        return {"iterations": SOLUTION} | dict(self.choice.assumption.settings)

    @property
    def lines(self) -> list[str]:
        """What was found and decided, one sentence each."""
        return [*self.examined.lines, *self.choice.decisions]


@dataclass(frozen=True)
class Automatic:
    """An image, how it was made, and what it explains.

    Attributes:
        scan: the patterns that were solved, with the positions and the probe that the solution began with.
        plan: how it was decided.
        config: the settings of the solution.
        refinement: image, probe, positions and what else was solved for.
        verdict: how well the image explains patterns that took no part in it.
        held_out: numbers of these, in ``scan``.
        seconds: processor seconds of the solution.
        error_bars: standard deviations of the image, which holds them too; None if not asked for, or if they diverged.
    """

    scan: RawData
    plan: Plan
    config: RefinementConfig
    refinement: RefinementResult
    verdict: Verdict
    held_out: NDArray[np.int64]
    seconds: float
    error_bars: ErrorBars | None = None

    @property
    def refined_scan(self) -> RawData:
        """The patterns that were solved, with the probe and at the positions that were found."""
        return self.scan.at(self.refinement.positions_px, self.refinement.probe)


def plan_reconstruction(
    scan: RawData,
    *,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    budget_s: float | None = None,
    read_whole: ReadWhole = RawData.pattern_energies,
    tell: Callable[[str], None] = lambda line: None,
) -> Plan:
    """Examine a scan and decide by short trials what is unknown about it; the same seed decides the same.

    Args:
        settings: settings of :class:`RefinementConfig` that are given and not decided.
        budget_s: processor seconds after which nothing further is tried (the plan then depends on the machine).
        read_whole: makes the scan remember the intensity of each pattern.

    Raises:
        InputError: there are fewer than ``LEAST_PATTERNS`` patterns.
    """
    began = time.process_time()
    given = dict(settings or {})
    examined = examine(scan, read_whole)
    for line in examined.lines:
        tell(line)
    if len(examined.scan) < LEAST_PATTERNS:
        raise InputError(
            file=scan.source or None,
            field="patterns",
            found=f"{len(examined.scan)} that can be used",
            expected=f"at least {LEAST_PATTERNS}, some of which judge the image",
            hint="ptycho-ray info shows the scan; ptycho-ray refine solves it without a judgement",
        )
    part = Part(examined.scan, seed, photons_per_unit=examined.photons_per_unit, budget_s=budget_s)
    probes = calibrated_probes(part, first_probes(part.scan, given), tell)
    choice = choose(part, probes, given, tell)
    return Plan(examined, choice, time.process_time() - began)


def reconstruct_scan(
    scan: RawData,
    *,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    budget_s: float | None = None,
    uncertainty: bool = False,
    device: torch.device | None = None,
    solve: Solve | None = None,
    read_whole: ReadWhole = RawData.pattern_energies,
    tell: Callable[[str], None] = lambda line: None,
    on_progress: OnProgress | None = None,
    on_image: Callable[[Progress, StitchedObject], None] | None = None,
) -> Automatic:
    """Reconstruct a scan with nothing but what its file says.

    Args:
        scan: patterns, positions, and a probe if there is one.
        seed: of the trials, the patterns held out and the batches.
        settings: settings of :class:`RefinementConfig` that are given and not decided.
        budget_s: processor seconds after which nothing further is tried.
        uncertainty: also determine error bars of the image, and compare two halves of the data.
        device: where it is computed.
        solve: solves the scan elsewhere; in this process if None. Trials, which are small, are made here.
        read_whole: as for :func:`plan_reconstruction`.
        tell: told what is decided, one sentence at a time.
        on_progress: told after every iteration of the solution.
        on_image: given the image whenever the patterns held out have judged it; not where ``solve`` solves elsewhere.

    Raises:
        ConfigurationError: error bars are asked for of a scan that is solved elsewhere.
        Diverged: the loss grows however small the steps are.
    """
    if uncertainty and solve is not None:
        raise ConfigurationError(
            field="uncertainty", found="a scan shared by several workers", expected="a scan solved in one process"
        )
    here = _Here(device, on_image)
    solve = solve or here
    plan = plan_reconstruction(scan, seed=seed, settings=settings, budget_s=budget_s, read_whole=read_whole, tell=tell)
    began = time.process_time()
    assumption = plan.choice.assumption
    examined = plan.examined.scan
    solved = examined.at(transformed_positions(examined.positions_px, assumption.matrix), plan.choice.trial.probe)
    first_px = solved.positions_px
    chosen = {"seed": seed} | plan.settings | dict(settings or {})
    config = RefinementConfig(**chosen)
    judges = max(2, round(min(max(JUDGES / len(solved), LEAST_HELD_OUT), MOST_HELD_OUT) * len(solved)))
    held_out = drawn(surrounded(solved.positions_px), judges, np.random.default_rng((seed, 3)))
    if config.position_start is not None:
        first_config = dataclasses.replace(config, iterations=FIRST_ROUND, centre_start=None, prior="none")
        unseen = np.union1d(held_out, plan.choice.part.judges_of_scan)
        found, _ = solve(solved, first_config, held_out=unseen, judge=None, on_progress=on_progress)
        # With positions and object almost right, what is still missing shows.
        plan.choice.part.go_on(found.positions_px, found.stitched)
        settings_now = assumption.settings | {"position_start": 0}
        probe = fitting(found.probe, solved.probe)
        now = replace(assumption, name="positions found", probe=probe, settings=settings_now, matrix=np.eye(2))

        def decide(line: str) -> None:
            plan.choice.decisions.append(line)
            tell(line)

        best = more_modes(plan.choice.part, now, decide, given=settings or {})
        solved = solved.at(found.positions_px, best.probe)
        config = RefinementConfig(**chosen | best.assumption.settings | dict(settings or {}))
    judge_part = functools.partial(judgement, photons_per_unit=plan.examined.photons_per_unit)
    image, judged = solve(solved, config, held_out=held_out, judge=judge_part, on_progress=on_progress)
    if image.prior is not None:
        config = image.prior.settings(config)
        tell(image.prior.sentence)
    told = tuple(findings(examined, image, assumption.matrix, first_px, len(scan)))
    verdict = judge(judged, told, plan.examined.scan.quantum)
    tell(verdict.sentence)
    made = Automatic(solved, plan, config, image, verdict, held_out, time.process_time() - began)
    if not uncertainty or here.last is None:
        return made
    unit, generator = plan.examined.photons_per_unit, np.random.default_rng((seed, 9))
    bars = error_bars_and_halves(here.last, solved, unit, generator, tell)
    if bars is None:
        return made
    found = replace(made.refinement, stitched=bars.of(made.refinement.stitched))
    return replace(made, refinement=found, error_bars=bars)


class _Here:
    """Solves in this process, and keeps the last refinement."""

    def __init__(
        self, device: torch.device | None, on_image: Callable[[Progress, StitchedObject], None] | None
    ) -> None:
        self.device, self.on_image = device, on_image
        self.last: Refinement | None = None

    def __call__(
        self,
        scan: RawData,
        config: RefinementConfig,
        *,
        held_out: NDArray[np.int64],
        judge: JudgePart | None,
        on_progress: OnProgress | None,
    ) -> tuple[RefinementResult, list[Judgement]]:
        def begin(settings: RefinementConfig) -> Refinement:
            return Refinement(scan, settings, probe=scan.probe, held_out=held_out, device=self.device)

        def finish(refinement: Refinement) -> None:
            for progress in refinement:
                if on_progress is not None:
                    on_progress(progress)
                if self.on_image is not None and progress.r_factor is not None:
                    self.on_image(progress, refinement.stitched())

        choice = None
        if config.prior == "none":
            self.last = begin(config)
            finish(self.last)
        else:
            self.last, choice = choose_prior(config, begin, finish)
        return replace(self.last.result(), prior=choice), [] if judge is None else [judge(self.last)]
