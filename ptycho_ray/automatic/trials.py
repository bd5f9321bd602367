"""Short refinements of a part of a scan, each under another assumption, judged by patterns that took no part in them.

Legend: n patterns of the part, k of them judged, N pattern side, P probe modes.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho_ray.data.position_maps import transformed_positions
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.setup import MOST_IN_BORDER, share_in_border
from ptycho_ray.refinement.slab import Slab
from ptycho_ray.refinement.solver import Diverged, Refinement
from ptycho_ray.refinement.unseen import PatternFigures

#: Patterns of the part: a quarter of the scan, within these limits. The share of them that judge, and how far out of its middle
#: they may lie (of its radius).
LEAST_PATTERNS, MOST_PATTERNS, JUDGES, INNER = 64, 160, 0.16, 0.75
#: Neighbours by which it is told whether a pattern lies inside the scan, and the widest gap between two of them, in half turns.
NEIGHBOURS, WIDEST_GAP = 8, 0.8
#: Iterations of a trial; of a long one, on so many patterns and with so many of them an update.
ITERATIONS, LONG, LONG_PATTERNS, LONG_BATCH = 12, 24, 240, 16
#: What trials set themselves, whatever is given for the solution.
OF_TRIALS = (
    "iterations", "seed", "check_every", "held_out_fraction", "patience", "centre_start", "batch_size", "prior",
)  # fmt: skip
#: Trials may cost so many times the solution, and more if their best leaves something unexplained; in any case so much work
#: (iterations * modes * slices * patterns * pixels, a few seconds).
SHARE_OF_SOLUTION, SHARE_IF_WRONG, LEAST_WORK = 1.5, 2.5, 1.5e8
#: A gain counts if it is that many times its own standard error, and at least that share of the misfit beyond the photon
#: noise, less if nothing is added that could fit noise; of all the misfit where the photons are not known. Noise is never taken
#: to be more than the rest of 1.
SIGNIFICANCE, LEAST_SHARE, LEAST_SHARE_AS_SIMPLE, LEAST_SHARE_OF_ALL, LEAST_BEYOND = 3.0, 0.1, 0.02, 0.003, 0.05


class Gain(NamedTuple):
    """By which share of another trial's misfit beyond the noise a trial is better, and how clearly
    (:meth:`PatternFigures.significance_over`)."""

    share: float
    significance: float

    def __str__(self) -> str:
        return f"{self.share:.0%} of the misfit beyond noise less, {self.significance:.1f} standard errors"


@dataclass(frozen=True)
class Assumption:
    """What a trial assumes.

    Attributes:
        name: in the words of the report.
        probe: modes to begin with [P, N, N].
        settings: settings of the refinement that differ from its defaults.
        matrix: linear map of the positions about their mean, [2, 2].
        optics: of an electron microscope, that formed the probe; None if the probe does not come from them.
    """

    name: str
    probe: NDArray[np.complex64]
    settings: dict[str, Any] = field(default_factory=dict)
    matrix: NDArray[np.float64] = field(default_factory=lambda: np.eye(2))
    optics: ElectronOptics | None = None


@dataclass(frozen=True)
class Trial:
    """A trial and how well it explained the patterns that judge.

    Attributes:
        assumption: what it assumed.
        figures: one row per judge; None if the refinement diverged.
        seconds: processor seconds.
        probe: modes after it [P, N, N], if they are :func:`fitting`.
        work: iterations * modes * slices * patterns * pixels.
        slab: thickness and tilt of a thick sample, as it found them.
    """

    assumption: Assumption
    figures: PatternFigures | None
    seconds: float
    probe: NDArray[np.complex64]
    work: float
    slab: Slab | None = None

    def gain_over(self, other: Trial) -> Gain:
        """How much better this trial explains the patterns that judge than another one."""
        if self.figures is None or other.figures is None:
            return Gain(-np.inf if self.figures is None else np.inf, np.inf)
        ours, theirs = self.figures, other.figures
        beyond = theirs.misfit.sum() - (theirs.noise.sum() if theirs.noise_is_known else 0.0)
        share = (theirs.misfit.sum() - ours.misfit.sum()) / max(beyond, LEAST_BEYOND * theirs.misfit.sum())
        return Gain(float(share), ours.significance_over(theirs))

    def beats(self, other: Trial, *, as_simple: bool = False) -> bool:
        """Whether it is better than the other by more than chance explains, and by enough to matter.

        ``as_simple``: it has no unknown that the other has not.
        """
        gain = self.gain_over(other)
        known = other.figures is not None and other.figures.noise_is_known
        least = (LEAST_SHARE_AS_SIMPLE if as_simple else LEAST_SHARE) if known else LEAST_SHARE_OF_ALL
        return gain.significance > SIGNIFICANCE and gain.share > least


class Part:
    """The patterns around the middle of a scan, some of which judge.

    Args:
        scan: the whole scan.
        seed: of the judges and of each refinement.
        most: patterns taken; a quarter of the scan if None.
        photons_per_unit: photons per unit of the scan's intensity; None if not known.
        budget_s: processor seconds after which nothing further is tried; no limit if None.
        trials: where trials are added.

    Attributes:
        allowed: work that trials may cost beside what the solution allows.
    """

    def __init__(
        self,
        scan: RawData,
        seed: int,
        *,
        most: int | None = None,
        photons_per_unit: float | None = None,
        budget_s: float | None = None,
        trials: list[Trial] | None = None,
    ) -> None:
        most = most or min(max(LEAST_PATTERNS, len(scan) // 4), MOST_PATTERNS)
        self.whole, self.seed, self.photons_per_unit, self.budget_s = scan, seed, photons_per_unit, budget_s
        self.trials: list[Trial] = [] if trials is None else trials
        middle = np.median(scan.positions_px, axis=0)
        distance = np.linalg.norm(scan.positions_px - middle, axis=1)
        rows = np.sort(np.argsort(distance, kind="stable")[:most])
        self.rows, self.scan = rows, scan.select(rows)
        self.start: StitchedObject | None = None
        self.allowed = 0.0
        radius = distance[rows].max()
        inner = (distance[rows] <= INNER * radius) & surrounded(scan.positions_px)[rows]
        self.judges = drawn(inner, max(2, round(JUDGES * len(rows))), np.random.default_rng((seed, 7)))

    def larger(self) -> Part:
        """The part of the long trials, with the same table of trials."""
        return Part(
            self.whole, self.seed, most=LONG_PATTERNS, photons_per_unit=self.photons_per_unit,
            budget_s=self.budget_s, trials=self.trials,
        )  # fmt: skip

    @property
    def judges_of_scan(self) -> NDArray[np.int64]:
        """The numbers of the judges in the whole scan."""
        return self.rows[self.judges]

    @property
    def within_budget(self) -> bool:
        """Whether the limit in seconds, if there is one, is not yet reached."""
        return self.budget_s is None or sum(trial.seconds for trial in self.trials) < self.budget_s

    def affords(self, solution: float, *, something_is_wrong: bool = False) -> bool:
        """Whether a further trial may be made, for a solution of so many iterations times modes."""
        share = SHARE_IF_WRONG if something_is_wrong else SHARE_OF_SOLUTION
        limit = max(share * solution * len(self.whole) * self.whole.N**2, LEAST_WORK)
        return self.within_budget and sum(trial.work for trial in self.trials) < limit + self.allowed

    def go_on(self, positions_px: NDArray[np.float64], start: StitchedObject) -> None:
        """Let further trials begin with positions [n, 2] of the whole scan and an object that the judges took no part in."""
        self.scan, self.start = self.scan.at(positions_px[self.rows]), start

    def run_long(self, assumption: Assumption) -> Trial:
        """A long trial."""
        return self.run(assumption, LONG, batch_size=LONG_BATCH)

    def run(self, assumption: Assumption, iterations: int = ITERATIONS, *, batch_size: int | None = None) -> Trial:
        """Refine from a flat object, or what :meth:`go_on` was given, under an assumption, and judge."""
        began = time.process_time()
        settings: dict[str, Any] = {name: value for name, value in assumption.settings.items() if name not in OF_TRIALS}
        settings |= {"iterations": iterations, "seed": self.seed, "check_every": iterations + 1, "centre_start": None}
        config = RefinementConfig(**settings, batch_size=batch_size)
        scan = self.scan.at(transformed_positions(self.scan.positions_px, assumption.matrix))
        probe, figures, slab = assumption.probe, None, None
        try:
            with _quiet():
                refinement = Refinement(scan, config, start=self.start, probe=probe, held_out=self.judges)
                for _ in refinement:
                    pass
        except Diverged:
            pass
        except InputError as error:
            if error.field != "probeGuess" or not self.trials:  # a probe that is wider than its window explains nothing
                raise
        else:
            figures = refinement.judge_unseen(self.judges, self.photons_per_unit)
            found = refinement.result()
            probe, slab = fitting(found.probe, probe), found.slab
        modes = config.probe_modes or len(assumption.probe)
        work = float(iterations * modes * config.slices * len(self.rows) * scan.N**2)
        trial = Trial(assumption, figures, time.process_time() - began, probe, work, slab)
        self.trials.append(trial)
        return trial


def fitting(found: NDArray[np.complex64], begun: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The modes that were found [P, N, N]; those that were begun with, if the others fill their window, where only noise is."""
    return found if share_in_border(torch.from_numpy(found)) <= MOST_IN_BORDER else begun


def surrounded(positions_px: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of the positions [n, 2] have neighbours on all sides, bool [n]: what a pattern at the rim shows, no other one saw.

    Of the eight nearest neighbours no two that follow each other around the position may be ``WIDEST_GAP`` apart or more.
    """
    neighbours = min(NEIGHBOURS, len(positions_px) - 1)
    _, nearest = cKDTree(positions_px).query(positions_px, k=neighbours + 1)
    away = positions_px[nearest[:, 1:]] - positions_px[:, None]
    angles = np.sort(np.arctan2(away[..., 0], away[..., 1]), axis=1)
    gaps = np.diff(angles, axis=1, append=angles[:, :1] + 2 * np.pi)
    return np.asarray(gaps.max(axis=1) < WIDEST_GAP * np.pi)


def drawn(candidates: NDArray[np.bool_], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """``count`` of the patterns that are ``candidates`` [n], of all if there are too few."""
    rows = np.flatnonzero(candidates) if candidates.sum() >= 2 * count else np.arange(len(candidates))
    return np.sort(generator.choice(rows, size=min(count, len(rows)), replace=False))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A trial may go wrong without a word: that is what it is for."""
    logger = logging.getLogger("ptycho_ray.refinement")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
