"""Parity of the simulation helpers with numbers that the PtychoPINN chain produced."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ptycho_ray.data.patches import cut_patches
from ptycho_ray.errors import InputError
from ptycho_ray.simulation import make_probe, simulate_patterns
from ptycho_ray.simulation.reference import (
    complex_gaussian_filter2d,
    dummy_phi,
    get_default_probe,
    get_probe_mask,
    get_squared_distance,
    illuminate_and_diffract,
    mk_lines_img,
    normalised_probe,
    sim_object_image,
)


@pytest.mark.parametrize("N", [64, 128])
def test_default_probe_and_masks(golden: Any, N: int) -> None:
    expected = golden("h_probe.npz", large=N > 64)
    np.testing.assert_allclose(get_default_probe(N), expected[f"default_probe_{N}"], atol=1e-15)
    np.testing.assert_allclose(get_default_probe(N, 0.55), expected[f"default_probe_{N}_scale0.55"], atol=1e-15)
    np.testing.assert_allclose(get_squared_distance(N), expected[f"squared_distance_{N}"], atol=1e-12)
    np.testing.assert_array_equal(get_probe_mask(N), expected[f"probe_mask_{N}"][..., 0])
    for scale in (4, 10):
        found = normalised_probe(get_default_probe(N), scale)
        np.testing.assert_allclose(found, expected[f"set_default_probe_{N}_scale{scale}"][..., 0], rtol=1e-6)


def test_probe_guess_and_blur(golden: Any) -> None:
    expected = golden("h_probe.npz")
    guess = expected["set_probe_guess_in"]
    np.testing.assert_allclose(normalised_probe(guess, 4.0), expected["set_probe_guess_out"][..., 0], atol=1e-6)
    blurred = complex_gaussian_filter2d(guess, 0.8)
    np.testing.assert_allclose(blurred, expected["complex_gaussian_filter2d_3x3_sigma0.8"][0, ..., 0], atol=1e-6)


def test_line_objects_follow_the_legacy_random_stream(golden: Any) -> None:
    expected = golden("h_probe.npz")
    image = mk_lines_img(64, 10, np.random.RandomState(123))
    np.testing.assert_allclose(image, expected["mk_lines_img_seed123_64_n10"], atol=1e-12)
    sample = sim_object_image(96, np.random.RandomState(5))
    np.testing.assert_allclose(sample, expected["sim_object_image_lines_seed5_size96"][..., 0], atol=1e-12)
    np.testing.assert_allclose(dummy_phi(sample), expected["dummy_phi_of_it"][..., 0], atol=1e-6)


def test_illuminate_and_diffract(golden: Any) -> None:
    case = golden("b_normalisation.npz")
    sample, probe = case["illuminate/object"], case["illuminate/probe"]
    positions = np.stack([case["illuminate/ycoords"], case["illuminate/xcoords"]], axis=1)
    patches = cut_patches(sample, positions, 64)
    np.testing.assert_allclose(patches[:2], case["illuminate/Y_patches"][..., 0], atol=2e-6)
    X, illuminated, phase, scale = illuminate_and_diffract(np.abs(patches), np.angle(patches), probe)
    assert scale == pytest.approx(float(case["illuminate/intensity_scale"]), rel=1e-6)
    np.testing.assert_allclose(X[:2], case["illuminate/X"][..., 0], atol=5e-6)
    np.testing.assert_allclose(illuminated[:2], case["illuminate/Y_I"][..., 0], atol=2e-6)
    np.testing.assert_allclose(phase[:2], case["illuminate/Y_phi"][..., 0], atol=2e-6)
    # The array function is the same physics: intensities with bilinear patches are the squares of those amplitudes.
    intensity = simulate_patterns(sample, probe, positions, noise=False, sub_pixel="bilinear")
    np.testing.assert_allclose(np.sqrt(intensity[:2]), case["illuminate/X"][..., 0], atol=2e-5)


def test_illuminate_and_diffract_draws_photons(rng: np.random.Generator) -> None:
    amplitude, phase = np.ones((4, 32, 32)), np.zeros((4, 32, 32))
    probe = make_probe("disc", 32, rng)[0]
    exact, _, _, scale = illuminate_and_diffract(amplitude, phase, probe, nphotons=1e5)
    noisy = illuminate_and_diffract(amplitude, phase, probe, nphotons=1e5, rng=rng)[0]
    assert np.sum((scale * exact[0]) ** 2) == pytest.approx(1e5, rel=1e-4)
    assert np.sum((scale * noisy) ** 2) == pytest.approx(4e5, abs=5 * np.sqrt(4e5))
    assert not np.array_equal(exact, noisy)
    with pytest.raises(InputError, match="Y_I"):
        illuminate_and_diffract(amplitude, phase[:2], probe)


def test_lines64_was_made_by_this_physics(shared_data: Any) -> None:
    """The shared simulated scan is Poisson noise (1e9 photons) about our bilinear prediction, up to one constant."""
    with np.load(shared_data("lines64_train.npz"), allow_pickle=False) as scan:
        positions = np.stack([scan["ycoords"], scan["xcoords"]], axis=1)[:20]
        measured = scan["diff3d"][:20].astype(np.float64)
        predicted = np.sqrt(
            simulate_patterns(scan["objectGuess"], scan["probeGuess"], positions, noise=False, sub_pixel="bilinear")
        )
    factor = np.sum(measured * predicted) / np.sum(predicted**2)
    assert np.abs(measured - factor * predicted).sum() / measured.sum() < 5e-3


def test_sim64_is_poisson_noise_about_our_prediction(shared_data: Any) -> None:
    """A benchmark scan made by other code (exact sub-pixel shift of the probe); its positions are window corners."""
    with np.load(shared_data("sim64_1e6.npz"), allow_pickle=False) as scan:
        counts = scan["dp"][:20].astype(np.float64)
        mean = simulate_patterns(scan["obj"], scan["probe"], scan["pos_true"][:20] + 32, noise=False)
    bright = mean > 20
    assert np.mean((counts[bright] - mean[bright]) ** 2 / mean[bright]) == pytest.approx(1.0, abs=0.03)
    assert counts.sum() == pytest.approx(mean.sum(), abs=5 * np.sqrt(counts.sum()))
