"""Stacks of patterns in memory: units, checks, selection."""

from __future__ import annotations

import numpy as np
import pytest

from ptycho_ray.data import PatternStack, patterns
from ptycho_ray.data.patterns import holds_counts, is_integral, squares_are_integral
from ptycho_ray.errors import InputError


@pytest.fixture
def counts(rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(20.0, size=(6, 8, 8)).astype(np.uint16)


def test_intensity_and_amplitude_of_counts(counts: np.ndarray) -> None:
    stack = PatternStack(counts, "intensity")
    assert stack.shape == (6, 8, 8)
    assert stack.intensity().dtype == stack.amplitude().dtype == np.float32
    np.testing.assert_array_equal(stack.intensity(), counts)
    np.testing.assert_allclose(stack.amplitude([1, 4]), np.sqrt(counts[[1, 4]]), rtol=1e-6)


def test_amplitude_is_squared_without_overflow() -> None:
    stack = PatternStack(np.full((2, 4, 4), 60000, dtype=np.uint16), "amplitude")
    np.testing.assert_allclose(stack.intensity(), 3.6e9)


def test_reading_leaves_the_stored_numbers_alone(rng: np.random.Generator) -> None:
    stored = rng.random((3, 4, 4), dtype=np.float32)
    copy = stored.copy()
    stack = PatternStack(stored, "amplitude")
    stack.intensity()
    stack.amplitude()[:] = 0
    np.testing.assert_array_equal(stored, copy)


def test_indices_of_any_shape(counts: np.ndarray) -> None:
    groups = np.array([[0, 5, 0], [2, 2, 1]])
    np.testing.assert_array_equal(PatternStack(counts, "intensity").intensity(groups), counts[groups])


@pytest.mark.parametrize("indices", [[6], [-1], [True, False]])
def test_wrong_indices_are_refused(counts: np.ndarray, indices: list[int]) -> None:
    with pytest.raises(InputError, match="pattern indices"):
        PatternStack(counts, "intensity").intensity(indices)


def test_take_keeps_frame_numbers_for_messages(counts: np.ndarray) -> None:
    counts[4] = 0
    part = PatternStack(counts, "intensity", file="scan.npz", field="dp").take([5, 4])
    np.testing.assert_array_equal(part.intensity([0])[0], counts[5])
    with pytest.raises(InputError, match=r"scan.npz: dp: found no signal .* 1 pattern \(index 4\)"):
        part.intensity()


@pytest.mark.parametrize(
    ("value", "message"), [(np.nan, "not finite"), (np.inf, "not finite"), (-1.0, "negative values")]
)
def test_impossible_values_are_refused(counts: np.ndarray, value: float, message: str) -> None:
    stored = counts.astype(np.float32)
    stored[[1, 3], 2, 2] = value
    stack = PatternStack(stored, "intensity")
    stack.intensity([0, 2])
    with pytest.raises(InputError, match=rf"{message}.* in 2 patterns \(index 1, 3\)"):
        stack.intensity()


def test_many_dead_frames_are_counted(counts: np.ndarray) -> None:
    stack = PatternStack(np.concatenate([counts, np.zeros((9, 8, 8), np.uint16)]), "intensity")
    with pytest.raises(InputError, match=r"9 patterns \(index 6, 7, 8, 9, 10 and 4 more\)"):
        stack.energies()


def test_bad_pixels_are_zero_before_the_checks(counts: np.ndarray) -> None:
    counts[:, 3, 4] = np.iinfo(np.uint16).max
    with pytest.raises(InputError, match="mark bad pixels"):
        PatternStack(counts, "intensity").intensity()
    mask = np.zeros((8, 8), dtype=bool)
    mask[3, 4] = True
    intensity = PatternStack(counts, "intensity", bad_pixels=mask).intensity()
    assert not intensity[:, 3, 4].any()
    with pytest.raises(InputError, match="bad_pixels: found shape"):
        PatternStack(counts, "intensity", bad_pixels=mask[:4])


def test_transpose_exchanges_rows_and_columns(counts: np.ndarray) -> None:
    stack = PatternStack(counts, "intensity", transpose=True)
    np.testing.assert_array_equal(stack.intensity(), counts.swapaxes(1, 2))
    np.testing.assert_array_equal(stack.sample(), counts.swapaxes(1, 2))


def test_streamed_sums_equal_the_direct_ones(counts: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "CHUNK_BYTES", 2 * 4 * 64)
    stack = PatternStack(counts, "intensity")
    assert [len(piece) for _, piece in stack.chunks()] == [2, 2, 2]
    np.testing.assert_allclose(stack.energies(), counts.sum(axis=(1, 2)))


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.ones((3, 8, 9)), "patterns of 8 x 9 pixels; expected square"),
        (np.ones((3, 0, 0)), "square"),
        (np.ones((8, 8)), r"shape \(8, 8\)"),
        (np.ones((3, 8, 8), complex), "complex128"),
        (np.full((3, 8, 8), "a"), "expected real numbers"),
    ],
)
def test_wrong_shapes_and_types_are_refused(frames: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PatternStack(frames, "intensity")


def test_unknown_domain_is_refused(counts: np.ndarray) -> None:
    with pytest.raises(InputError, match="'amplitude' or 'intensity'"):
        PatternStack(counts, "phase")  # type: ignore[arg-type]


def test_counting_numbers_are_recognised(rng: np.random.Generator) -> None:
    counts = rng.poisson(300.0, size=(4, 16, 16))
    assert is_integral(counts)
    assert is_integral(counts.astype(np.float32))
    assert not is_integral(counts * 0.5 + 0.25)
    assert not is_integral((counts > 0).astype(np.float32))
    assert squares_are_integral(np.sqrt(counts).astype(np.float32))
    assert not squares_are_integral(np.sqrt(counts).astype(np.float32) / 31.6)
    assert not squares_are_integral(np.full((2, 4, 4), 1e-4))
    assert not squares_are_integral(np.full((2, 4, 4), 1e4))
    assert holds_counts(PatternStack(counts, "intensity"))
    assert holds_counts(PatternStack(np.sqrt(counts), "amplitude"))
    assert not holds_counts(PatternStack(np.sqrt(counts), "intensity"))
