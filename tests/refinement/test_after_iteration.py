"""What is imposed after an iteration must not undo what the iteration has learnt."""

from __future__ import annotations

import pytest
import torch

from ptycho_ray.refinement.after_iteration import RISE, _hold_centre
from ptycho_ray.refinement.constraints import probe_centre_px, shift_spectrum
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.simulation.objects import make_object
from ptycho_ray.simulation.probes import make_probe
from ptycho_ray.simulation.simulate import simulate_scan


def solved(rng, iterations):
    image, probe = make_object("lines", (60, 60), rng), make_probe("disc", 32, rng, photons=1e6)
    scan = simulate_scan(image, probe, rng.uniform(17, 43, (40, 2)), rng=rng)
    refinement = Refinement(scan, RefinementConfig(iterations=10, held_out_fraction=0.0, centre_start=None))
    for progress in refinement:
        if progress.iteration >= iterations:
            break
    return refinement.run


def test_a_probe_that_moved_alone_is_put_back(rng):
    """Behind a flat object no pattern changes with the place of the probe."""
    run = solved(rng, 1)
    run.state.object.fill_(1)
    centre = probe_centre_px(run.state.probe)
    shift_spectrum(run.state.probe_spectrum, torch.tensor([1.0, -1.0]))
    _hold_centre(run, centre)
    torch.testing.assert_close(probe_centre_px(run.state.probe), centre, atol=0.05, rtol=0)


def test_a_probe_that_moved_with_the_object_stays(rng):
    run = solved(rng, 10)
    centre, loss = probe_centre_px(run.state.probe), run.loss_of(run.rows)
    shift_spectrum(run.state.probe_spectrum, torch.tensor([2.0, -2.0]))
    run.state.object.copy_(torch.roll(run.state.object, (2, -2), (1, 2)))
    assert run.loss_of(run.rows) == pytest.approx(loss, rel=0.5), "moved together they predict the same patterns"
    moved = run.state.probe_spectrum.clone()
    _hold_centre(run, centre)
    torch.testing.assert_close(run.state.probe_spectrum, moved)
    shift_spectrum(run.state.probe_spectrum, centre - probe_centre_px(run.state.probe))
    assert run.loss_of(run.rows) > RISE * loss, "the shift would have undone the solution"
