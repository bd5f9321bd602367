"""What a pattern that was not learnt from is fitted by before it judges."""

from __future__ import annotations

import pytest
import torch

from ptycho_ray.refinement import unseen
from ptycho_ray.refinement.kernel import STABILISER
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan


@pytest.mark.parametrize("stabiliser", [0.0, STABILISER])
def test_the_intensity_of_an_unseen_pattern_is_that_of_the_least_loss(rng, stabiliser):
    """At few photons, where the two losses differ most, and with an object that explains little."""
    image, probe = make_object("lines", (60, 60), rng), make_probe("disc", 32, rng, photons=1e3)
    scan = simulate_scan(image, probe, rng.uniform(17, 43, (10, 2)), rng=rng)
    # learnt from by any loss, a pattern is judged by that of amplitudes
    settings = RefinementConfig(iterations=1, precision="double", held_out_fraction=0.0, likelihood="amplitude")
    run = Refinement(scan, settings).run
    rows, half = torch.arange(10), torch.arange(32) % 2
    run.kernel.stabiliser, run.kernel.good = stabiliser, (half[:, None] == half).double()
    unseen._fit_own(run, rows, run.kernel.good, positions=False, intensities=True)

    def loss(factor: float) -> torch.Tensor:
        scale = run.state.scale.clone()
        run.state.scale.mul_(factor)
        found = run.kernel.compare(run.kernel.forward(run.state, rows), run.state.scale)[0]
        run.state.scale.copy_(scale)
        return found

    assert (loss(1.0) < loss(0.99)).all()
    assert (loss(1.0) < loss(1.01)).all()
