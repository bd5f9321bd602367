"""The end of a sweep over the experiment: the lowest point near its best trial, and how well the data determine it.

Around the best trial, values are compared in pairs: the same held-out patterns judge both, so the mean of their differences and
its standard error say whether one explains more than the other. Along every parameter a step is sought that is told apart
clearly on both sides; through these steps and their combinations goes a quadratic for each pattern. The mean of the quadratics
has the lowest point, their scatter says how far it could lie elsewhere (the "sandwich" covariance of an estimate).

Nothing is drawn at random. Legend: d parameters in units of their range, 0 to 1, k held-out patterns.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.tuning.parameter import Parameter, Values

Array = NDArray[np.float64]
#: The loss of each held-out pattern [k] at each of some points; None where a trial failed.
Evaluate = Callable[[Sequence[Values]], Sequence[Array | None]]

#: First step, shortest and longest one, in ranges, and the rounds in which they are adapted.
FIRST_STEP, SHORTEST, LONGEST, MOST_ROUNDS = 0.08, 0.005, 0.5, 9
#: Moves to the lowest point of a quadratic, and in steps along a parameter the longest one and the shortest but the last.
MOST_MOVES, LONGEST_MOVE, NEAR = 6, 2.0, 0.3
#: Standard errors by which two values are told apart, and those that a good step is told by at most.
TOLD_APART, TOO_FAR = 2.0, 6.0
#: Correlation from which on two parameters are named as a pair.
CORRELATED = 0.9


@dataclass(frozen=True)
class Estimate:
    """A parameter after the polish.

    Attributes:
        low, high: between these values the held-out patterns cannot tell it from ``value`` by two standard errors, whatever the
            other parameters are; the whole range if they never can.
        determined: whether the data determine it.
    """

    name: str
    value: float
    low: float
    high: float
    determined: bool


@dataclass(frozen=True)
class Polished:
    """What the polish found.

    Attributes:
        values: all parameters of the best point.
        gain: mean loss at the start minus that of the best point, and in standard errors over the patterns.
        correlated: pairs that the data determine only together: a change of one can be made up for by the other.
        evaluations: trials that it took.
    """

    values: Values
    estimates: tuple[Estimate, ...]
    gain: float
    significance: float
    correlated: tuple[tuple[str, str, float], ...] = ()
    evaluations: int = 0


@dataclass
class _Axes:
    """The parameters that are polished, as coordinates 0 to 1, and every point that was evaluated."""

    parameters: Sequence[Parameter]
    others: Values
    evaluate: Evaluate
    known: dict[tuple[float, ...], Array | None] = field(default_factory=dict)

    def to_unit(self, values: Values) -> Array:
        return np.array([p.share_of(float(values[p.name])) for p in self.parameters])

    def values(self, point: Array) -> Values:
        return self.others | {p.name: p.at_share(float(x)) for p, x in zip(self.parameters, point, strict=True)}

    def losses(self, points: Sequence[Array]) -> list[Array | None]:
        """Those of each point; only new ones are evaluated, together."""
        keys = [tuple(np.round(point, 9)) for point in points]
        new = {key: point for key, point in zip(keys, points, strict=True) if key not in self.known}
        found = self.evaluate([self.values(point) for point in new.values()]) if new else []
        self.known.update(zip(new, found, strict=True))
        return [self.known[key] for key in keys]


def polish(parameters: Sequence[Parameter], best: Values, evaluate: Evaluate) -> Polished:
    """Improve the parameters of the best trial, and say how well they are determined.

    Args:
        parameters: those to be polished, each continuous.
        best: parameters of the best trial.

    Raises:
        ArithmeticError: the best trial failed when it was repeated.
    """
    axes = _Axes(parameters, dict(best), evaluate)
    first = axes.to_unit(best)
    start = axes.losses([first])[0]
    if start is None:
        raise ArithmeticError("the best trial failed when it was repeated")
    centre, steps = _told_apart_steps(axes, first)
    told = _told_apart(axes, centre, steps)
    determined = [i for i in range(len(centre)) if min(told[i]) >= TOLD_APART]
    centre, model = _lowest(axes, centre, steps, determined)
    estimates, correlated = _estimates(axes, centre, steps, told, determined, model)
    end = axes.losses([centre])[0]
    assert end is not None
    return Polished(
        axes.values(centre), estimates, float((start - end).mean()), _significance(start - end), correlated,
        len(axes.known),
    )  # fmt: skip


def _told_apart_steps(axes: _Axes, centre: Array) -> tuple[Array, Array]:
    """The lowest centre among those tried, and for each parameter a step that is told apart clearly but not by far."""
    steps = np.full(len(centre), FIRST_STEP)
    lengthened = np.zeros(len(centre), dtype=bool)  # and not shortened again
    for _ in range(MOST_ROUNDS):
        sides = _sides(centre, steps)
        here, *losses = axes.losses([centre, *itertools.chain(*sides)])
        assert here is not None
        points = list(itertools.chain(*sides))
        better = [
            (loss.mean(), number)
            for number, loss in enumerate(losses)
            if loss is not None and loss.mean() < here.mean() and not np.array_equal(points[number], centre)
        ]
        if better:  # the lowest of all, before anything is said of steps
            centre = points[min(better)[1]]
            continue
        before = steps.copy()
        for i, sides_told in enumerate(_told_apart(axes, centre, steps)):
            if min(sides_told) < TOLD_APART:
                steps[i], lengthened[i] = min(2 * steps[i], LONGEST), True
            elif min(sides_told) > TOO_FAR and not lengthened[i]:
                steps[i] = max(steps[i] / 2, SHORTEST)
        if np.array_equal(steps, before):
            break
    return centre, steps


def _lowest(axes: _Axes, centre: Array, steps: Array, which: list[int]) -> tuple[Array, _Quadratic | None]:
    """The centre after steps to the lowest point of quadratics, as long as they lower the mean loss, and the last quadratic."""
    model = _Quadratic.around(axes, centre, steps, which)
    for _ in range(MOST_MOVES):
        if model is None:
            break
        move = model.lowest()
        lowest = np.clip(centre + move, 0, 1)
        before, after = axes.losses([centre, lowest])
        if before is None or after is None or after.mean() >= before.mean():
            break
        centre = lowest
        if np.all(np.abs(move) < NEAR * steps):
            break
        nearer = _Quadratic.around(axes, centre, steps, which)
        if nearer is None:
            break
        model = nearer
    return centre, model


def _sides(centre: Array, steps: Array) -> list[tuple[Array, Array]]:
    """A step down and one up along every parameter, within the range."""
    made = []
    for i, step in enumerate(steps):
        down, up = centre.copy(), centre.copy()
        down[i], up[i] = max(0.0, centre[i] - step), min(1.0, centre[i] + step)
        made.append((down, up))
    return made


def _told_apart(axes: _Axes, centre: Array, steps: Array) -> list[tuple[float, float]]:
    """By how many standard errors the steps down and up are worse; zero where the range ends, infinite where a trial fails."""
    sides = _sides(centre, steps)
    here, *losses = axes.losses([centre, *itertools.chain(*sides)])
    assert here is not None
    told = [math.inf if loss is None else _significance(loss - here) for loss in losses]
    return list(zip(told[::2], told[1::2], strict=True))


def _significance(differences: Array) -> float:
    """Mean in units of its standard error; zero for a single pattern or for none."""
    if len(differences) < 2 or not differences.any():
        return 0.0
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return float(differences.mean() / max(error, 1e-300))


@dataclass(frozen=True)
class _Quadratic:
    """Gradient [k, m] and curvature [k, m, m] of each pattern's loss along m parameters, per step."""

    which: list[int]
    steps: Array
    gradient: Array
    curvature: Array

    @classmethod
    def around(cls, axes: _Axes, centre: Array, steps: Array, which: list[int]) -> _Quadratic | None:
        """Through the centre, the steps along every parameter and those along two; None if a trial failed or the range
        ends too near."""
        steps = np.array([min(step, x, 1 - x) for step, x in zip(steps, centre, strict=True)])
        which = [i for i in which if steps[i] >= SHORTEST]
        moves = np.diag(steps)
        pairs = list(itertools.combinations(which, 2))
        points = [centre]
        for i in which:
            points += [centre - moves[i], centre + moves[i]]
        points += [centre + moves[i] + moves[j] for i, j in pairs]
        losses = axes.losses(points)
        if not which or any(loss is None for loss in losses):
            return None
        here, *rest = (np.asarray(loss) for loss in losses)
        down, up, both = rest[: 2 * len(which) : 2], rest[1 : 2 * len(which) : 2], rest[2 * len(which) :]
        gradient = np.stack([(b - a) / 2 for a, b in zip(down, up, strict=True)], axis=1)
        curvature = np.zeros((len(here), len(which), len(which)))
        for n in range(len(which)):
            curvature[:, n, n] = down[n] + up[n] - 2 * here
        for (i, j), loss in zip(pairs, both, strict=True):
            a, b = which.index(i), which.index(j)
            curvature[:, a, b] = curvature[:, b, a] = loss - up[a] - up[b] + here
        return cls(which, steps, gradient, curvature)

    def loose(self) -> Array | None:
        """The combination of parameters [m] whose curvature the patterns do not tell from none; None if there is none."""
        mean = self.curvature.mean(axis=0)
        scale = 1 / np.sqrt(np.maximum(np.diag(mean), 1e-300))
        values, vectors = np.linalg.eigh(mean * scale[:, None] * scale)
        direction = vectors[:, 0]
        along = np.einsum("i,kij,j->k", direction * scale, self.curvature, direction * scale)
        return direction if values[0] <= 0 or _significance(along) < TOLD_APART else None

    def _inverse(self) -> Array:
        """The inverse of the mean curvature; along what is loose as if the parameters were independent."""
        mean = self.curvature.mean(axis=0)
        if self.loose() is not None:
            mean = np.diag(np.maximum(np.diag(mean), 1e-300))
        inverse: Array = np.linalg.inv(mean)
        return inverse

    def lowest(self) -> Array:
        """From the centre to the lowest point of the mean, [d], at most ``LONGEST_MOVE`` steps along any parameter."""
        move = -self._inverse() @ self.gradient.mean(axis=0)
        made = np.zeros(len(self.steps))
        made[self.which] = move * min(1.0, LONGEST_MOVE / max(np.abs(move).max(), 1e-300)) * self.steps[self.which]
        return made

    def covariance(self) -> Array:
        """Of the lowest point, [m, m], in units of ranges."""
        inverse = self._inverse()
        at = np.clip(-inverse @ self.gradient.mean(axis=0), -1, 1)
        slopes = self.gradient + np.einsum("kij,j->ki", self.curvature, at)
        scatter = np.atleast_2d(np.cov(slopes, rowvar=False)) / len(slopes)
        steps = self.steps[self.which]
        found: Array = inverse @ scatter @ inverse * steps[:, None] * steps
        return found


