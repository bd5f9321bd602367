"""How well patterns are explained, by hand and at the limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptycho_ray.evaluation.explained import (
    Explained,
    explained_share,
    flat_object_rate,
    mean_figures,
    overall_r_factor,
)
from ptycho_ray.evaluation.half_data import half_data_correlation

COUNTS = torch.tensor([[[4.0, 9.0], [0.0, 1.0]]])
RATE = torch.tensor([[[1.0, 16.0], [4.0, 1.0]]])


def test_the_r_factor_by_hand():
    assert float(Explained(RATE, COUNTS).r_factor()) == pytest.approx((1 + 1 + 2 + 0) / 6)
    good = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    assert float(Explained(RATE, COUNTS, good).r_factor()) == pytest.approx(2 / 6)
    assert float(Explained(COUNTS, COUNTS).r_factor()) == 0.0


def test_bright_patterns_count_more_in_the_r_factor_of_all():
    rate, counts = torch.cat([RATE, 100 * COUNTS]), torch.cat([COUNTS, 100 * COUNTS])
    assert overall_r_factor(Explained(rate, counts)) == pytest.approx(4 / (6 + 60))
    assert mean_figures([Explained(rate, counts)]).r_factor == pytest.approx(4 / 6 / 2)


def test_a_bad_pixel_counts_in_no_figure(rng):
    rate = torch.from_numpy(rng.uniform(5, 50, (3, 8, 8)))
    good = torch.ones(8, 8, dtype=torch.float64)
    good[2, 5] = 0
    counts = torch.from_numpy(rng.poisson(rate.numpy()).astype(np.float64)) * good
    wild = rate.clone()
    wild[:, 2, 5] = 1e6
    assert mean_figures([Explained(rate, counts, good)]) == mean_figures([Explained(wild, counts, good)])
    only_good = Explained(rate[:, good > 0][:, None], counts[:, good > 0][:, None])
    torch.testing.assert_close(Explained(rate, counts, good).deviance(), only_good.deviance())


def test_means_do_not_depend_on_the_pieces(rng):
    rate = torch.from_numpy(rng.uniform(5, 50, (6, 8, 8)))
    counts = torch.from_numpy(rng.poisson(rate.numpy()).astype(np.float64))
    whole = mean_figures([Explained(rate, counts)])
    parts = mean_figures(Explained(rate[rows], counts[rows]) for rows in (slice(0, 4), slice(4, 6)))
    assert (parts.likelihood, parts.deviance, parts.r_factor) == pytest.approx(
        (whole.likelihood, whole.deviance, whole.r_factor)
    )
    with pytest.raises(ZeroDivisionError, match="no pattern"):
        mean_figures([])


def test_a_flat_object_is_an_empty_beam_at_the_dose_of_each_pattern(rng):
    beam = torch.from_numpy(rng.random((8, 8)) + 0.1)
    counts = torch.tensor([3.0, 0.5])[:, None, None] * beam
    torch.testing.assert_close(flat_object_rate(7 * beam, counts), counts)


def test_the_explained_share_is_one_for_the_truth_and_zero_for_an_empty_beam(rng):
    beam = torch.from_numpy(rng.uniform(50, 100, (16, 16)))
    rate = beam * torch.from_numpy(rng.uniform(0.2, 1.8, (20, 16, 16)))
    counts = torch.from_numpy(rng.poisson(rate.numpy()).astype(np.float64))
    assert explained_share(Explained(rate, counts), beam) == pytest.approx(1.0, abs=0.02)
    assert explained_share(Explained(beam.expand_as(rate), counts), beam) == pytest.approx(0.0, abs=1e-9)


def test_halves_agree_up_to_a_common_phase(rng):
    image = rng.normal(size=(40, 40)) + 1j * rng.normal(size=(40, 40))
    covered = np.zeros((40, 40), dtype=bool)
    covered[4:36, 3:35] = True
    other = image * np.exp(2j)
    other[~covered] = 0
    assert half_data_correlation(image, other, covered).mean == pytest.approx(1.0)
    noise = rng.normal(size=(40, 40)) + 1j * rng.normal(size=(40, 40))
    assert half_data_correlation(image, noise, covered).mean < 0.5
