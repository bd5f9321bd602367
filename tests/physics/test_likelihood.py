"""The likelihoods against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import poisson

from ptycho_ray.physics.likelihood import negative_log_density, poisson_deviance, poisson_negative_log_likelihood


def test_the_deviance_is_twice_the_log_likelihood_ratio(rng):
    rate = torch.from_numpy(rng.uniform(0.2, 200, 500))
    counts = torch.from_numpy(rng.poisson(rate.numpy()).astype(np.float64))
    ratio = poisson.logpmf(counts.numpy(), counts.numpy()) - poisson.logpmf(counts.numpy(), rate.numpy())
    np.testing.assert_allclose(poisson_deviance(rate, counts), 2 * ratio, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("photons", [20.0, 1e3, 1e6])
def test_at_the_noise_limit_the_deviance_is_one_per_pixel(photons, rng):
    rate = torch.full((64, 64), photons, dtype=torch.float64)
    counts = torch.from_numpy(rng.poisson(rate.numpy()).astype(np.float64))
    assert float(poisson_deviance(rate, counts).mean()) == pytest.approx(1.0, abs=0.1)
    assert poisson_deviance(1.1 * rate, counts).mean() > poisson_deviance(rate, counts).mean()


def test_all_take_the_prediction_first():
    """Exchanged, they would give other numbers for one dark and one bright pixel."""
    rate, counts = torch.tensor([2.0], dtype=torch.float64), torch.tensor([5.0], dtype=torch.float64)
    assert float(poisson_negative_log_likelihood(rate, counts)) == pytest.approx(2 - 5 * np.log(2))
    assert float(poisson_deviance(rate, counts)) == pytest.approx(2 * (2 - 5 + 5 * np.log(5 / 2)))
    assert float(negative_log_density(rate, counts)) == pytest.approx(-poisson.logpmf(5, 2))
