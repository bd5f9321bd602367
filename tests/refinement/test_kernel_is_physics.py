"""The kernel's forward model, written by hand for its adjoint, is the one of ``physics/diffraction.py``."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from ptycho_ray.evaluation.explained import Explained
from ptycho_ray.physics.diffraction import centred, far_field, illuminate, illuminate_slices, measure
from ptycho_ray.physics.propagation import FarField, FreeSpace
from ptycho_ray.refinement.estimate import Estimate
from ptycho_ray.refinement.kernel import EPSILON, STABILISER, Kernel
from ptycho_ray.refinement.patch_geometry import Geometry

N, PATTERNS = 16, 4
DOUBLE = torch.complex128


def fourier_shifted(modes: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Modes [P, N, N] moved by [2] pixels: each spectral component by its own phase."""
    frequency = torch.fft.fftfreq(N, dtype=torch.float64)
    phase = frequency[:, None] * shift[0] + frequency[None, :] * shift[1]
    return torch.fft.ifft2(torch.fft.fft2(modes) * torch.exp(-2j * torch.pi * phase))


@pytest.mark.parametrize(
    ("modes", "slices", "near_field", "extras"),
    list(itertools.product([1, 3], [1, 3], [False, True], [False, True])),
)
def test_the_kernel_predicts_what_the_physics_predicts(modes, slices, near_field, extras):
    """``extras``: eigenmodes, the intensity of each pattern, a background, bad pixels, and counts of photons."""
    draw = torch.Generator().manual_seed(2)

    def real(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=draw, dtype=torch.float64)

    def wave(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=DOUBLE)

    geometry = Geometry(np.random.default_rng(0).uniform(0, 12, (PATTERNS, 2)), N, dtype=DOUBLE)
    propagator = FreeSpace(N, 8.0, dtype=DOUBLE) if near_field else FarField()
    between = FreeSpace(N, 5.0, (0.4, -0.7), dtype=DOUBLE)
    probe, image = wave(modes, N, N), wave(slices, geometry.height, geometry.width)
    eigenmodes = 2 if extras else 0
    eigen, weight = 0.3 * wave(eigenmodes, N, N), real(PATTERNS, eigenmodes)
    scale = real(PATTERNS) + 0.5 if extras else torch.ones(PATTERNS, dtype=torch.float64)
    background = real(N, N) if extras else None
    good = (real(N, N) > 0.2).double() if extras else None
    counts = 5 * real(PATTERNS, N, N)
    stabiliser = STABILISER if extras else 0.0
    kernel = Kernel(counts.sqrt(), geometry, propagator, good=good, between=between, stabiliser=stabiliser)

    def spectrum(waves: torch.Tensor) -> torch.Tensor:
        return torch.fft.fft2(waves, norm="ortho") if len(waves) else waves

    state = Estimate(image, spectrum(probe), spectrum(eigen), weight, scale, background)
    rows = torch.arange(PATTERNS)
    waves = kernel.forward(state, rows)
    losses = kernel.compare(kernel.forward(state, rows), scale)[0]
    for row, (top, left) in enumerate(geometry.corners):
        lit = probe.clone()
        if extras:
            lit[0] += (weight[row, :, None, None] * eigen).sum(dim=0)
        lit = fourier_shifted(lit, geometry.fraction[row])
        patches = [each[top : top + N, left : left + N] for each in image]
        exit_waves = illuminate(patches[0], lit) if slices == 1 else illuminate_slices(patches, lit, between)
        at_detector = propagator.forward(exit_waves) if near_field else far_field(exit_waves)
        expected = scale[row] ** 2 * measure(at_detector)
        if background is not None:
            expected = expected + background
        torch.testing.assert_close(waves.intensity[row], expected)
        torch.testing.assert_close(propagator.restore(expected), expected if near_field else centred(expected))
        difference = (expected + stabiliser + EPSILON).sqrt() - (counts[row] + stabiliser).sqrt()
        explained = difference if good is None else Explained(difference, counts[row], good).seen
        torch.testing.assert_close(losses[row], explained.square().sum())


def test_without_the_shift_between_pixels_it_would_not():
    """The comparison above can fail: a shift by half a pixel changes what a patch diffracts."""
    draw = torch.Generator().manual_seed(2)
    probe, patch = (torch.randn(1, N, N, generator=draw, dtype=DOUBLE) for _ in range(2))
    moved = fourier_shifted(probe, torch.tensor([0.5, 0.0], dtype=torch.float64))
    here, there = (measure(far_field(illuminate(patch[0], each))) for each in (probe, moved))
    assert not torch.allclose(here, there, rtol=0.1)
