"""What is unknown about a scan, decided by its patterns: short trials on a part of it, greedily.

First the probe and the orientation of the scan, since under a wrong one nothing else can be judged; then, one after the other,
what explains the patterns that judge better than before by more than chance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.automatic.guesses import rescaled_probe, turned_in_time
from ptycho_ray.automatic.trials import ITERATIONS, LEAST_SHARE, SIGNIFICANCE, Assumption, Part, Trial
from ptycho_ray.refinement.orientation import EIGHT

#: Iterations of the trials of the orientation, which differ by more than the others.
COARSE = 6
#: Iterations of those of further modes.
SLOW = 36
#: Times the photon noise below which nothing further is asked.
ENOUGH = 1.08
#: Scale and angle are asked for until the trials have cost as much as so many passes over the whole scan.
MOST_PASSES = 60
#: First step of the scale of the scan, and of its angle in radians.
STEP = 0.03
#: Where the positions begin to move.
POSITIONS_FROM = 2
MOST_MODES = 3


@dataclass(frozen=True)
class Choice:
    """The trial whose assumption was chosen, and what was decided, one sentence each."""

    trial: Trial
    decisions: list[str]

    @property
    def assumption(self) -> Assumption:
        return self.trial.assumption


def choose(part: Part, probes: list[Assumption], tell: Callable[[str], None] = lambda line: None) -> Choice:
    """Decide by trials on ``part``, beginning with the best of ``probes``."""
    decisions: list[str] = []

    def decide(line: str) -> None:
        decisions.append(line)
        tell(line)

    best = part.run(probes[0])
    for other in probes[1:]:
        best = better(part.run(other), best)
    best = _orientation(part, best, decide)
    best = _probe(part, best, decide)
    best = _further(part, best, decide, QUESTIONS)
    if "position_start" not in best.assumption.settings:
        best = _slowly(part, best, decide)
    return Choice(best, decisions)


def better(one: Trial, other: Trial) -> Trial:
    """The one that beats the other; the second in doubt."""
    return one if one.beats(other) else other


def _orientation(part: Part, best: Trial, decide: Callable[[str], None]) -> Trial:
    """The other seven orientations, all as coarse; one is taken if it beats that of the file clearly."""
    trials = []
    for each in EIGHT:  # the one of the file is the first
        assumption = replace(best.assumption, name="scan axes", matrix=each.matrix @ best.assumption.matrix)
        trials.append(part.run(assumption, COARSE))
    stored, number = trials[0], 1
    for other in range(2, len(trials)):
        number = other if trials[other].gain_over(trials[number]).share > 0 else number
    # Under a probe that is its own twin, a scan turned by half a turn explains as much; the first of the two is taken.
    twin = EIGHT.index(EIGHT[number].turned())
    if twin < number and not trials[number].beats(trials[twin]):
        number = twin
    rival = trials[number]
    if not rival.beats(stored):
        return best
    decide(f"scan axes {rival.assumption.matrix.astype(int).tolist()}: {rival.gain_over(stored)}")
    return part.run(rival.assumption)


def _probe(part: Part, best: Trial, decide: Callable[[str], None]) -> Trial:
    """Held or refined, its twin in time (the other sign of defocus), and other widths."""
    first = best.assumption
    alternatives = [replace(first, name="probe held", settings=first.settings | {"probe_start": None})]
    alternatives.append(replace(first, name="probe of the other defocus", probe=turned_in_time(first.probe)))
    for factor in (0.8, 1.25):
        probe = rescaled_probe(first.probe, factor)
        alternatives.append(replace(first, name=f"probe {factor:g} times as wide", probe=probe))
    for alternative in alternatives:
        trial = part.run(alternative)
        if trial.beats(best):
            decide(f"{alternative.name}: {trial.gain_over(best)}")
            best = trial
    return best


def _slowly(part: Part, best: Trial, decide: Callable[[str], None]) -> Trial:
    """If long trials leave more than noise, ask what takes long to show: the scale and angle of the scan, and modes."""
    long = part.run(replace(best.assumption, probe=best.probe), SLOW)
    if long.figures is None or (long.figures.noise_is_known and long.figures.times_noise < ENOUGH):
        return long
    long = _further(part, long, decide, {"modes": _one_mode_more}, SLOW)
    for name, matrix in (("scale", np.diag([STEP, STEP])), ("angle", np.array([[0.0, -STEP], [STEP, 0.0]]))):
        if part.passes < MOST_PASSES:
            long = _along(part, long, name, matrix, decide)
    return long


def _along(part: Part, best: Trial, name: str, step: NDArray[np.float64], decide: Callable[[str], None]) -> Trial:
    """The best linear map of the scan along one direction: a step to either side, then the lowest point of a parabola.

    A refinement does not find it: the object follows positions that are too far apart, and shows it only where it is thick.
    """

    def at(share: float) -> Trial:
        matrix = (np.eye(2) + share * step) @ best.assumption.matrix
        return part.run(replace(best.assumption, name=f"{name} of the scan {share * STEP:+.3f}", matrix=matrix), SLOW)

    low, high = at(-1), at(1)
    if low.figures is None or high.figures is None or best.figures is None:
        return best
    below, here, above = (trial.figures.misfit.sum() for trial in (low, best, high) if trial.figures is not None)
    curvature = below - 2 * here + above
    if curvature <= 0:
        return best
    lowest = at(float(np.clip((below - above) / (2 * curvature), -2, 2)))
    gain = lowest.gain_over(best)
    if gain.significance < SIGNIFICANCE or gain.share < LEAST_SHARE / 2:
        return best
    decide(f"{lowest.assumption.name}: {gain}")
    return lowest


def more_modes(part: Part, now: Assumption, tell: Callable[[str], None]) -> Trial:
    """Whether the beam has more incoherent modes, once positions and object are almost right: a mode takes long to form."""
    return _further(part, part.run(now, SLOW), tell, {"modes": _one_mode_more}, SLOW)


def _further(
    part: Part,
    best: Trial,
    decide: Callable[[str], None],
    questions: Mapping[str, Callable[[Assumption], Assumption | None]],
    iterations: int = ITERATIONS,
) -> Trial:
    """One unknown after the other, the one that explains most first, until none explains more."""
    open_questions = dict(questions)
    while open_questions:
        if iterations == ITERATIONS:  # long trials have found their probe already
            best = part.run(replace(best.assumption, probe=best.probe), iterations)
        answers: dict[str, Trial] = {}
        for name, question in open_questions.items():
            assumption = question(best.assumption)
            if assumption is not None:
                answers[name] = part.run(assumption, iterations)
        answers = {name: trial for name, trial in answers.items() if trial.gain_over(best).share > 0}
        open_questions = {name: open_questions[name] for name in answers}
        taken = {name: trial for name, trial in answers.items() if trial.beats(best)}
        if not taken:
            return best
        name = max(taken, key=lambda name: taken[name].gain_over(best).share)
        decide(f"{taken[name].assumption.name}: {taken[name].gain_over(best)}")
        best = taken[name]
        if name != "modes":
            del open_questions[name]
    return best


def _one_mode_more(now: Assumption) -> Assumption | None:
    modes = now.settings.get("probe_modes", len(now.probe)) + 1
    if modes > MOST_MODES:
        return None
    return replace(now, name=f"{modes} probe modes", settings=now.settings | {"probe_modes": modes, "probe_start": 0})


def _positions(now: Assumption) -> Assumption:
    return replace(now, name="positions refined", settings=now.settings | {"position_start": POSITIONS_FROM})


def _intensities(now: Assumption) -> Assumption:
    return replace(now, name="intensity of each pattern", settings=now.settings | {"intensity_start": 2})


def _background(now: Assumption) -> Assumption:
    return replace(now, name="background", settings=now.settings | {"background_start": 2})


QUESTIONS: dict[str, Callable[[Assumption], Assumption | None]] = {
    "modes": _one_mode_more,
    "positions": _positions,
    "intensities": _intensities,
    "background": _background,
}
