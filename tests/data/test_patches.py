"""Truth patches are cut at the true scan positions."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptycho_ray.data import RawData, cut_patches, get_image_patches


def linear_ramp(shape: tuple[int, int]) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (rows + 1j * columns).astype(np.complex64)


def test_patch_pixel_at_half_n_lies_on_the_position() -> None:
    positions = np.array([[20.0, 30.0], [20.25, 29.5]])
    patches = cut_patches(linear_ramp((64, 64)), positions, 8)
    np.testing.assert_allclose(patches[:, 4, 4], positions[:, 0] + 1j * positions[:, 1], atol=1e-5)
    np.testing.assert_allclose(patches[1, 0, 7], 16.25 + 32.5j, atol=1e-5)


def test_outside_the_object_is_zero() -> None:
    ones = np.ones((10, 12), dtype=np.complex64)
    patches = cut_patches(ones, np.array([[0.0, 0.0], [0.5, 6.0], [1e6, -1e6]]), 4)
    expected = np.zeros((4, 4))
    expected[2:, 2:] = 1
    np.testing.assert_array_equal(patches[0], expected)
    np.testing.assert_allclose(patches[1][:, 0], [0, 0.5, 1, 1])
    assert not patches[2].any()


def test_leading_axes_are_kept() -> None:
    positions = np.full((3, 2, 2), 10.0)
    assert cut_patches(linear_ramp((32, 32)), positions, 6).shape == (3, 2, 6, 6)


def test_gridsize_2_patches_are_not_mirrored(rng: np.random.Generator) -> None:
    """The reference cuts them at 2 * centre - position; here the ramp shows where each one was cut."""
    positions = rng.uniform(12, 50, size=(9, 2))
    raw = RawData.from_simulation(positions[:, 1], positions[:, 0], np.ones((8, 8)), linear_ramp((64, 64)))
    raw.Y = None
    grouped = raw.generate_grouped_data(8, K=5, nsamples=9, gridsize=2, generator=rng)
    members = positions[grouped["nn_indices"]]
    assert grouped["Y"].shape == (9, 8, 8, 4)
    np.testing.assert_allclose(grouped["Y"][:, 4, 4].real, members[..., 0], atol=1e-4)
    np.testing.assert_allclose(grouped["Y"][:, 4, 4].imag, members[..., 1], atol=1e-4)
    legacy = get_image_patches(raw.object_truth, grouped["coords_offsets"], grouped["coords_relative"], 8, 2)
    np.testing.assert_allclose(legacy, grouped["Y"], atol=1e-4)


def test_simulated_diffraction_equals_the_reference(golden: Any) -> None:
    """from_simulation against the reference's illuminate_and_diffract without the Poisson draw."""
    reference = golden("b_normalisation.npz")
    x, y, probe, image = (reference[f"illuminate/{name}"] for name in ("xcoords", "ycoords", "probe", "object"))
    raw = RawData.from_simulation(x, y, probe, image)
    np.testing.assert_allclose(raw.Y[:2], reference["illuminate/Y_patches"][..., 0], atol=1e-5)
    amplitude = reference["illuminate/X"][..., 0]
    np.testing.assert_allclose(raw.diff3d[:2], amplitude, atol=1e-5 * amplitude.max())
    counts = RawData.from_simulation(x, y, probe, image, nphotons=1e9)
    expected = amplitude * reference["illuminate/intensity_scale"]
    np.testing.assert_allclose(counts.diff3d[:2], expected, rtol=1e-4, atol=1e-5 * expected.max())
