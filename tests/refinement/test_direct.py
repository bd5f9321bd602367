"""Solving for the object without a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptycho_ray.data.patches import cut_patches
from ptycho_ray.data.position_maps import position_matrix, transformed_positions
from ptycho_ray.errors import InputError
from ptycho_ray.evaluation import evaluate_reconstruction
from ptycho_ray.physics.likelihood import negative_log_density
from ptycho_ray.physics.optics import fresnel_propagate
from ptycho_ray.refinement.batching import held_out_patterns
from ptycho_ray.refinement.direct import DirectSolver
from ptycho_ray.simulation import make_object, make_probe, make_scan, simulate_scan


@pytest.fixture(scope="module")
def scan():
    rng = np.random.default_rng(5)
    image = make_object("dead_leaves", (88, 88), rng)
    probe = fresnel_propagate(make_probe("zone_plate", 32, rng, photons=1e6, modes=2), 8.0)
    positions = make_scan("fermat", (88, 88), 32, rng, n_patterns=140)
    return simulate_scan(image, probe.astype(np.complex64), positions, rng=rng)


def solved(scan, epochs=40, positions=None, probe=None):
    held_out = held_out_patterns(len(scan), 0.1, np.random.default_rng(0))
    solver = DirectSolver(
        torch.from_numpy(scan.patterns.intensity()),
        scan.positions_px if positions is None else positions,
        torch.from_numpy(scan.probe if probe is None else probe),
        learn=~held_out,
    )
    losses = [solver.step() for _ in range(epochs)]
    return solver, losses, solver.figures(np.flatnonzero(held_out))


def test_the_object_is_found_down_to_the_noise(scan):
    solver, losses, figures = solved(scan)
    assert losses[-1] < 0.2 * losses[0]
    assert figures.deviance < 1.2
    stitched = solver.stitched()
    found = evaluate_reconstruction(
        stitched.image, scan.object_truth, origin_px=stitched.origin_px, region=stitched.covered(), register=False
    )
    assert found.complex_nrmse < 0.1


def test_held_out_patterns_tell_a_wrong_experiment_from_the_right_one(scan):
    right = solved(scan)[2]
    moved = transformed_positions(scan.positions_px, position_matrix(1.05))
    defocused = fresnel_propagate(scan.probe, 4.0).astype(np.complex64)
    for wrong in (solved(scan, positions=moved)[2], solved(scan, probe=defocused)[2]):
        assert wrong.deviance > 1.1 * right.deviance
        assert wrong.likelihood > right.likelihood
        assert wrong.r_factor > right.r_factor


def test_the_first_prediction_is_the_model_of_the_data(scan):
    """A flat object at whole positions diffracts like the probe, scaled to the photons of a pattern."""
    solver = DirectSolver(
        torch.from_numpy(scan.patterns.intensity()), np.rint(scan.positions_px), torch.from_numpy(scan.probe)
    )
    predicted = torch.cat([each.rate for each in solver.explained(np.array([0, 7]))]).numpy()
    waves = np.fft.fftshift(np.fft.fft2(scan.probe, norm="ortho"), axes=(1, 2))
    expected = (np.abs(waves) ** 2).sum(0) * float(solver.object[0, 0].real) ** 2
    np.testing.assert_allclose(predicted, np.stack([expected] * 2), rtol=1e-3, atol=1e-3 * expected.max())


def test_a_truth_that_is_put_in_stays(scan):
    solver, _, _ = solved(scan, epochs=0)
    rows, columns = solver.object.shape
    centre = np.array(solver.run.geometry.origin_px) + 16
    truth = np.zeros((rows, columns), np.complex64)
    low = np.array(solver.run.geometry.origin_px).astype(int)
    inside = scan.object_truth[low[0] : low[0] + rows, low[1] : low[1] + columns]
    truth[: inside.shape[0], : inside.shape[1]] = inside
    solver.object.copy_(torch.from_numpy(truth))
    figures = solver.figures(np.arange(len(scan)))
    assert figures.deviance < 1.1, "photon noise and nothing else"
    assert cut_patches(scan.object_truth, centre, 32).shape == (32, 32)


def test_the_likelihood_is_best_at_the_photon_count_that_made_the_scatter(rng):
    rate = torch.from_numpy(rng.uniform(0.5, 30, (40, 32, 32)).astype(np.float32))
    counts = torch.from_numpy(rng.poisson(rate.numpy()).astype(np.float32))
    found = {
        c: float(negative_log_density(c * rate, c * counts, c).mean()) for c in (0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 4.0)
    }
    assert min(found, key=found.__getitem__) == 1.0


def test_likelihood_of_whole_counts_is_that_of_poisson():
    from scipy.stats import poisson

    counts, rates = torch.tensor([0.0, 1.0, 7.0]), torch.tensor([0.5, 2.0, 6.0])
    np.testing.assert_allclose(
        negative_log_density(rates, counts), -poisson.logpmf(counts.numpy(), rates.numpy()), rtol=1e-5
    )


def test_wrong_lengths_and_nothing_to_learn_from(scan):
    photons, probe = torch.from_numpy(scan.patterns.intensity()), torch.from_numpy(scan.probe)
    with pytest.raises(InputError, match="positions_px: found 3 positions; expected 140"):
        DirectSolver(photons, scan.positions_px[:3], probe)
    with pytest.raises(InputError, match="learn: found no pattern"):
        DirectSolver(photons, scan.positions_px, probe, learn=np.zeros(140, dtype=bool))


def test_held_out_patterns_are_scattered_and_repeatable():
    first, again = (held_out_patterns(200, 0.1, np.random.default_rng(3)) for _ in range(2))
    assert first.sum() == 20
    assert (first == again).all()
    assert not held_out_patterns(200, 0.0, np.random.default_rng(3)).any()
