"""Our own metrics against cases with a known answer."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from helpers import TIMES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from ptycho_ray.errors import InputError
from ptycho_ray.evaluation import (
    crop_truth,
    evaluate_reconstruction,
    find_translation_offset,
    fit_ambiguities,
    fourier_ring_correlation,
    largest_rectangle,
    multiscale_ssim,
)
from ptycho_ray.evaluation.registration import inside_truth


def smooth_object(rng: np.random.Generator, side: int = 128, sigma: float = 1.5) -> np.ndarray:
    """Band-limited periodic transmission, amplitude 0.6 to 1, phase -0.5 to 0.5 rad."""

    def texture() -> np.ndarray:
        field = gaussian_filter(rng.standard_normal((side, side)), sigma, mode="wrap")
        return (field - field.min()) / np.ptp(field)

    return (0.6 + 0.4 * texture()) * np.exp(1j * (texture() - 0.5))


def periodic_shift(image: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """result[r] = image[r + shift]."""
    row, column = (np.exp(2j * np.pi * np.fft.fftfreq(n) * s) for n, s in zip(image.shape, shift, strict=True))
    return np.fft.ifft2(np.fft.fft2(image) * row[:, None] * column[None, :])


def test_identical_images_score_perfectly(rng: np.random.Generator) -> None:
    truth = smooth_object(rng)
    result = evaluate_reconstruction(truth, truth, register=False)
    for scores in (result.amplitude, result.phase):
        assert scores.mae < 1e-12
        assert scores.ssim == pytest.approx(1.0)
        assert scores.ms_ssim == pytest.approx(1.0)
        np.testing.assert_allclose(scores.frc.correlation[1:], 1.0)
        assert scores.frc.frc50 == scores.frc.frc_half_bit == 0.5
    assert result.complex_nrmse < 1e-12
    assert result.ambiguities.shift_px == (0.0, 0.0)
    assert result.n_pixels == truth.size


@settings(max_examples=15 * TIMES, deadline=None)
@given(
    shift=st.tuples(st.floats(-4, 4), st.floats(-4, 4)),
    ramp=st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4)),
    phase=st.floats(-3, 3),
    gain=st.floats(0.1, 20),
)
def test_the_exact_ambiguities_are_recovered(
    shift: tuple[float, float], ramp: tuple[float, float], phase: float, gain: float
) -> None:
    truth = smooth_object(np.random.default_rng(3), side=96)
    rows, columns = np.indices(truth.shape) - (truth.shape[0] - 1) / 2
    moved = periodic_shift(truth, shift)
    recon = moved * gain * np.exp(1j * (phase + ramp[0] * rows + ramp[1] * columns))
    region = np.zeros(truth.shape, dtype=bool)
    region[12:-12, 12:-12] = True
    result = evaluate_reconstruction(recon, truth, region=region)
    np.testing.assert_allclose(result.ambiguities.shift_px, shift, atol=0.01)
    np.testing.assert_allclose(result.ambiguities.ramp_rad_per_px, np.negative(ramp), atol=1e-4)
    assert result.complex_nrmse < 2e-3


def test_known_shift_is_found_to_a_fiftieth_of_a_pixel_in_noise(rng: np.random.Generator) -> None:
    truth = smooth_object(rng)
    noise = 0.02 * (rng.standard_normal(truth.shape) + 1j * rng.standard_normal(truth.shape))
    recon = periodic_shift(truth, (1.37, -0.62)) + noise
    np.testing.assert_allclose(fit_ambiguities(recon, truth).shift_px, (1.37, -0.62), atol=0.02)


def test_the_reference_helper_finds_the_shift_that_moves_the_image_onto_the_truth(rng: np.random.Generator) -> None:
    truth = smooth_object(rng, sigma=0.7)
    found = find_translation_offset(periodic_shift(truth, (1.36, -0.62)), truth)
    np.testing.assert_allclose(found, (1.36, -0.62), atol=0.021)


def test_exact_geometry_does_not_register(rng: np.random.Generator) -> None:
    truth = smooth_object(rng)
    moved = periodic_shift(truth, (0.8, 0.0))
    exact = evaluate_reconstruction(moved, truth, register=False)
    fitted = evaluate_reconstruction(moved, truth)
    assert exact.ambiguities.shift_px == (0.0, 0.0)
    assert exact.complex_nrmse > 10 * fitted.complex_nrmse


@pytest.mark.parametrize("method", ["fourier", "bilinear"])
def test_crop_truth_reads_whole_and_fractional_places(rng: np.random.Generator, method: Any) -> None:
    truth = smooth_object(rng, sigma=3.0)
    np.testing.assert_array_equal(crop_truth(truth, (20.0, 33.0), (40, 30), method=method), truth[20:60, 33:63])
    expected = periodic_shift(truth, (0.25, 0.7))[20:60, 33:63]
    piece = crop_truth(truth, (20.25, 33.7), (40, 30), method=method)
    np.testing.assert_allclose(piece, expected, atol=1e-4 if method == "fourier" else 0.02)
    assert piece.dtype == truth.dtype


def test_crop_truth_beyond_the_edge() -> None:
    truth = np.arange(12.0).reshape(3, 4)
    piece = crop_truth(truth, (-1.0, 2.0), (3, 4))
    np.testing.assert_array_equal(piece[0], piece[1])
    np.testing.assert_array_equal(piece[1], [2, 3, 3, 3])
    inside = inside_truth(truth.shape, (-1.0, 2.0), (3, 4))
    np.testing.assert_array_equal(inside, [[False] * 4, [True, True, False, False], [True, True, False, False]])
    with pytest.raises(InputError, match="overlap"):
        crop_truth(truth, (10.0, 0.0), (3, 4))


def test_a_canvas_is_compared_at_its_origin(rng: np.random.Generator) -> None:
    truth = smooth_object(rng)
    canvas = np.zeros((100, 90), dtype=complex)
    canvas[10:90, 10:80] = periodic_shift(truth, (0.5, 0.25))[30:110, 25:95]
    result = evaluate_reconstruction(canvas, truth, origin_px=(20.5, 15.25), register=False)
    assert result.n_pixels == 80 * 70
    assert result.rectangle == (slice(10, 90), slice(10, 80))
    assert result.complex_nrmse < 1e-3


def test_a_flat_object_scores_badly_in_phase(rng: np.random.Generator) -> None:
    truth = smooth_object(rng)
    result = evaluate_reconstruction(np.ones_like(truth), truth, register=False)
    assert result.phase.ssim < 0.2
    assert result.phase.frc.mean < 0.2
    expected = np.sqrt(1 - np.abs(truth.mean()) ** 2 / np.mean(np.abs(truth) ** 2))
    assert result.complex_nrmse == pytest.approx(expected, rel=0.05)  # a ramp is fitted as well


def test_wrapped_phases_do_not_count_as_errors() -> None:
    rows, columns = np.indices((96, 96)) / 96
    phase = 9 * np.sin(3 * rows) * np.cos(2 * columns)  # spans several turns
    truth = np.exp(1j * phase)
    result = evaluate_reconstruction(truth * np.exp(0.05j * np.sin(20 * rows)), truth, register=False)
    assert result.phase.mae < 0.05
    assert result.phase.data_range == pytest.approx(np.ptp(phase), rel=0.01)
    assert result.amplitude.data_range == pytest.approx(1.0)  # no contrast: its size counts


def test_anticorrelation_is_negative_and_noise_is_about_zero(rng: np.random.Generator) -> None:
    image = rng.standard_normal((64, 80))
    np.testing.assert_allclose(fourier_ring_correlation(image, -image).correlation[1:], -1.0)
    other = fourier_ring_correlation(image, rng.standard_normal((64, 80)))
    assert np.abs(other.correlation[10:]).max() < 0.6
    assert other.correlation[1:].min() < -0.05
    assert abs(other.mean) < 0.15
    assert other.frc50 < 0.1
    assert len(other.frequency) == 33
    assert other.frequency[-1] == 0.5


def test_ring_correlation_crossings_are_frequencies(rng: np.random.Generator) -> None:
    """White noise beyond 0.2 cycles a pixel and a common image below: the curve crosses at 0.2."""
    side = 128
    radius = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None, :])

    def band(low: float, high: float) -> np.ndarray:
        spectrum = np.fft.fft2(rng.standard_normal((side, side)))
        return np.fft.ifft2(spectrum * ((radius >= low) & (radius < high))).real

    common = band(0, 0.2)
    curve = fourier_ring_correlation(common + band(0.2, 1), common + band(0.2, 1), window=None)
    for value in (curve.frc50, curve.frc_one_seventh, curve.frc_half_bit):
        assert value == pytest.approx(0.2, abs=0.012)
    numbers = curve.to_dict(curve=True)
    assert numbers["frc50_resolution_px"] == pytest.approx(0.5 / curve.frc50)
    assert numbers["correlation"] == curve.correlation.tolist()
    assert np.all(np.diff(curve.half_bit[1:]) < 0.02)
    assert 0.17 < curve.half_bit[-1] < 0.3


def test_ring_correlation_of_complex_images_sees_the_phase(rng: np.random.Generator) -> None:
    truth = smooth_object(rng)
    turned = fourier_ring_correlation(truth, 1j * truth)
    np.testing.assert_allclose(turned.correlation[1:], 0.0, atol=1e-12)


def test_an_unknown_window_and_tiny_images_are_refused() -> None:
    with pytest.raises(InputError, match="window"):
        fourier_ring_correlation(np.eye(16), np.eye(16), window="box")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 8"):
        fourier_ring_correlation(np.eye(4), np.eye(4))


def test_largest_rectangle_matches_a_search_over_all(rng: np.random.Generator) -> None:
    for _ in range(20):
        mask = rng.random((7, 9)) < 0.75
        found = largest_rectangle(mask)
        assert mask[found].all()
        best = max(
            (b - t) * (r - c)
            for t in range(8)
            for b in range(t, 8)
            for c in range(10)
            for r in range(c, 10)
            if mask[t:b, c:r].all()
        )
        assert mask[found].size == best
    assert largest_rectangle(np.zeros((5, 5), dtype=bool)) == (slice(0, 0), slice(0, 0))
    large = np.zeros((1200, 700), dtype=bool)
    large[100:1100, 50:650] = True
    found = largest_rectangle(large)
    assert large[found].all()
    assert large[found].size > 0.97 * large.sum()


def test_multiscale_ssim_falls_with_noise(rng: np.random.Generator) -> None:
    image = gaussian_filter(rng.random((192, 192)), 2)
    image = (image - image.min()) / np.ptp(image)
    noise = rng.standard_normal(image.shape)
    scores = [multiscale_ssim(image, image + sigma * noise, 1.0) for sigma in (0.0, 0.05, 0.2, 1.0)]
    assert scores[0] == pytest.approx(1.0)
    assert scores == sorted(scores, reverse=True)
    assert multiscale_ssim(image[:40, :40], image[:40, :40], 1.0) == pytest.approx(1.0)


def test_the_result_is_json_without_arrays(rng: np.random.Generator) -> None:
    truth = smooth_object(rng, side=64)
    text = json.dumps(evaluate_reconstruction(truth, truth, register=False).to_dict(), allow_nan=False)
    assert "correlation" not in text
    numbers = evaluate_reconstruction(0.9 * truth, truth).to_dict(curves=True)
    assert len(numbers["phase"]["frc"]["correlation"]) == 33


def test_bad_comparisons_are_refused(rng: np.random.Generator) -> None:
    truth = smooth_object(rng, side=64)
    bad = truth.copy()
    bad[0, 0] = np.nan
    with pytest.raises(InputError, match=r"reconstruction.*NaN"):
        evaluate_reconstruction(bad, truth)
    with pytest.raises(InputError, match=r"truth.*zero everywhere"):
        evaluate_reconstruction(truth, np.zeros_like(truth))
    with pytest.raises(InputError, match=r"region.*mask of shape"):
        evaluate_reconstruction(truth, truth, region=np.ones((3, 3), dtype=bool))
    thin = np.zeros(truth.shape, dtype=bool)
    thin[:5] = True
    with pytest.raises(InputError, match="at least 16 pixels"):
        evaluate_reconstruction(truth, truth, region=thin)
