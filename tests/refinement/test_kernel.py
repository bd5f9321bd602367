"""The update kernel: hand-written derivatives against finite differences, in double precision."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from ptycho_ray.physics.diffraction import diffraction_intensity
from ptycho_ray.physics.propagation import FarField, FreeSpace
from ptycho_ray.refinement.batching import compact_pieces, default_batch_size, draw_batches
from ptycho_ray.refinement.estimate import Estimate
from ptycho_ray.refinement.kernel import STABILISER, Kernel
from ptycho_ray.refinement.patch_geometry import Geometry

N, PATTERNS, MODES, EIGEN = 16, 5, 2, 2
DOUBLE = torch.complex128


class Problem:
    """Random numbers in every unknown."""

    def __init__(self, near_field: bool, slices: int, stabiliser: float = 0.0, poisson: bool = False) -> None:
        draw = torch.Generator().manual_seed(1)

        def real(*shape: int) -> torch.Tensor:
            return torch.rand(*shape, generator=draw, dtype=torch.float64)

        def wave(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=draw, dtype=DOUBLE)

        positions = np.random.default_rng(0).uniform(0, 12, (PATTERNS, 2))
        self.geometry = Geometry(positions, N, margin_px=2, dtype=DOUBLE)
        self.kernel = Kernel(
            3 * real(PATTERNS, N, N),
            self.geometry,
            FreeSpace(N, 8.0, dtype=DOUBLE) if near_field else FarField(),
            good=(real(N, N) > 0.1).double(),
            between=FreeSpace(N, 5.0, (0.4, -0.7), dtype=DOUBLE),
            stabiliser=stabiliser,
            poisson=poisson,
        )
        self.state = Estimate(
            wave(slices, self.geometry.height, self.geometry.width),
            wave(MODES, N, N),
            0.3 * wave(EIGEN, N, N),
            real(PATTERNS, EIGEN),
            real(PATTERNS) + 0.5,
            real(N, N),
        )
        self.rows = torch.tensor([0, 2, 4])
        self.draw = wave

    def loss(self) -> float:
        waves = self.kernel.forward(self.state, self.rows)
        return float(self.kernel.compare(waves, self.state.scale)[0].sum())

    def slope(self, move: Callable[[float], None]) -> float:
        step = 1e-6
        move(step)
        above = self.loss()
        move(-2 * step)
        below = self.loss()
        move(step)
        return (above - below) / (2 * step)


@pytest.mark.parametrize("near_field", [False, True])
@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize(("stabiliser", "poisson"), [(0.0, False), (STABILISER, False), (STABILISER, True)])
def test_derivatives_are_those_of_finite_differences(near_field, slices, stabiliser, poisson):
    problem = Problem(near_field, slices, stabiliser, poisson)
    kernel, state, rows = problem.kernel, problem.state, problem.rows
    waves = kernel.forward(state, rows)
    _, by_intensity, by_wave = kernel.compare(waves, state.scale)
    by_patch, behind = kernel.back_to_object(waves, by_wave)
    by_probe = kernel.back_to_probe(state, waves, behind)
    by_object = torch.zeros_like(state.object)
    for canvas, patches in zip(by_object, by_patch, strict=True):
        kernel.scatter(canvas, waves.lines, patches)
    by_weight = torch.zeros_like(state.eigen_weight)
    by_weight[rows] = by_probe.eigen_weight
    for value, derivative in (
        (state.object, by_object),
        (state.probe_spectrum, by_probe.spectrum),
        (state.eigen_spectrum, by_probe.eigen_spectrum),
        (state.eigen_weight, by_weight),
        (state.background, by_intensity.sum(dim=0)),
    ):
        way = problem.draw(*value.shape)
        way = way if value.is_complex() else way.real
        expected = problem.slope(lambda step, value=value, way=way: value.add_(way, alpha=step))
        found = float((2 * (derivative * way).sum()).real) if value.is_complex() else float((derivative * way).sum())
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    way = problem.draw(len(rows), 2).real
    expected = problem.slope(lambda step: problem.geometry.shift(rows, step * way))
    assert float((by_probe.position_px * way).sum()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("stabiliser", "poisson"), [(0.0, False), (STABILISER, False), (STABILISER, True)])
def test_the_intensity_that_explains_a_pattern_best_is_that_of_the_least_loss(stabiliser, poisson):
    """Otherwise object and probe, which follow the loss, would undo it and it would drift for ever."""
    problem = Problem(near_field=False, slices=1, stabiliser=stabiliser, poisson=poisson)
    kernel, state, rows = problem.kernel, problem.state, problem.rows
    state.background = None
    for _ in range(30):
        state.scale[rows] *= kernel.best_scale(kernel.forward(state, rows))
    curvature = problem.loss()  # of its order, for scales of about one
    assert abs(problem.slope(lambda step: state.scale.add_(step))) < 1e-5 * curvature


def test_the_forward_model_is_that_of_the_physics(rng):
    """At whole positions, without scale and background."""
    problem = Problem(near_field=False, slices=1)
    geometry = Geometry(np.array([[10.0, 11.0], [12.0, 9.0]]), N, dtype=DOUBLE)
    kernel = Kernel(torch.ones(2, N, N, dtype=torch.float64), geometry, FarField())
    probe = problem.draw(MODES, N, N)
    image = problem.draw(1, geometry.height, geometry.width)
    none = torch.zeros(0, N, N, dtype=DOUBLE)
    ones = torch.ones(2, dtype=torch.float64)
    state = Estimate(image, torch.fft.fft2(probe, norm="ortho"), none, torch.zeros(2, 0, dtype=torch.float64), ones)
    found = torch.fft.fftshift(kernel.forward(state, torch.arange(2)).intensity, dim=(-2, -1))
    for row, (top, left) in enumerate(geometry.corners):
        patch = image[0, top : top + N, left : left + N]
        torch.testing.assert_close(found[row], diffraction_intensity(patch * probe))


def test_positions_survive_being_split_and_settled(rng):
    positions = rng.uniform(0, 30, (7, 2))
    geometry = Geometry(positions, N, margin_px=3, dtype=DOUBLE)
    np.testing.assert_allclose(geometry.positions_px, positions, atol=1e-12)
    geometry.shift(torch.arange(7), torch.full((7, 2), 1.3, dtype=torch.float64))
    corners = geometry.corners.copy()
    geometry.settle()
    np.testing.assert_allclose(geometry.positions_px, positions + 1.3, atol=1e-12)
    assert (geometry.corners != corners).any()


@pytest.mark.parametrize("kind", ["random", "compact", "uniform"])
def test_batches_are_the_scan(kind, rng):
    positions = rng.uniform(0, 30, (50, 2))
    rows = np.arange(3, 50)
    parts = draw_batches(rows, positions, 8, kind, rng)
    assert sorted(np.concatenate(parts)) == list(rows)
    assert max(len(part) for part in parts) <= 9


def test_batches_grow_with_the_canvas_and_shrink_with_the_scan():
    def size(n, canvas):
        return default_batch_size(64, 1, n, canvas**2)

    assert size(1000, 300) == size(10_000, 500) == 32
    assert size(20, 100) == 4
    assert size(600_000, 3200) * 64**2 == pytest.approx(3200**2 / 4, rel=0.01)


def test_halves_are_compact(rng):
    positions = np.stack(np.meshgrid(np.arange(8.0), np.arange(8.0)), axis=-1).reshape(-1, 2)
    for part in compact_pieces(np.arange(64), positions, 4):
        assert np.ptp(positions[part], axis=0).max() <= 1


def test_positions_follow_whoever_moves_them():
    first = np.array([[10.0, 12.25], [20.5, 18.0]])
    geometry = Geometry(first, 8)
    np.testing.assert_allclose(geometry.positions_px, first)
    geometry.shift(torch.tensor([1]), torch.tensor([[0.25, -0.5]]))
    np.testing.assert_allclose(geometry.positions_px, [[10.0, 12.25], [20.75, 17.5]])
    geometry.fraction.add_(0.125)
    np.testing.assert_allclose(geometry.positions_px, [[10.125, 12.375], [20.875, 17.625]])
    geometry.settle()
    np.testing.assert_allclose(geometry.positions_px, [[10.125, 12.375], [20.875, 17.625]])
