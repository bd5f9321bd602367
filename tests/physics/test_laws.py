"""Laws that the forward model must obey, and analytic cases where the reference does not compute what it means to."""

from __future__ import annotations

import math

import pytest
import torch

from ptycho_ray.physics.diffraction import diffract, diffraction_intensity, illuminate
from ptycho_ray.physics.likelihood import poisson_deviance, poisson_negative_log_likelihood
from ptycho_ray.physics.merging import canvas_side, extract_patches, merge_central_mask, merge_weighted
from ptycho_ray.physics.probe import soft_disc_mask
from ptycho_ray.physics.translation import cut_from_canvas, place_patches, translate


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def complex_noise(*shape: int, generator: torch.Generator, dtype: torch.dtype = torch.complex128) -> torch.Tensor:
    return torch.randn(*shape, generator=generator, dtype=dtype)


def shifts(*shape: int, generator: torch.Generator, largest: float = 3.0) -> torch.Tensor:
    return (torch.rand(*shape, generator=generator, dtype=torch.float64) * 2 - 1) * largest


def inner(a: torch.Tensor, b: torch.Tensor) -> complex:
    return complex((a.conj() * b).sum())


def test_placing_and_cutting_are_adjoint(generator):
    patches = complex_noise(5, 12, 12, generator=generator)
    canvases = complex_noise(5, 20, 20, generator=generator)
    where = shifts(5, 2, generator=generator)
    left = inner(place_patches(patches, where, 20), canvases)
    right = inner(patches, cut_from_canvas(canvases, where, 12))
    assert left == pytest.approx(right, rel=1e-12)


def test_translation_by_whole_pixels_moves_pixels(generator):
    image = complex_noise(1, 9, 9, generator=generator)
    moved = translate(image, torch.tensor([[2.0, -1.0]], dtype=torch.float64))
    expected = torch.zeros_like(image)
    expected[:, 2:, :8] = image[:, :7, 1:]
    assert torch.allclose(moved, expected, atol=1e-15)


def test_half_a_pixel_halves_the_edge():
    image = torch.ones(1, 4, 4, dtype=torch.float64)
    moved = translate(image, torch.tensor([[0.5, 0.0]], dtype=torch.float64))
    assert moved[0, :, 0].tolist() == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("operator", ["place", "cut", "merge", "diffract", "deviance"])
def test_gradients_against_finite_differences(operator, generator):
    patches = complex_noise(1, 2, 6, 6, generator=generator).requires_grad_()
    where = shifts(1, 2, 2, generator=generator, largest=1.3).requires_grad_()
    weight = torch.rand(6, 6, generator=generator, dtype=torch.float64) + 0.1
    probe = complex_noise(2, 6, 6, generator=generator).requires_grad_()
    counts = torch.tensor([0.0, 3.0, 7.5], dtype=torch.float64)
    rate = torch.tensor([0.5, 4.0, 6.0], dtype=torch.float64, requires_grad=True)
    checks = {
        "place": (lambda p, w: place_patches(p, w, 10), (patches, where)),
        "cut": (lambda p, w: cut_from_canvas(p, w, 4), (patches, where)),
        "merge": (lambda p: merge_weighted(p, where.detach(), weight, 10), (patches,)),
        "diffract": (lambda p, q: diffraction_intensity(illuminate(p, q)), (patches, probe)),
        "deviance": (lambda r: poisson_deviance(r, counts), (rate,)),
    }
    function, arguments = checks[operator]
    assert torch.autograd.gradcheck(function, arguments)


def test_diffraction_conserves_energy(generator):
    waves = complex_noise(3, 2, 16, 16, generator=generator)
    before = waves.abs().square().sum(dim=(-3, -2, -1))
    assert torch.allclose(diffraction_intensity(waves).sum(dim=(-2, -1)), before, rtol=1e-12)


def test_zero_frequency_is_at_the_centre():
    flat = torch.ones(1, 8, 8, dtype=torch.complex128)
    intensity = diffraction_intensity(flat)
    assert intensity[4, 4] == pytest.approx(64.0)
    assert float(intensity.sum()) == pytest.approx(64.0)


def test_modes_add_as_intensities(generator):
    modes = complex_noise(2, 8, 8, generator=generator)
    together = diffraction_intensity(modes)
    assert torch.allclose(together, diffract(modes[0]).abs() ** 2 + diffract(modes[1]).abs() ** 2)
    coherent = diffract(modes.sum(dim=0)).abs() ** 2
    assert not torch.allclose(together, coherent, rtol=0.1)


def test_global_phase_is_invisible(generator):
    patch, probe = complex_noise(8, 8, generator=generator), complex_noise(1, 8, 8, generator=generator)
    turned = patch * complex(math.cos(0.7), math.sin(0.7))
    assert torch.allclose(
        diffraction_intensity(illuminate(patch, probe)), diffraction_intensity(illuminate(turned, probe))
    )


def test_dose_scales_the_intensity(generator):
    patch, probe = complex_noise(8, 8, generator=generator), complex_noise(1, 8, 8, generator=generator)
    once = diffraction_intensity(illuminate(patch, probe))
    assert torch.allclose(diffraction_intensity(illuminate(patch, probe * math.sqrt(10.0))), 10 * once)


