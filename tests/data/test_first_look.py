"""Virtual images, the raster of a scan, and the phase that the centre of mass integrates to."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ptycho_ray.data.first_look import first_look
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.data.scan_grid import scan_grid
from ptycho_ray.data.virtual_images import detector_sums, virtual_images
from ptycho_ray.physics.phase_gradient import curl, divergence, integrate_gradient


def raster(rows: int, columns: int, step: tuple[float, float], degrees: float) -> NDArray[np.float64]:
    turn = np.radians(degrees)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * np.array(step)[:, None]
    return np.stack(np.indices((rows, columns)), -1).reshape(-1, 2) @ axes + [50.0, 70.0]


def smooth_phase(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    row, column = (positions - [60, 80]).T / 9
    return 0.8 * np.exp(-(row**2) - column**2) - 0.5 * np.exp(-((row - 1) ** 2) - (column + 1) ** 2)


@pytest.fixture(scope="module")
def scan() -> RawData:
    """A focused probe over a smooth phase object, 12 x 12 positions; noise-free counts with a sharp disc."""
    N, positions = 32, raster(12, 12, (2.0, 2.0), 0)
    axis = np.arange(N) - N // 2
    aperture = (np.hypot(axis[:, None], axis) <= 7.2).astype(complex)
    probe = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(aperture), norm="ortho"))
    grid = np.stack(np.indices((160, 160)), -1)
    image = np.exp(1j * smooth_phase(grid.reshape(-1, 2)).reshape(160, 160))
    counts = []
    for row, column in positions.astype(int) - N // 2:
        wave = np.fft.fftshift(np.fft.fft2(image[row : row + N, column : column + N] * probe, norm="ortho"))
        counts.append(np.rint(1e3 * np.abs(wave) ** 2))
    return RawData(
        positions[:, 1], positions[:, 0], None, None, np.array(counts, np.uint16), probe.astype(np.complex64)
    )


@settings(max_examples=30, deadline=None)
@given(
    st.integers(3, 9),
    st.integers(3, 9),
    st.floats(1, 5),
    st.floats(0.6, 1.6),
    st.floats(-40, 40),
    st.integers(0, 2**32 - 1),
)
def test_a_raster_is_found_whatever_its_turn_and_order(
    rows: int, columns: int, step: float, ratio: float, degrees: float, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    positions = raster(rows, columns, (step, ratio * step), degrees)
    order = generator.permutation(len(positions))
    grid = scan_grid(positions[order] + generator.uniform(-0.02, 0.02, positions.shape) * step)
    assert grid.point is not None
    assert sorted(grid.shape) == sorted((rows, columns))
    assert sorted(grid.step_px) == pytest.approx(sorted((step, ratio * step)), rel=0.05)
    np.testing.assert_allclose(grid.points_px()[grid.point], grid.positions_px, atol=0.1 * step)
    values = generator.normal(size=len(positions))
    np.testing.assert_array_equal(grid.image(values).ravel()[grid.point], values)


def test_positions_that_are_no_raster_are_interpolated() -> None:
    positions = np.random.default_rng(0).uniform(0, 40, (300, 2))
    grid = scan_grid(positions)
    assert grid.point is None
    inside = np.isfinite(grid.upright(grid.image(positions[:, 0])))
    points = grid.points_px().reshape(*grid.shape, 2)
    off = np.abs(grid.image(positions[:, 0]) - points[..., 0])
    assert inside.mean() > 0.9
    assert np.median(off[inside]) < 1e-9


def test_a_turned_raster_is_drawn_upright_and_blank_where_no_scan_was() -> None:
    positions = raster(20, 20, (2.0, 2.0), 30)
    grid = scan_grid(positions)
    drawn = grid.upright(grid.image(positions[:, 0]))
    assert 0.3 < np.isnan(drawn).mean() < 0.6
    low = grid.points_px().min(axis=0)
    expected = low[0] + np.arange(drawn.shape[0])[:, None] * grid.upright_step_px[0] + 0 * drawn
    measured = np.isfinite(drawn)
    assert np.median(np.abs(drawn - expected)[measured]) < 1e-6


@settings(max_examples=20, deadline=None)
@given(st.integers(4, 12), st.integers(4, 12), st.floats(0.3, 3), st.integers(0, 2**32 - 1))
def test_a_quadratic_phase_is_integrated_without_assuming_a_border(
    rows: int, columns: int, step: float, seed: int
) -> None:
    a, b, c, d, e = np.random.default_rng(seed).normal(size=5)
    row, column = np.meshgrid(step * np.arange(rows), 2 * step * np.arange(columns), indexing="ij")
    phase = a * row + b * column + c * row**2 + d * column**2 + e * row * column
    field = np.stack([a + 2 * c * row + e * column, b + 2 * d * column + e * row], axis=-1)
    found = integrate_gradient(field, (step, 2 * step))
    np.testing.assert_allclose(found, phase - phase.mean(), atol=1e-7 * (1 + np.abs(phase).max()))
    np.testing.assert_allclose(curl(field, (step, 2 * step)), 0, atol=1e-9 * (1 + np.abs(field).max()))
    np.testing.assert_allclose(divergence(field, (step, 2 * step)), 2 * c + 2 * d, atol=1e-7)


def test_the_integrated_centre_of_mass_is_the_phase(scan: RawData) -> None:
    look = first_look(scan)
    assert look.virtual.disc is not None
    assert look.virtual.disc.radius_px == pytest.approx(7.2, abs=0.3)
    wanted = look.grid.image(smooth_phase(scan.positions_px))
    found, wanted = look.phase - look.phase.mean(), wanted - wanted.mean()
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.9
    assert found.std() == pytest.approx(wanted.std(), rel=0.35)
    assert look.curl_share < 0.2


def test_virtual_detectors_share_out_what_was_detected(scan: RawData) -> None:
    seen, intensity = virtual_images(scan), scan.patterns.intensity().astype(np.float64)
    np.testing.assert_allclose(seen.total, intensity.sum(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(seen.mean, intensity.mean(axis=0), rtol=1e-5)
    assert seen.bright is not None and seen.dark is not None  # noqa: PT018
    np.testing.assert_allclose(seen.bright + seen.dark, 1)
    rows = (intensity.sum(axis=2) @ np.arange(scan.N)) / seen.total
    np.testing.assert_allclose(seen.centre_px[:, 0], rows - np.average(rows, weights=seen.total), atol=1e-4)


def test_detector_sums_do_not_depend_on_the_blocks(scan: RawData, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = np.random.default_rng(0).random((3, scan.N, scan.N)).astype(np.float32)
    whole = detector_sums(scan.patterns, weights)
    monkeypatch.setattr("ptycho_ray.data.patterns.CHUNK_BYTES", 5 * 4 * scan.N**2)
    for one, other in zip(detector_sums(scan.patterns, weights), whole, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
