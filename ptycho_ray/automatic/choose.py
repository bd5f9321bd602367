"""What is unknown about a scan, decided by its patterns: short trials on a part of it, greedily.

First the probe and the orientation of the scan, since under a wrong one nothing else can be judged; then, one after the
other, what explains the patterns that judge better than before by more than chance; then, by longer trials on a larger part,
what takes long to show: further modes, the scale and the angle of the scan. What is given is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from ptycho_ray.automatic.electrons import defocus_by_trials
from ptycho_ray.automatic.guesses import rescaled_probe, turned_in_time
from ptycho_ray.automatic.scan_map import scan_map
from ptycho_ray.automatic.thickness import sliced
from ptycho_ray.automatic.trials import Assumption, Part, Trial
from ptycho_ray.refinement.orientation import EIGHT

#: Iterations of the solution, and of a first round where positions move: it finds them, and the second starts again from a flat
#: object.
SOLUTION, FIRST_ROUND = 40, 20
#: Iterations of the trials of the orientation, which differ by more than the others.
COARSE = 6
#: Times the photon noise below which nothing further is asked.
ENOUGH = 1.08
#: Share of the misfit beyond noise; a question whose answer gains less is not asked again.
WORTH_ASKING = 0.02
#: Where the positions begin to move.
POSITIONS_FROM = 2
MOST_MODES = 3
#: Lengths of the prior that the object is smooth: a pattern of few electrons needs it. Each one tried is twice the last.
LEAST_LENGTH_PX, MOST_LENGTH_PX = 0.5, 4.0

#: By how much the logarithm of the amplitude of a phase object moves towards zero in an iteration.
NEAR_ONE = 0.3


@dataclass(frozen=True)
class Choice:
    """The trial whose assumption was chosen, the part of the long trials, and what was decided, one sentence each."""

    trial: Trial
    part: Part
    decisions: list[str]

    @property
    def assumption(self) -> Assumption:
        return self.trial.assumption


def choose(
    part: Part,
    probes: list[Assumption],
    given: Collection[str] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> Choice:
    """Decide by trials on ``part``, beginning with the best of ``probes``.

    Args:
        given: settings of the refinement that are not decided; they are among those of each of ``probes``.
    """
    decisions: list[str] = []

    def decide(line: str) -> None:
        decisions.append(line)
        tell(line)

    best = stored = part.run(probes[0])
    for other in probes[1:]:
        best = better(part.run(other), best)
    if best.assumption.name != probes[0].name and (best.assumption.optics or not part.whole.probe_is_guess):
        decide(f"{best.assumption.name}: {best.gain_over(stored)}")
    best = _orientation(part, best, decide)
    if "probe_start" not in given and best.assumption.settings.get("near_field_px2") is None:
        best = _probe(part, best, decide)
    large = part.larger()
    if part.whole.electrons and part.whole.optics is not None:
        begun = len(part.trials)
        best = _thick_at_first(large, best, decide, given)
        part.allowed += sum(trial.work for trial in part.trials[begun:])
    questions = {name: question for name, question in QUESTIONS.items() if not set(DECIDES[name]) & set(given)}
    best = _further(part, best, decide, questions)
    if "position_start" in best.assumption.settings:  # modes are asked for once they are found: more_modes
        best = _mapped(part, large, best, decide)
    elif part.affords(_solution(best.assumption)):
        best = at_last(large, _at_length(part, large, best, decide, questions), decide, given)
    else:
        best = smoothed(part, best, decide, given)
    return Choice(best, large, decisions)


def better(one: Trial, other: Trial) -> Trial:
    """The one that beats the other; the second in doubt."""
    return one if one.beats(other, as_simple=True) else other


def _solution(assumption: Assumption) -> float:
    """Iterations times modes times slices of the solution under an assumption."""
    modes = assumption.settings.get("probe_modes") or len(assumption.probe)
    return SOLUTION * modes * assumption.settings.get("slices", 1) + (
        FIRST_ROUND if "position_start" in assumption.settings else 0
    )


def _orientation(part: Part, best: Trial, decide: Callable[[str], None]) -> Trial:
    """All orientations, each as coarse; one is taken if it beats that of the file clearly.

    A scan turned by half a turn explains as much as the twin of the probe does, its other sign of defocus: the latter is taken.
    """
    trials = []
    for each in EIGHT:  # the one of the file is the first
        assumption = replace(best.assumption, name="scan axes", matrix=each.matrix @ best.assumption.matrix)
        trials.append(part.run(assumption, COARSE))
    stored, number = trials[0], 1
    for other in range(2, len(trials)):
        number = other if trials[other].gain_over(trials[number]).share > 0 else number
    twin = EIGHT.index(EIGHT[number].turned())
    rival = trials[number]
    if number == 0 or not rival.beats(stored, as_simple=True):
        return best
    gain = rival.gain_over(stored)
    if twin == 0 and "near_field_px2" not in best.assumption.settings:
        name = "probe of the other defocus, or the scan turned by half a turn"
        decide(f"{name}: {gain}")
        probe = turned_in_time(best.assumption.probe)
        return part.run(replace(best.assumption, name=name, probe=probe, optics=None))
    # Under a probe that is nearly its own twin, a scan turned by half a turn explains nearly as much: it takes longer to tell.
    first, last = (part.run_long(trials[k].assumption) for k in sorted((number, twin)))
    rival = better(last, first)
    decide(f"scan axes {rival.assumption.matrix.astype(int).tolist()}: {gain}")
    return part.run(rival.assumption)


def _probe(part: Part, best: Trial, decide: Callable[[str], None]) -> Trial:
    """Held or refined, and other widths; of a lens, other defocus."""
    if best.assumption.optics is not None:
        best = defocus_by_trials(part, best, decide)
    first = best.assumption
    held = replace(first, name="probe held", settings=first.settings | {"probe_start": None})
    alternatives = [held] if first.optics is None else []  # the probe of a lens is nearly right: long trials ask
    if first.optics is not None and first.settings.get("probe_start", 0) is None:
        settings = {name: value for name, value in first.settings.items() if name != "probe_start"}
        alternatives.append(replace(first, name="probe refined", settings=settings))
    for factor in (0.8, 1.25) if first.optics is None else ():
        probe = rescaled_probe(first.probe, factor)
        alternatives.append(replace(first, name=f"probe {factor:g} times as wide", probe=probe))
    for alternative in alternatives:
        trial = part.run(alternative)
        if trial.beats(best, as_simple=alternative.settings == best.assumption.settings):
            decide(f"{alternative.name}: {trial.gain_over(best)}")
            best = trial
    return best


def _thick_at_first(part: Part, best: Trial, decide: Callable[[str], None], given: Collection[str]) -> Trial:
    """Slices and tilt before the other unknowns: moving positions and further modes would explain a part of a thick sample."""
    begun = part.run_long(replace(best.assumption, probe=best.probe))
    if not _something_is_missing(begun):
        return best
    best = sliced(part, begun, decide, given)
    if "probe_start" not in given and best.assumption.optics is not None:
        settings = best.assumption.settings | {"probe_start": None}
        held = part.run_long(replace(best.assumption, name="probe held", settings=settings))
        if held.beats(best, as_simple=True):
            decide(f"{held.assumption.name}: {held.gain_over(best)}")
            best = held
    return best


def _at_length(
    part: Part, large: Part, best: Trial, decide: Callable[[str], None], questions: Mapping[str, Question]
) -> Trial:
    """A long trial; if it leaves more than noise, the map of the scan and further modes."""
    long = large.run_long(replace(best.assumption, probe=best.probe))
    if not _something_is_missing(long):
        return long
    mapped = _mapped(part, large, long, decide)
    if mapped is not long:
        long = large.run_long(replace(long.assumption, matrix=mapped.assumption.matrix))
    return _further(large, long, decide, {"modes": _one_mode_more} if "modes" in questions else {}, long=True)


def _mapped(part: Part, large: Part, best: Trial, decide: Callable[[str], None]) -> Trial:
    """``best`` with the step, the angle and the drift of the scan that :func:`.scan_map.scan_map` finds."""
    if not part.affords(_solution(best.assumption), something_is_wrong=True):
        return best
    found = scan_map(part, large, best)
    if found.trial is None:
        return best
    decide(f"{found.trial.assumption.name}: {found.gain}")
    return replace(best, assumption=replace(best.assumption, matrix=found.trial.assumption.matrix))


def _something_is_missing(trial: Trial) -> bool:
    figures = trial.figures
    return figures is not None and not (figures.noise_is_known and figures.times_noise < ENOUGH)


def more_modes(part: Part, now: Assumption, tell: Callable[[str], None], given: Collection[str] = ()) -> Trial:
    """Whether the beam has more incoherent modes, once positions and object are almost right: a mode takes long to form."""
    best = part.run_long(now)
    questions = {} if set(DECIDES["modes"]) & set(given) else {"modes": _one_mode_more}
    return at_last(part, _further(part, best, tell, questions, long=True), tell, given)


def at_last(part: Part, best: Trial, tell: Callable[[str], None], given: Collection[str] = ()) -> Trial:
    """What a long trial that leaves more than noise is asked last: the thickness of the sample, and whether it is smooth; of
    electrons in any case whether it changes their phase alone."""
    if _something_is_missing(best):
        if "slices" not in best.assumption.settings:
            best = sliced(part, best, tell, given)
        best = smoothed(part, best, tell, given, long=True)
    if not part.whole.electrons or set(DECIDES["phase object"]) & set(given):
        return best
    return _further(part, best, tell, {"phase object": _phase_object}, long=True)


def smoothed(
    part: Part, best: Trial, tell: Callable[[str], None], given: Collection[str] = (), *, long: bool = False
) -> Trial:
    """Whether patterns of few electrons want the prior that the object is smooth; asked last: a smooth object also hides
    what an unknown that is missing does to the image."""
    if not _something_is_missing(best) or set(DECIDES["smoothness"]) & set(given):
        return best
    return _further(part, best, tell, {"smoothness": _smoother}, long=long)


Question = Callable[[Assumption], Assumption | None]


def _further(
    part: Part,
    best: Trial,
    decide: Callable[[str], None],
    questions: Mapping[str, Question],
    *,
    long: bool = False,
) -> Trial:
    """One unknown after the other, the one that explains most first, until none explains more; by ``long`` trials, which have
    found their probe already, or others."""
    open_questions = dict(questions)
    tried = part.run_long if long else part.run
    while open_questions and (part.within_budget if long else part.affords(_solution(best.assumption))):
        if not long:
            best = tried(replace(best.assumption, probe=best.probe))
        asked = {name: question(best.assumption) for name, question in open_questions.items()}
        answers = {name: tried(assumption) for name, assumption in asked.items() if assumption is not None}
        answers = {name: trial for name, trial in answers.items() if trial.gain_over(best).share > WORTH_ASKING}
        open_questions = {name: open_questions[name] for name in answers}
        taken = {
            name: trial for name, trial in answers.items() if trial.beats(best, as_simple=name in WITHOUT_UNKNOWNS)
        }
        if not taken:
            return best
        name = max(taken, key=lambda name: taken[name].gain_over(best).share)
        decide(f"{taken[name].assumption.name}: {taken[name].gain_over(best)}")
        best = taken[name]
        if name not in ASKED_AGAIN:
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
    settings = {"background_start": 2, "background_model": "smooth"}
    return replace(now, name="smooth background", settings=now.settings | settings)


def _smoother(now: Assumption) -> Assumption | None:
    length = 2 * now.settings.get("smoothing_length_px", LEAST_LENGTH_PX / 2)
    if length > MOST_LENGTH_PX:
        return None
    settings = now.settings | {"smoothing_length_px": length}
    return replace(now, name=f"object smooth over {length:g} px", settings=settings)


def _phase_object(now: Assumption) -> Assumption:
    return replace(now, name="amplitudes near one", settings=now.settings | {"phase_object": NEAR_ONE})


QUESTIONS: dict[str, Question] = {
    "modes": _one_mode_more,
    "positions": _positions,
    "intensities": _intensities,
    "background": _background,
}
#: Settings that answer a question.
DECIDES = {
    "modes": ("probe_modes", "probe_start"),
    "positions": ("position_start",),
    "intensities": ("intensity_start",),
    "background": ("background_start", "background_model"),
    "smoothness": ("smoothing_length_px", "method"),
    "phase object": ("phase_object",),
}
#: Questions whose answer may be more of the same, and those whose answer has no unknown that could fit noise.
ASKED_AGAIN, WITHOUT_UNKNOWNS = ("modes", "smoothness"), ("smoothness", "phase object")