def test_shifting_object_and_positions_together_changes_nothing(generator):
    canvas = complex_noise(1, 30, 30, generator=generator)
    where = torch.tensor([[[1.0, -2.0], [0.0, 3.0]]], dtype=torch.float64)
    step = torch.tensor([2.0, 1.0], dtype=torch.float64)
    before = extract_patches(canvas, where, 12)
    after = extract_patches(translate(canvas, step[None]), where + step, 12)
    assert torch.allclose(before, after, atol=1e-12)


def test_a_bright_pixel_lands_where_the_scan_says():
    """Gridsize 2, one bright pixel in one object: each patch sees it at its own place, the merge puts it back to one."""
    n, where = 16, torch.tensor([[[-3.0, -2.0], [-3.0, 2.0], [3.0, -2.0], [3.0, 2.0]]])
    side = canvas_side(n, 3.0)
    truth = torch.zeros(1, side, side, dtype=torch.complex64)
    truth[0, side // 2 + 1, side // 2 - 1] = 1.0
    patches = extract_patches(truth, where, n)
    for channel, (row, column) in enumerate(where[0].int().tolist()):
        brightest = int(patches[0, channel].abs().argmax())
        assert divmod(brightest, n) == (n // 2 + 1 - row, n // 2 - 1 - column)
    merged = merge_weighted(patches, where, torch.ones(n, n), side)
    assert int(merged[0].abs().argmax()) == (side // 2 + 1) * side + side // 2 - 1
    assert float(merged.abs().max()) == pytest.approx(1.0)
    assert float(merged.abs().sum()) == pytest.approx(1.0)


def test_groups_of_a_large_batch_stay_apart():
    """40 groups of 4 (160 patches): in the reference more than 63 patches collapse into one object."""
    n, groups = 16, 40
    where = torch.tensor([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]]).expand(groups, 4, 2)
    value = torch.arange(1.0, groups + 1)
    patches = value[:, None, None, None].expand(groups, 4, n, n).to(torch.complex64)
    side = canvas_side(n, 1.0)
    for merged in (merge_weighted(patches, where, torch.ones(n, n), side), merge_central_mask(patches, where, side)):
        assert merged.shape == (groups, side, side)
        assert torch.allclose(merged[:, side // 2, side // 2].real, value, rtol=1e-3)


def test_weighted_merge_has_no_bright_border():
    """Constant patches merge to the same constant wherever they reach; the reference multiplies its border by 1000."""
    n, where = 16, torch.zeros(1, 1, 2)
    patches = torch.full((1, 1, n, n), 0.5, dtype=torch.complex64)
    assert torch.allclose(merge_weighted(patches, where, torch.rand(n, n) + 0.1, n), patches[:, 0])
    assert float(merge_central_mask(patches, where, n).abs().max()) == pytest.approx(500.0)


def test_weighted_merge_prefers_the_better_illuminated_patch():
    n, where = 8, torch.tensor([[[0.0, 0.0], [0.0, 2.0]]])
    weight = torch.full((n, n), 1e-3)
    weight[:, n // 2] = 1.0
    patches = torch.stack([torch.full((n, n), 1.0), torch.full((n, n), 3.0)])[None].to(torch.complex64)
    merged = merge_weighted(patches, where, weight, canvas_side(n, 2.0))
    middle = merged.shape[-1] // 2
    assert merged[0, middle, middle].real == pytest.approx(1.0, abs=0.01)
    assert merged[0, middle, middle + 2].real == pytest.approx(3.0, abs=0.01)


def test_deviance_is_zero_at_the_measurement_and_keeps_its_precision():
    counts = torch.tensor([0.0, 1.0, 1e3, 1e7])
    assert torch.allclose(poisson_deviance(counts, counts), torch.zeros(4), atol=1e-6)
    rate = counts + counts.sqrt()
    exact = poisson_deviance(rate.double(), counts.double())
    assert torch.allclose(poisson_deviance(rate, counts).double(), exact, rtol=2e-3, atol=1e-6)


def test_deviance_and_its_gradient_are_finite_where_nothing_is_predicted():
    """Counts on pixels where probe and object leave no light at all, in single precision."""
    rate = torch.tensor([0.0, 1e-30, 1e-13, 0.0], requires_grad=True)
    counts = torch.tensor([1.0, 5.0, 1e6, 0.0])
    deviance = poisson_deviance(rate, counts)
    deviance.sum().backward()
    value = deviance.detach()
    assert torch.isfinite(value).all()
    assert torch.isfinite(rate.grad).all()
    assert value[3] == pytest.approx(0.0, abs=1e-6)
    assert value[0] == pytest.approx(2 * (27.6 - 1.0), abs=0.2)


def test_deviance_differs_from_the_likelihood_by_a_constant():
    counts = torch.tensor([2.0, 2.0, 5.0, 5.0], dtype=torch.float64)
    rate = torch.tensor([1.0, 4.0, 3.0, 9.0], dtype=torch.float64)
    difference = 0.5 * poisson_deviance(rate, counts) - poisson_negative_log_likelihood(rate, counts)
    assert difference[0] == pytest.approx(difference[1])
    assert difference[2] == pytest.approx(difference[3])


def test_soft_disc_has_half_height_at_its_radius():
    disc = soft_disc_mask(33, diameter_px=20.0, sigma_px=1.5)
    assert disc[16, 16] == pytest.approx(1.0, abs=1e-3)
    assert disc[16, 26] == pytest.approx(0.5, abs=0.01)
    assert disc[0, 0] == pytest.approx(0.0, abs=1e-6)
