"""Calibration of standard deviations against the errors that were made."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ptycho_ray.errors import InputError
from ptycho_ray.evaluation import calibration_of


def drawn(rng, factor=1.0):
    std = rng.uniform(0.01, 0.2, (200, 200))
    return factor * std * rng.standard_normal(std.shape), std


def test_normal_errors_of_the_stated_size_lie_on_the_diagonal(rng):
    found = calibration_of(*drawn(rng))
    np.testing.assert_allclose(found.observed, found.expected, atol=0.01)
    assert found.expected_calibration_error < 0.005
    assert found.scale == pytest.approx(1.0, rel=0.02)
    assert found.rank_correlation > 0.4


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_scale_is_what_the_deviations_have_to_be_multiplied_by(rng, factor):
    found = calibration_of(*drawn(rng, factor))
    assert found.scale == pytest.approx(factor, rel=0.03)
    assert found.expected_calibration_error > 0.1
    assert bool(np.all(found.observed > found.expected)) == (factor < 1)


def test_deviations_that_know_nothing_of_the_errors(rng):
    error, std = drawn(rng)
    assert abs(calibration_of(error, rng.permutation(std.ravel()).reshape(std.shape)).rank_correlation) < 0.02
    assert calibration_of(error, np.full_like(std, 0.1)).rank_correlation == 0.0


def test_a_deviation_of_zero_is_right_only_without_an_error():
    found = calibration_of(np.array([0.0, 0.0, 1.0, 1.0]), np.zeros(4))
    np.testing.assert_array_equal(found.observed, 0.5)
    json.dumps(found.to_dict())


def test_what_does_not_fit_is_refused():
    for error, std in ((np.ones(3), np.ones(4)), (np.ones(0), np.ones(0)), (np.ones(2), -np.ones(2))):
        with pytest.raises(InputError, match="std"):
            calibration_of(error, std)
    with pytest.raises(InputError, match="finite"):
        calibration_of(np.array([np.nan]), np.ones(1))
