"""Bad detector pixels count in no likelihood: whatever stands in them, training and solving give the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ptycho_ray.data import RawData
from ptycho_ray.data.normalisation import Normalisation
from ptycho_ray.models.physics_informed import Prediction
from ptycho_ray.physics.likelihood import apply_pixel_mask, good_pixels_of, poisson_deviance
from ptycho_ray.reconstruction.inference import diffraction_r_factors
from ptycho_ray.refinement.direct import DirectSolver
from ptycho_ray.training.loss import TrainingLoss
from ptycho_ray.workflow import create_ptycho_data_container, train_cdi_model

N = 32


@pytest.fixture
def bad() -> np.ndarray:
    mask = np.zeros((N, N), dtype=bool)
    mask[15:18, 17:23] = True  # beside the middle of the beam
    return mask


def masked(scan: RawData, bad: np.ndarray) -> RawData:
    return RawData(
        scan.xcoords,
        scan.ycoords,
        None,
        None,
        scan.patterns.intensity(),
        scan.probe,
        domain="intensity",
        bad_pixels=bad,
        counts_are_photons=True,
    )


def prediction(intensity: torch.Tensor) -> Prediction:
    flat = torch.zeros(1, 1, 4, 4, dtype=torch.complex64)
    return Prediction(flat[0], intensity, flat)


@pytest.mark.parametrize("weights", [{"nll_weight": 1.0, "mae_weight": 0.0}, {"nll_weight": 0.0, "mae_weight": 1.0}])
@pytest.mark.parametrize("match", [False, True])
def test_the_training_loss_ignores_them(weights: Any, match: bool, bad: np.ndarray, tiny_config: Any) -> None:
    from dataclasses import replace

    config = replace(tiny_config, torch_mae_pred_l2_match_target=match, **weights)
    scales = Normalisation(1.0, 0.1, 1.0, 1e4, 1e4)
    generator = torch.Generator().manual_seed(0)
    rate = 10 * torch.rand(2, 1, N, N, generator=generator)
    photons = torch.poisson(rate, generator=generator)
    photons[..., torch.from_numpy(bad)] = 0
    loss = TrainingLoss(config, scales, bad)
    values, gradients = [], []
    for inside in (0.0, 1e4):
        predicted = torch.where(torch.from_numpy(bad), inside, rate).requires_grad_()
        figures = loss(prediction(predicted), photons)
        figures["loss"].backward()
        values.append({name: float(value.detach()) for name, value in figures.items()})
        gradients.append(predicted.grad)
    assert values[0] == pytest.approx(values[1], rel=1e-6)
    assert not gradients[1][..., torch.from_numpy(bad)].any()
    assert gradients[1].abs().sum() > 0
    if weights["nll_weight"]:
        good = torch.from_numpy(~bad)
        expected = 0.5 * poisson_deviance(rate[..., good], photons[..., good]).mean() / (1e4 / N**2)
        assert values[0]["nll"] == pytest.approx(float(expected), rel=1e-4)


def test_solving_with_a_mask_beats_solving_without(small_scan: RawData, bad: np.ndarray) -> None:
    """The zeros that stand in bad pixels pull the object away from the truth unless they are left out."""
    scan = masked(small_scan, bad)
    photons, probe = torch.from_numpy(scan.patterns.intensity()), torch.from_numpy(scan.probe)
    whole = torch.from_numpy(small_scan.patterns.intensity())
    rows = np.arange(len(scan))
    figures = []
    for mask in (None, bad):
        solver = DirectSolver(photons, scan.positions_px, probe, bad_pixels=mask)
        for _ in range(15):
            solver.step()
        # judged on what the bad pixels would have seen
        solver.kernel.amplitude, solver.kernel.good = torch.fft.ifftshift(whole, dim=(-2, -1)).sqrt(), None
        figures.append(solver.figures(rows).r_factor)
    assert figures[1] < 0.5 * figures[0]


def test_training_and_the_r_factor_honour_the_mask(small_scan: RawData, bad: np.ndarray, tiny_config: Any) -> None:
    """The loss of training is finite and lower than where the zeros are taken for measured ones."""
    scan = masked(small_scan, bad)
    unmasked = RawData(
        scan.xcoords, scan.ycoords, None, None, scan.patterns.intensity(), scan.probe, domain="intensity",
        counts_are_photons=True,
    )  # fmt: skip
    losses, factors = [], []
    for raw in (scan, unmasked):
        container = create_ptycho_data_container(raw, tiny_config)
        results = train_cdi_model(container, None, tiny_config)
        losses.append(results["history"]["loss"][-1])
        factors.append(diffraction_r_factors(results["model_instance"], container, 8)[1].mean())
    assert losses[0] < losses[1]
    assert factors[0] < factors[1]


def test_helpers() -> None:
    assert good_pixels_of(None) is None
    mask = np.eye(3, dtype=bool)
    seen = apply_pixel_mask(torch.ones(2, 3, 3), good_pixels_of(mask))
    np.testing.assert_array_equal(seen[1], ~mask)
    assert apply_pixel_mask(seen, None) is seen
