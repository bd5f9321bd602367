"""Numeric parity with the reference wherever it computes the intended mathematics (callchain section 7, taps 7 to 16)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptycho_ray.data.normalisation import central_disc, mean_masked_probe
from ptycho_ray.physics.blur import smooth_exit_wave
from ptycho_ray.physics.diffraction import diffract, diffraction_intensity, illuminate
from ptycho_ray.physics.likelihood import (
    amplitude,
    amplitude_absolute_error,
    poisson_deviance,
    poisson_negative_log_likelihood,
    total_variation,
)
from ptycho_ray.physics.merging import extract_patches, merge_central_mask
from ptycho_ray.physics.translation import cut_from_canvas, place_patches, translate


def channels_first(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(array, -1, 1).copy())


def relative_positions(offsets_B12C: np.ndarray) -> torch.Tensor:
    """The reference's -(position - centre) as [x, y] to our position - centre as (row, column), [B, C, 2]."""
    return torch.from_numpy(-offsets_B12C[:, 0].transpose(0, 2, 1)[..., ::-1].astype(np.float32).copy())


def close(actual: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    """Equal to the expected images; of those, tests/golden may hold the first of a batch and the first channel alone."""
    assert actual.shape[-2:] == expected.shape[-2:]
    actual = actual[tuple(slice(length) for length in expected.shape[:-2])]
    expected_tensor = torch.from_numpy(np.ascontiguousarray(expected))
    assert actual.shape == expected_tensor.shape
    scale = expected_tensor.abs().max()
    worst = (actual - expected_tensor).abs().max()
    assert worst <= tolerance * scale, f"largest difference {worst:.3g} at a scale of {scale:.3g}"


def shifted(data) -> torch.Tensor:
    images = torch.from_numpy(data["translate/img"][..., 0])
    return translate(images, torch.from_numpy(data["translate/offsets_xy"][: len(images), ::-1].copy()))


def test_translation_equals_the_intended_path(golden):
    data = golden("c_physics_forward.npz")
    close(shifted(data), data["translate/bilinear_xla"][..., 0], 1e-6)


def test_translation_is_not_the_mirrored_fallback(golden):
    data = golden("c_physics_forward.npz")
    mirrored = torch.from_numpy(data["translate/bilinear_noxla"][..., 0])
    assert (shifted(data)[: len(mirrored)] - mirrored).abs().max() > 0.1


@pytest.mark.parametrize("gridsize", [1, 2])
def test_merge_extract_and_diffract(golden, gridsize):
    data = golden("c_physics_forward.npz")
    tap = {name.removeprefix(f"gs{gridsize}/"): data[name] for name in data.files if name.startswith(f"gs{gridsize}/")}
    patches = torch.polar(channels_first(tap["amp"]), channels_first(tap["phase"]))
    close(patches, np.moveaxis(tap["obj"], -1, 1), 1e-6)

    every = relative_positions(tap["offsets"])
    relative = every[: len(patches)]
    centred = relative - every.mean(dim=(0, 1))  # the reference subtracts the mean of the whole batch before it merges
    canvas = merge_central_mask(patches, centred, int(tap["padded_size"]))
    close(canvas, tap["reassembled_padded"][..., 0], 1e-5)

    extracted = extract_patches(canvas, relative, 64)
    close(extracted.reshape(-1, 64, 64), tap["extracted_flat"][..., 0], 1e-5)

    probe = torch.from_numpy(tap["probe_set"][..., 0])
    exit_waves = illuminate(extracted, probe[None])
    close(exit_waves.reshape(-1, 64, 64), tap["illuminated"][..., 0], 1e-5)
    close(smooth_exit_wave(exit_waves, 0.8).reshape(-1, 64, 64), tap["illuminated_sigma0.8"][..., 0], 1e-5)
    disc = torch.from_numpy(central_disc(64))
    close((exit_waves * disc).reshape(-1, 64, 64), tap["illuminated_masked"][..., 0], 1e-5)

    predicted = amplitude(diffraction_intensity(exit_waves))
    close(predicted, np.moveaxis(tap["pred_diff_channel"], -1, 1), 1e-5)
    close(predicted * float(tap["intensity_scale"]), np.moveaxis(tap["pred_amp_scaled"], -1, 1), 1e-5)


def test_object_big_false_is_placing_without_division(golden):
    data = golden("c_physics_forward.npz")
    patches = torch.from_numpy(data["gs1/obj"][..., 0])
    placed = place_patches(patches, torch.zeros(len(patches), 2), 74)
    close(placed, data["gs1/pad_reconstruction_object_big_False"][..., 0], 1e-7)


def test_diffraction_amplitude(golden):
    data = golden("c_physics_forward.npz")
    waves = torch.from_numpy(data["pad_and_diffract/in"][..., 0])
    close(diffract(waves).abs(), data["pad_and_diffract/amp"][..., 0], 1e-5)
    close(diffraction_intensity(waves[:, None]).sqrt(), data["pad_and_diffract/amp"][..., 0], 1e-5)


def test_poisson_likelihood_and_its_gradient(golden):
    data = golden("d_losses.npz")
    rate = torch.from_numpy(data["pred_intensity"]).requires_grad_()
    counts = torch.from_numpy(data["target_intensity"])
    nll = poisson_negative_log_likelihood(rate, counts)
    close(nll.detach(), data["nll_elementwise"], 1e-5)
    assert float(nll.detach().mean()) == pytest.approx(float(data["nll_mean"]), rel=1e-5)
    nll.mean().backward()
    close(rate.grad, data["grad_nll_wrt_pred_intensity"], 1e-5)

    rate.grad = None
    (0.5 * poisson_deviance(rate, counts)).mean().backward()
    close(rate.grad, data["grad_nll_wrt_pred_intensity"], 1e-5)


def test_amplitude_error_and_its_gradient(golden):
    data = golden("d_losses.npz")
    predicted = torch.from_numpy(data["pred_amp"]).requires_grad_()
    target = torch.from_numpy(data["target_amp"])
    error = amplitude_absolute_error(predicted.square(), target).mean()
    assert float(error.detach()) == pytest.approx(float(data["mae"]), rel=1e-5)
    error.backward()
    close(predicted.grad, data["grad_mae_wrt_pred_amp"], 1e-5)


def test_likelihood_at_the_edges(golden):
    """Where the reference gives NaN or infinity ours stays finite; at an ordinary rate the two agree."""
    data = golden("d_losses.npz")
    rate, counts = torch.from_numpy(data["edge_pred"]), torch.from_numpy(data["edge_target"])
    assert not np.isfinite(data["edge_nll"]).all()
    ours = poisson_negative_log_likelihood(rate, counts)
    assert torch.isfinite(ours).all()
    ordinary = data["edge_pred"] > 1e-6
    np.testing.assert_allclose(ours.numpy()[ordinary], data["edge_nll"][ordinary], rtol=1e-5)


def test_total_variation(golden):
    data = golden("d_losses.npz")
    image = torch.from_numpy(data["rs_pred"][..., 0])
    assert float(total_variation(image)) == pytest.approx(float(data["realspace/tv"]), rel=1e-5)


def test_probe_level(golden):
    """The reference divides the probe by probe_scale times its mean amplitude in a disc: part of our object_scale."""
    data = golden("h_probe.npz")
    guess = data["set_probe_guess_in"]
    normalised = guess / (4.0 * mean_masked_probe(guess[None]))
    close(torch.from_numpy(normalised.astype(np.complex64)), data["set_probe_guess_out"][..., 0], 1e-6)
    assert np.array_equal(central_disc(64), data["probe_mask_64"][..., 0])


@pytest.mark.parametrize("gridsize", [1, 2])
def test_merge_of_real_groups(golden, gridsize):
    data = golden("e_reassembly.npz")
    tap = {name.removeprefix(f"gs{gridsize}/"): data[name] for name in data.files if name.startswith(f"gs{gridsize}/")}
    patches = channels_first(tap["patches"])
    relative = relative_positions(tap["coords_relative"])[: len(patches)]
    side = int(tap["padded_size"])
    total = place_patches(patches.real.contiguous(), relative, side).sum(dim=1)
    close(total, tap["within_sum_real"][..., 0], 1e-5)
    canvas = merge_central_mask(patches, relative, side)
    close(canvas, tap["within_reassembled"][..., 0], 1e-5)


def test_torch_backend_merges_and_extracts_alike_inside(golden):
    """The PyTorch reference differs at the border (co-masked numerator, rounding of its grid); its extraction agrees."""
    data = golden("t_ops.npz")
    canvas = torch.from_numpy(data["gs2/c/reassembled"])
    relative = torch.from_numpy(-data["gs2/c/offsets"][: len(canvas), :, 0, ::-1].copy())
    ours = cut_from_canvas(canvas[:, None].expand(-1, 4, -1, -1), relative, 64)
    close(ours[..., 2:-2, 2:-2], data["gs2/c/extracted"][..., 2:-2, 2:-2], 2e-4)
