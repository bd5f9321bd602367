"""Stitching: parity with the reference's ``reassemble_position``, and our probe-weighted canvas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ptycho_ray.data.patches import cut_patches
from ptycho_ray.errors import InputError
from ptycho_ray.reconstruction.stitching import StitchAccumulator, StitchedObject, reassemble_position


@pytest.mark.parametrize("gridsize", [1, 2])
@pytest.mark.parametrize("M", [10, 20, 32, 64])
def test_reassemble_position(golden, gridsize, M):
    data = golden("e_reassembly.npz", large=M > 20 or (M, gridsize) == (10, 2))
    patches, offsets = data[f"gs{gridsize}/global_in_patches"], data[f"gs{gridsize}/coords_offsets"]
    expected = data[f"gs{gridsize}/reassemble_position_M{M}"]
    ours = reassemble_position(patches, offsets, M)
    assert ours.shape == expected.shape
    assert ours.dtype == np.complex64
    touched = np.abs(expected) > 0
    # Pixels that only a sliver of one patch reaches amplify rounding; they stay within 1e-4 of their value.
    assert np.abs(ours - expected)[touched].max() <= 1e-4 * np.abs(expected).max()
    assert np.median(np.abs(ours - expected)[touched]) <= 1e-6 * np.abs(expected).max()
    assert np.abs(ours[~touched]).max(initial=0) == 0


@pytest.mark.parametrize(("M", "message"), [(7, "found 7"), (0, "found 0"), (66, "found 66.*to 64")])
def test_reassemble_position_refuses_a_wrong_crop(M, message):
    with pytest.raises(InputError, match=message):
        reassemble_position(np.ones((2, 64, 64), np.complex64), np.zeros((2, 1, 2, 1)), M)


def test_reassemble_position_refuses_other_lengths():
    with pytest.raises(InputError, match="3 positions.*expected 2"):
        reassemble_position(np.ones((2, 8, 8), np.complex64), np.zeros((3, 1, 2, 1)), 4)


def stitch(patches, positions, weight=None):
    accumulator = StitchAccumulator(positions, patches.shape[-1], weight)
    accumulator.add(patches, positions)
    return accumulator.result()


def test_true_patches_give_the_object_back(rng):
    """Patches of a smooth object at fractional positions of an oblong scan: the interpolation is all that is left."""
    rows, columns = np.indices((60, 90))
    truth = (1 + 0.2 * np.sin(rows / 9) * np.cos(columns / 7)) * np.exp(1j * np.cos((rows + columns) / 11))
    positions = np.stack([rng.uniform(10, 50, 80), rng.uniform(10, 80, 80)], axis=1)
    patches = torch.from_numpy(cut_patches(truth, positions, 16).astype(np.complex64))
    result = stitch(patches, positions)
    assert result.image.shape[1] > result.image.shape[0]
    covered = result.weight > 1
    origin = np.array(result.origin_px).astype(int)
    there = truth[origin[0] : origin[0] + covered.shape[0], origin[1] : origin[1] + covered.shape[1]]
    covered = covered[: there.shape[0], : there.shape[1]]
    difference = np.abs(result.image[: there.shape[0], : there.shape[1]] - there)[covered]
    assert difference.mean() < 5e-3
    assert difference.max() < 5e-2


def test_whole_positions_need_no_interpolation(rng):
    truth = rng.standard_normal((40, 40)) + 1j * rng.standard_normal((40, 40))
    positions = rng.integers(8, 32, (50, 2)).astype(float)
    patches = torch.from_numpy(cut_patches(truth, positions, 16).astype(np.complex64))
    result = stitch(patches, positions)
    row, column = (int(value) for value in result.origin_px)
    covered = result.weight > 0
    height, width = covered.shape
    there = np.pad(truth, 2)[row + 2 : row + 2 + height, column + 2 : column + 2 + width]
    assert np.allclose(result.image[covered], there[covered], atol=1e-5)


def test_weights_decide_where_patches_disagree():
    weight = torch.full((8, 8), 1e-3)
    weight[4, 4] = 1.0
    patches = torch.stack([torch.full((8, 8), 1.0), torch.full((8, 8), 3.0)]).to(torch.complex64)
    result = stitch(patches, np.array([[20.0, 20.0], [20.0, 22.0]]), weight)
    row, column = 20 - int(result.origin_px[0]), 20 - int(result.origin_px[1])
    assert result.image[row, column].real == pytest.approx(1.0, abs=0.01)
    assert result.image[row, column + 2].real == pytest.approx(3.0, abs=0.01)


def test_adding_piece_by_piece_is_the_same(rng):
    positions = rng.uniform(0, 300, (301, 2))
    patches = torch.randn(301, 12, 12, dtype=torch.complex64)
    whole = stitch(patches, positions)
    accumulator = StitchAccumulator(positions, 12)
    for some in np.array_split(np.arange(301), 7):
        accumulator.add(patches[some], positions[some])
    pieces = accumulator.result()
    assert np.allclose(whole.image, pieces.image, atol=1e-5)
    assert whole.origin_px == pieces.origin_px


def test_uncovered_pixels_are_zero_and_marked():
    positions = np.array([[0.0, 0.0], [0.0, 100.0]])
    result = stitch(torch.ones(2, 8, 8, dtype=torch.complex64), positions)
    assert result.image[:, 40:60].max() == 0
    assert not result.covered()[:, 40:60].any()
    assert result.covered().any()


def test_the_mean_phase_can_be_made_zero(rng):
    positions = rng.uniform(0, 40, (30, 2))
    patches = torch.polar(torch.ones(30, 8, 8), torch.full((30, 8, 8), 3.0))
    result = stitch(patches, positions).with_zero_mean_phase()
    covered = result.weight > 0
    assert np.allclose(result.image[covered], 1, atol=1e-5)
    assert result.image.dtype == np.complex64


def test_no_positions():
    with pytest.raises(InputError, match="positions_px"):
        StitchAccumulator(np.empty((0, 2)), 8)


@pytest.mark.parametrize("pixel_size_m", [None, 2e-8])
def test_the_file_of_an_image_tells_its_pixel_if_it_is_known(tmp_path, pixel_size_m):
    image = StitchedObject(np.ones((4, 4), np.complex64), np.ones((4, 4), np.float32), (1.0, 2.0))
    image.save(tmp_path / "image.npz", pixel_size_m)
    with np.load(tmp_path / "image.npz", allow_pickle=False) as content:
        assert (float(content["pixel_size_m"]) if "pixel_size_m" in content else None) == pixel_size_m
        assert content["origin_px"].tolist() == [1.0, 2.0]
