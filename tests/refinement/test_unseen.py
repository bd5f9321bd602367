"""What a pattern that was not learnt from is fitted by before it judges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptycho_ray.refinement import unseen
from ptycho_ray.refinement.kernel import STABILISER
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan


@pytest.mark.parametrize(("stabiliser", "poisson"), [(0.0, False), (STABILISER, False), (STABILISER, True)])
def test_the_intensity_of_an_unseen_pattern_is_that_of_the_least_loss(rng, stabiliser, poisson):
    """At few photons, where the two losses differ most, and with an object that explains little."""
    image, probe = make_object("lines", (60, 60), rng), make_probe("disc", 32, rng, photons=1e3)
    scan = simulate_scan(image, probe, rng.uniform(17, 43, (10, 2)), rng=rng)
    run = Refinement(scan, RefinementConfig(iterations=1, precision="double", held_out_fraction=0.0)).run
    rows, half = torch.arange(10), torch.arange(32) % 2
    run.kernel.stabiliser, run.kernel.good = stabiliser, (half[:, None] == half).double()
    run.kernel.poisson = poisson
    unseen._fit_own(run, rows, run.kernel.good, positions=False, intensities=True)

    def loss(factor: float) -> torch.Tensor:
        scale = run.state.scale.clone()
        run.state.scale.mul_(factor)
        found = run.kernel.compare(run.kernel.forward(run.state, rows), run.state.scale)[0]
        run.state.scale.copy_(scale)
        return found

    assert (loss(1.0) < loss(0.99)).all()
    assert (loss(1.0) < loss(1.01)).all()


@pytest.mark.parametrize("likelihood", ["amplitude", "poisson"])
def test_patterns_drawn_at_the_predicted_rates_are_judged_as_noise_by_the_loss_that_was_learnt(rng, likelihood):
    """A third of a photon a pixel; what is said of noise is the mean of the loss that the solver minimises."""
    image, probe = make_object("lines", (60, 60), rng), make_probe("disc", 32, rng, photons=300)
    scan = simulate_scan(image, probe, rng.uniform(17, 43, (300, 2)), rng=rng)
    refinement = Refinement(scan, RefinementConfig(iterations=1, held_out_fraction=0.0, likelihood=likelihood))
    run, rows = refinement.run, np.arange(300)
    rate = run.kernel.forward(run.state, torch.arange(300)).intensity
    run.kernel.amplitude.copy_(torch.from_numpy(rng.poisson(rate.double().numpy())).sqrt())
    figures = refinement.judge_unseen(rows, 1.0)
    assert figures.times_noise == pytest.approx(1, abs=0.02)
    half = torch.arange(32) % 2
    run.kernel.good = (half[:, None] != half).float()  # the half of the pixels that judges
    loss = run.kernel.compare(run.kernel.forward(run.state, torch.arange(300)), run.state.scale)[0]
    np.testing.assert_allclose(figures.misfit, loss, rtol=1e-4)
