"""Nesterov's method on probes with an edge, and what happens when its steps are too long."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.simulation import make_object, make_probe, simulate_scan


def disc_scan(patterns: int, seed: int):
    """Lines under a soft-edged disc on patterns of side 32, 1e5 photons each, at positions between pixels."""
    rng = np.random.default_rng(seed)
    image = make_object("lines", (80, 80), rng)
    probe = make_probe("disc", 32, rng, photons=1e5)
    return simulate_scan(image, probe, rng.uniform(17, 63, (patterns, 2)), rng=rng)


def losses(scan, **settings) -> tuple[list[float], Refinement]:
    refinement = Refinement(scan, RefinementConfig(method="accelerated", iterations=100, **settings))
    return [progress.loss for progress in refinement], refinement


#: Loss after 40 and 100 iterations of gradient descent by automatic differentiation, with the probe held and all patterns
#: (the solver of version 0.1).
AUTOGRAD = {(120, 3): (0.09445, 0.09432), (120, 4): (0.09446, 0.09432), (60, 5): (0.09425, 0.09408)}


@pytest.mark.parametrize(("patterns", "seed"), AUTOGRAD)
def test_a_probe_with_an_edge_converges_as_far_as_it_did(patterns, seed):
    """The photons of the shifted probes bound the curvature; those of the probe at whole pixels do not, along its edge."""
    found, refinement = losses(disc_scan(patterns, seed), probe_start=None, held_out_fraction=0.0, schedule="constant")
    after_40, after_100 = AUTOGRAD[patterns, seed]
    assert found[39] < after_40 + 1e-5
    assert found[-1] < after_100 + 1e-5
    assert refinement.history[-1].backoffs == 0


@pytest.mark.parametrize(("patterns", "seed"), AUTOGRAD)
def test_a_free_probe_explains_more_than_one_that_is_held(patterns, seed):
    found, refinement = losses(disc_scan(patterns, seed))
    assert found[-1] < AUTOGRAD[patterns, seed][1]
    assert refinement.history[-1].backoffs == 0


def test_every_position_half_a_pixel_away_from_a_pixel():
    """The largest shift there is, and a probe of odd diameter."""
    rng = np.random.default_rng(8)
    positions = np.stack(np.meshgrid(*[np.arange(17.5, 63, 4.0)] * 2), axis=-1).reshape(-1, 2)
    probe = make_probe("disc", 32, rng, photons=1e5, diameter_px=9.0, edge_px=0.7)
    scan = simulate_scan(make_object("lines", (80, 80), rng), probe, positions, rng=rng)
    found, refinement = losses(scan, probe_start=None)
    assert found[-1] < 0.5 * found[0]
    assert refinement.history[-1].backoffs == 0
    assert np.argmin(found) > 90, "still falling at the end"


@pytest.mark.parametrize("step", [3.0, 30.0])
def test_a_step_that_is_too_long_is_mended(step, caplog):
    """The loss of an iteration is that of its start: halving helps only if the step before is taken back."""
    with caplog.at_level(logging.WARNING):
        found, refinement = losses(disc_scan(60, 5), object_step=step)
    assert 0 < refinement.history[-1].backoffs < 8
    assert found[-1] < 0.0945


def test_a_mended_run_resumes_to_the_same_bits(tmp_path):
    scan = disc_scan(60, 5)
    config = RefinementConfig(method="accelerated", iterations=8, object_step=30.0)
    whole, again = Refinement(scan, config), Refinement(scan, config)
    list(whole)
    first = Refinement(scan, config)
    for progress in first:
        if progress.iteration == 1:
            first.save(tmp_path / "state.safetensors")
            break
    again.resume(tmp_path / "state.safetensors")
    list(again)
    assert again.history[-1].backoffs > first.history[-1].backoffs, "a step was taken back after the run was resumed"
    np.testing.assert_array_equal(again.result().slices, whole.result().slices)


def test_the_probes_of_several_modes_and_slices_go_on_falling():
    rng = np.random.default_rng(4)
    probe = make_probe("disc", 32, rng, photons=1e5, modes=2)
    scan = simulate_scan(make_object("lines", (80, 80), rng), probe, rng.uniform(17, 63, (80, 2)), rng=rng)
    found, _ = losses(scan, slices=2, slice_distance_px2=2.0, intensity_start=2, position_start=5)
    assert found[-1] < 0.5 * found[0]