def _estimates(
    axes: _Axes, centre: Array, steps: Array, told: list[tuple[float, float]], determined: list[int],
    model: _Quadratic | None,
) -> tuple[tuple[Estimate, ...], tuple[tuple[str, str, float], ...]]:  # fmt: skip
    """Value and interval of each parameter, and the pairs that are determined only together.

    A difference of losses grows with the square of a distance, its standard error with the distance: what is told apart by two
    of them lies four standard errors of the lowest point away.
    """
    half: dict[int, float] = {}
    correlated = []
    if model is not None:
        covariance = model.covariance()
        errors = np.sqrt(np.diag(covariance))
        half = {i: 2 * TOLD_APART * float(error) for i, error in zip(model.which, errors, strict=True)}
        for a, b in itertools.combinations(range(len(model.which)), 2):
            together = float(covariance[a, b] / max(errors[a] * errors[b], 1e-300))
            if abs(together) > CORRELATED:
                correlated.append((model.which[a], model.which[b], together))
        loose = model.loose()
        if loose is not None and len(loose) > 1:
            a, b = np.sort(np.argsort(-np.abs(loose))[:2])
            correlated = [(model.which[a], model.which[b], float(-np.sign(loose[a] * loose[b])))]
            half.update({model.which[a]: LONGEST, model.which[b]: LONGEST})
    made = []
    for i, parameter in enumerate(axes.parameters):
        known = i in determined
        step = half.get(i, float(steps[i]))
        below, above = (step, step) if known else (steps[i] if side >= TOLD_APART else math.inf for side in told[i])
        low, high = max(0.0, centre[i] - below), min(1.0, centre[i] + above)
        made.append(
            Estimate(
                parameter.name, parameter.at_share(float(centre[i])), parameter.at_share(low), parameter.at_share(high),
                bool(known and high - low < 2 * LONGEST),
            )
        )  # fmt: skip
    names = [parameter.name for parameter in axes.parameters]
    return tuple(made), tuple((names[a], names[b], together) for a, b, together in correlated)
