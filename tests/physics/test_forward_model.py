"""Laws of the one forward model, for numpy arrays and tensors alike, and of free-space propagation."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from ptycho_ray.physics import optics
from ptycho_ray.physics.diffraction import (
    centred,
    diffract,
    diffraction_intensity,
    far_field,
    illuminate,
    illuminate_slices,
    measure,
)
from ptycho_ray.physics.propagation import FarField, FreeSpace

N = 16


@pytest.fixture
def waves(rng):
    return rng.normal(size=(3, 2, N, N)) + 1j * rng.normal(size=(3, 2, N, N))


def test_arrays_and_tensors_have_one_physics(waves, rng):
    patches = rng.normal(size=(3, N, N)) + 1j * rng.normal(size=(3, N, N))
    probe = waves[0]
    as_arrays = diffraction_intensity(illuminate(patches, probe))
    as_tensors = diffraction_intensity(illuminate(torch.from_numpy(patches), torch.from_numpy(probe)))
    assert isinstance(as_arrays, np.ndarray)
    np.testing.assert_allclose(as_arrays, as_tensors.numpy(), rtol=1e-12)
    single = diffraction_intensity(illuminate(patches.astype(np.complex64), probe.astype(np.complex64)))
    assert single.dtype == np.float32


def test_simulation_needs_no_torch():
    code = "import sys, numpy as np, ptycho_ray.physics.optics\nfrom ptycho_ray.physics.diffraction import diffract\n"
    code += "diffract(np.ones((4, 4), complex)); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("operator", [FarField(), FreeSpace(N, 7.0, dtype=torch.complex128)])
def test_propagation_is_unitary_and_symmetric(operator, waves):
    """Parseval; <F a, b> = <a, F^-1 b>; and sum b F a = sum a F^T b."""
    a, b = torch.from_numpy(waves[:, 0]), torch.from_numpy(waves[:, 1])
    torch.testing.assert_close(operator.forward(a).abs().square().sum(), a.abs().square().sum())
    torch.testing.assert_close((operator.forward(a).conj() * b).sum(), (a.conj() * operator.backward(b)).sum())
    torch.testing.assert_close((operator.forward(a) * b).sum(), (a * operator.transpose(b)).sum())


@pytest.mark.parametrize("thick", [False, True])
def test_global_phase_is_invisible_and_dose_scales(thick, waves):
    slices, probe = torch.from_numpy(waves[:2, 0]), torch.from_numpy(waves[2])
    between = FreeSpace(N, 3.0, dtype=torch.complex128)

    def photons(scale: complex, dose: float = 1.0) -> torch.Tensor:
        lit = probe * math.sqrt(dose)
        if not thick:
            return measure(far_field(illuminate(scale * slices[0], lit)))
        return measure(far_field(illuminate_slices([scale * slices[0], slices[1]], lit, between)))

    torch.testing.assert_close(photons(np.exp(0.7j)), photons(1.0))
    torch.testing.assert_close(photons(1.0, 10.0), 10 * photons(1.0))


def test_gradients_through_a_thick_object_against_finite_differences():
    draw = torch.Generator().manual_seed(5)
    first, second = (torch.randn(6, 6, generator=draw, dtype=torch.complex128, requires_grad=True) for _ in range(2))
    probe = torch.randn(2, 6, 6, generator=draw, dtype=torch.complex128, requires_grad=True)
    between = FreeSpace(6, 3.0, dtype=torch.complex128)
    assert torch.autograd.gradcheck(
        lambda a, b, p: measure(far_field(illuminate_slices([a, b], p, between))), (first, second, probe)
    )


def test_slices_without_a_distance_are_their_product(waves):
    slices, probe = torch.from_numpy(waves[:, 0]), torch.from_numpy(waves[0])
    none = FreeSpace(N, 0.0, dtype=torch.complex128)
    torch.testing.assert_close(illuminate_slices(list(slices), probe, none), illuminate(slices.prod(dim=0), probe))


def test_a_centred_frame_has_its_zero_frequency_in_the_middle():
    flat = np.ones((1, N, N), complex)
    assert np.argmax(measure(far_field(flat))) == 0
    assert np.unravel_index(np.argmax(np.abs(diffract(flat[0]))), (N, N)) == (N // 2, N // 2)
    np.testing.assert_array_equal(centred(measure(far_field(flat))), diffraction_intensity(flat))


def test_free_space_has_one_sign(rng):
    """The exact, the paraxial and the solver's propagation agree, and a converging wave comes to its focus downstream."""
    energy, pixel, distance = 10_000.0, 20e-9, 200e-6
    px2 = optics.wavelength_m(energy) * distance / pixel**2
    axis = np.arange(64) - 32
    squared = axis[:, None] ** 2 + axis[None, :] ** 2
    curvature = np.exp(
        -1j * np.pi * squared / px2
    )  # exp(-i k r**2 / 2 f) converges to a focus at z = f under exp(+ikz)
    lens = np.exp(-squared / 100.0) * curvature
    exact = optics.propagate(lens, distance, energy_eV=energy, pixel_size_m=pixel)
    paraxial = optics.fresnel_propagate(lens, px2)
    np.testing.assert_allclose(exact, paraxial, atol=2e-3 * np.abs(exact).max())
    solver = FreeSpace(64, px2, dtype=torch.complex128).forward(torch.from_numpy(lens))
    np.testing.assert_allclose(solver.numpy(), paraxial, atol=1e-12)
    assert np.abs(exact).max() > 2 * np.abs(lens).max()
    assert np.abs(optics.fresnel_propagate(lens, -px2)).max() < np.abs(lens).max()


def test_probe_diameter_and_overlap():
    axis = np.arange(128) - 64
    disc = (np.hypot(axis[:, None], axis[None, :]) <= 30).astype(complex)[None]
    diameter = optics.probe_diameter_px(disc)
    assert diameter == pytest.approx(60 * math.sqrt(0.9), abs=1.0)
    grid = np.stack(np.meshgrid(np.arange(5) * 6.0, np.arange(5) * 6.0), axis=-1).reshape(-1, 2)
    assert optics.linear_overlap(grid, diameter) == pytest.approx(1 - 6 / diameter)
    assert optics.linear_overlap(10 * grid, 40.0) < 0
