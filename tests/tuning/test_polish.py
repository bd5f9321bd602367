"""The polish of a sweep, on losses whose lowest point and scatter are known, and bounds that are moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from ptycho_ray.tuning.bounds import MOST_WIDENINGS, holding, on_bounds, widened
from ptycho_ray.tuning.parameter import Parameter, Values
from ptycho_ray.tuning.polish import Evaluate, Polished, polish
from ptycho_ray.tuning.space import Space, space_from

PATTERNS, SCATTER = 100, 0.04
SCALE = Parameter("position_scale", "uniform", (0.9, 1.1))
ANGLE = Parameter("position_rotation_rad", "uniform", (-0.1, 0.1))
Loss = Callable[[float, float], NDArray[np.float64]]


def evaluated(loss: Loss, seen: list[Values] | None = None) -> Evaluate:
    def evaluate(points: Sequence[Values]) -> list[NDArray[np.float64] | None]:
        if seen is not None:
            seen.extend(points)
        return [loss(SCALE.share_of(p[SCALE.name]), ANGLE.share_of(p[ANGLE.name])) for p in points]

    return evaluate


def centres() -> NDArray[np.float64]:
    """The lowest point of each pattern in shares of the ranges, [k, 2], on the average (0.6, 0.4)."""
    scatter = np.random.default_rng(0).normal(0, SCATTER, (PATTERNS, 2))
    return np.array([0.6, 0.4]) + scatter - scatter.mean(axis=0)


def valley(across: float, along: float) -> Loss:
    """Steep across the diagonal, flat along it, the lowest point of the mean at (0.6, 0.4); slopes scatter alike in both."""
    slopes = 0.5 * (centres() - [0.6, 0.4])

    def loss(x: float, y: float) -> NDArray[np.float64]:
        away = np.array([x - 0.6, y - 0.4])
        return 1.0 + across * away.sum() ** 2 + along * (away[0] - away[1]) ** 2 + slopes @ away

    return loss


def polished(loss: Loss, x: float = 0.55, y: float = 0.5, seen: list[Values] | None = None) -> Polished:
    best = {SCALE.name: SCALE.at_share(x), ANGLE.name: ANGLE.at_share(y), "probe_modes": 2}
    return polish([SCALE, ANGLE], best, evaluated(loss, seen))


def test_the_lowest_point_and_how_far_it_is_known() -> None:
    found = polished(lambda x, y: ((np.array([x, y]) - centres()) ** 2 * [1.0, 4.0]).sum(axis=1))
    shares = [SCALE.share_of(found.values[SCALE.name]), ANGLE.share_of(found.values[ANGLE.name])]
    np.testing.assert_allclose(shares, [0.6, 0.4], atol=1e-6)
    assert found.values["probe_modes"] == 2
    assert found.gain > 0
    assert not found.correlated
    for estimate, parameter, column in zip(found.estimates, (SCALE, ANGLE), centres().T, strict=True):
        assert estimate.determined
        # For a quadratic the lowest point is the mean of those of the patterns; two errors tell apart what lies four away.
        expected = 4 * column.std(ddof=1) / np.sqrt(PATTERNS)
        half = parameter.share_of(estimate.high) - parameter.share_of(estimate.value)
        assert half == pytest.approx(expected, rel=1e-6)
        assert parameter.share_of(estimate.value) - parameter.share_of(estimate.low) == pytest.approx(half)


def test_what_the_data_say_nothing_about_has_the_whole_range() -> None:
    found = polished(lambda x, y: (x - centres()[:, 0]) ** 2)
    scale, angle = found.estimates
    assert scale.determined
    assert not angle.determined
    assert (angle.low, angle.high) == pytest.approx(ANGLE.values)


def test_two_parameters_that_make_up_for_each_other_are_named() -> None:
    found = polished(valley(1.0, 0.01))
    ((first, second, together),) = found.correlated
    assert {first, second} == {SCALE.name, ANGLE.name}
    assert together < -0.9
    found = polished(valley(1.0, 0.7))
    assert not found.correlated


def test_a_valley_that_runs_across_is_followed() -> None:
    found = polished(valley(1.0, 0.1), 0.45, 0.55)
    shares = [SCALE.share_of(found.values[SCALE.name]), ANGLE.share_of(found.values[ANGLE.name])]
    np.testing.assert_allclose(shares, [0.6, 0.4], atol=0.01)


def test_trials_that_fail_are_walls_and_nothing_leaves_the_range() -> None:
    seen: list[Values] = []

    def loss(x: float, y: float) -> NDArray[np.float64]:
        return ((np.array([x, y]) - centres()) ** 2).sum(axis=1)

    def evaluate(points: Sequence[Values]) -> list[NDArray[np.float64] | None]:
        seen.extend(points)
        return [
            None if p[SCALE.name] > 1.025 else loss(SCALE.share_of(p[SCALE.name]), ANGLE.share_of(p[ANGLE.name]))
            for p in points
        ]

    best = {SCALE.name: 1.02, ANGLE.name: -0.1}
    found = polish([SCALE, ANGLE], best, evaluate)
    assert found.values[SCALE.name] == pytest.approx(1.02, abs=0.005)
    assert found.values[ANGLE.name] == pytest.approx(-0.02, abs=0.005)
    assert all(parameter.holds(point[parameter.name]) for point in seen for parameter in (SCALE, ANGLE))


def test_the_same_points_are_tried_again_and_none_twice() -> None:
    def loss(x: float, y: float) -> NDArray[np.float64]:
        return ((np.array([x, y]) - centres()) ** 2).sum(axis=1)

    first: list[Values] = []
    again: list[Values] = []
    assert polished(loss, seen=first) == polished(loss, seen=again)
    assert first == again
    keys = [(p[SCALE.name], p[ANGLE.name]) for p in first]
    assert len(set(keys)) == len(keys) < 60


def test_a_best_trial_that_fails_is_an_error() -> None:
    with pytest.raises(ArithmeticError, match="best trial failed"):
        polish([SCALE], {SCALE.name: 1.0}, lambda points: [None] * len(points))


def space(**parameters: object) -> Space:
    return space_from({"trial": "direct", "parameters": parameters})


def test_a_bound_with_the_best_trial_on_it_is_moved_a_limited_number_of_times() -> None:
    first = space(
        position_scale={"uniform": [0.9, 1.1]}, nphotons={"loguniform": [1e3, 1e5]}, probe_modes={"choice": [1]}
    )
    best = {"position_scale": 1.099, "nphotons": 1e3, "probe_modes": 1}
    assert on_bounds(first, best) == {"position_scale": 1, "nphotons": -1}
    wider = widened(first, best)
    assert wider.parameters[0].values == pytest.approx((0.9, 1.3))
    assert wider.parameters[1].values == pytest.approx((1e1, 1e5))
    assert widened(first, {"position_scale": 1.0, "nphotons": 1e4}) == first
    resumed, times = holding(first, [best, {"position_scale": 1.25, "nphotons": 2e4}])
    assert (times, resumed.parameters[0].values) == (1, pytest.approx((0.9, 1.3)))
    assert holding(first, [{"position_scale": 90.0}])[1] == MOST_WIDENINGS


def test_no_bound_is_moved_to_what_a_setting_cannot_be() -> None:
    first = space(position_scale={"uniform": [0.1, 1.9]})
    assert on_bounds(first, {"position_scale": 0.1}) == {"position_scale": -1}
    assert widened(first, {"position_scale": 0.1}) == first
