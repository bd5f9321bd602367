"""Groups of neighbouring positions: parity with the reference's stream, and our own rules."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from helpers import TIMES
from hypothesis import given, settings
from hypothesis import strategies as st

from ptycho_ray.data import RawData, group_geometry, group_indices, legacy_group_indices
from ptycho_ray.data.grouping import nearest_neighbours
from ptycho_ray.errors import InputError

CASES = [
    "gs1_seed42",
    "gs1_all",
    "gs1_more_than_points",
    "gs1_sequential",
    "gs2_K4_seed42",
    "gs2_K7_seed0",
    "gs2_all_K7_seed3",
    "gs2_sequential_K7",
    "gs2_oversample_K7_seed3",
    "gs3_K12_seed1",
]


def draw(positions: np.ndarray, gridsize: int, n_groups: int, seed: int = 0, **options: Any) -> np.ndarray:
    options = {"neighbor_count": gridsize**2, **options}
    return group_indices(positions, gridsize, n_groups, generator=np.random.default_rng(seed), **options)


@pytest.fixture(scope="module")
def small40(golden: Any) -> Any:
    return golden("a_grouping_small40.npz")


@pytest.fixture(scope="module")
def small40_raw(small40: Any) -> RawData:
    names = ("xcoords", "ycoords", "xcoords_start", "ycoords_start", "diff3d", "probeGuess")
    return RawData(*(small40[name] for name in names), objectGuess=small40["objectGuess"])


@pytest.mark.parametrize("case", CASES)
def test_legacy_stream_gives_the_groups_of_the_reference(case: str, small40: Any, small40_raw: RawData) -> None:
    arguments = json.loads(str(small40["cases_json"]))[case]
    result = small40_raw.generate_grouped_data(64, random_stream="numpy_legacy", **arguments)
    np.testing.assert_array_equal(result["nn_indices"], small40[f"{case}/nn_indices"])
    for kind in ("offsets", "relative", "nn"):
        for prefix in ("coords", "coords_start"):
            key = f"{prefix}_{kind}"
            np.testing.assert_allclose(result[key], small40[f"{case}/{key}"], rtol=0, atol=1e-12, err_msg=key)
    assert result["X_full"].shape == tuple(small40[f"{case}/X_full_shape"])
    first = f"{case}/X_full_first3"
    if first in small40.files:  # for all cases of gridsize 1 and one of gridsize 2; the sum for every case
        np.testing.assert_allclose(result["X_full"][:1], small40[first], rtol=1e-6)
    assert result["X_full"].sum(dtype=np.float64) == pytest.approx(float(small40[f"{case}/X_full_sum"]), rel=1e-6)


@pytest.mark.parametrize("case", CASES[:4])
def test_truth_patches_equal_the_reference_at_gridsize_1(case: str, small40: Any, small40_raw: RawData) -> None:
    arguments = json.loads(str(small40["cases_json"]))[case]
    result = small40_raw.generate_grouped_data(64, random_stream="numpy_legacy", **arguments)
    np.testing.assert_allclose(result["Y"][:1], small40[f"{case}/Y_first2"], atol=1e-5)


@pytest.mark.parametrize("case", ["gs1", "gs2", "gs2_K7"])
def test_legacy_stream_on_the_training_scan(case: str, golden: Any) -> None:
    reference = golden("a_grouping_train1024.npz")
    arguments = json.loads(str(reference["cases_json"]))[case]
    positions = np.stack([reference["ycoords"], reference["xcoords"]], axis=1)
    groups = legacy_group_indices(
        positions,
        arguments["gridsize"],
        arguments["nsamples"],
        neighbor_count=arguments["K"],
        seed=arguments["seed"],
    )
    np.testing.assert_array_equal(groups, reference[f"{case}/nn_indices"])


@pytest.mark.parametrize("stream", ["generator", "numpy_legacy"])
@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"gridsize": 2, "K": 3, "nsamples": 20}, "neighbor_count"),
        ({"gridsize": 2, "K": 7, "nsamples": 100}, "n_groups"),
        ({"gridsize": 2, "K": 7, "nsamples": 100, "enable_oversampling": True, "neighbor_pool_size": 3}, "pool_size"),
        ({"gridsize": 7, "K": 49, "nsamples": 20}, "gridsize"),
        ({"gridsize": 0, "K": 4, "nsamples": 20}, "gridsize"),
        ({"gridsize": 1, "K": 4, "nsamples": 0}, "n_groups"),
    ],
)
def test_impossible_groups_are_refused(
    small40_raw: RawData, stream: Any, arguments: dict[str, Any], field: str
) -> None:
    with pytest.raises(InputError, match=field):
        small40_raw.generate_grouped_data(64, random_stream=stream, seed=1, **arguments)


@settings(max_examples=60 * TIMES, deadline=None)
@given(
    n=st.integers(5, 60),
    gridsize=st.integers(1, 3),
    extra_neighbours=st.integers(0, 6),
    factor=st.floats(0.05, 4.0),
    include_seed=st.booleans(),
    on_a_grid=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_grouping_invariants(
    n: int, gridsize: int, extra_neighbours: int, factor: float, include_seed: bool, on_a_grid: bool, seed: int
) -> None:
    C = gridsize**2
    n = max(n, C + 1)
    K = C + extra_neighbours
    positions = np.random.default_rng(seed).random((n, 2)) * 50
    positions = np.floor(positions / 10) if on_a_grid else positions  # a coarse grid has many duplicates
    n_groups = max(1, int(factor * n))
    options: dict[str, Any] = {
        "neighbor_count": K,
        "enable_oversampling": True,
        "include_seed_point": include_seed,
    }
    groups = draw(positions, gridsize, n_groups, seed, **options)
    assert groups.dtype == np.int64
    assert groups.shape == (n_groups if C > 1 else min(n_groups, n), C)
    assert groups.min() >= 0
    assert groups.max() < n
    assert all(len(set(group)) == C for group in groups.tolist())
    np.testing.assert_array_equal(groups, draw(positions, gridsize, n_groups, seed, **options))
    if include_seed:
        uses = np.bincount(groups[:, 0], minlength=n)
        assert uses.max() - uses.min() <= 1 or C == 1
        if n_groups >= n:
            assert uses.min() >= 1
        distance = np.linalg.norm(positions[groups] - positions[groups[:, :1]], axis=2)
        every = np.sort(np.linalg.norm(positions[:, None] - positions[None], axis=2), axis=1)
        assert np.all(distance <= every[groups[:, 0], min(K, n - 1)][:, None] + 1e-9)
        assert np.all(np.diff(distance, axis=1) >= -1e-9)


def test_seed_outside_its_group_when_asked_for() -> None:
    positions = np.arange(10.0)[:, None] * [1.0, 0.0]
    groups = draw(positions, 2, 10, include_seed_point=False)
    assert all(seed not in group for seed, group in enumerate(groups.tolist()))


def test_oversampled_groups_of_one_seed_differ() -> None:
    positions = np.random.default_rng(1).random((50, 2)) * 100
    groups = draw(positions, 2, 200, neighbor_count=6, enable_oversampling=True)  # comb(6, 3) = 20 choices each
    assert len({tuple(group) for group in groups.tolist()}) == 200


def test_sequential_takes_the_first_points() -> None:
    positions = np.random.default_rng(1).random((50, 2)) * 100
    np.testing.assert_array_equal(draw(positions, 2, 7, sequential=True)[:, 0], np.arange(7))


def test_neighbour_pool_size_widens_the_choice() -> None:
    positions = np.arange(40.0)[:, None] * [0.0, 1.0]
    near = draw(positions, 2, 40)
    wide = draw(positions, 2, 40, neighbor_pool_size=12)
    assert np.abs(near - near[:, :1]).max() <= 4 < np.abs(wide - wide[:, :1]).max()


def test_too_few_points_for_groups_without_the_seed() -> None:
    positions = np.random.default_rng(1).random((4, 2)) * 9
    assert draw(positions, 2, 4).shape == (4, 4)
    with pytest.raises(InputError, match="at least 5"):
        draw(positions, 2, 4, include_seed_point=False)


def test_nearest_neighbours_never_hold_the_point_itself() -> None:
    positions = np.zeros((6, 2))
    positions[5] = 3.0
    neighbours = nearest_neighbours(positions, 3)
    assert neighbours.shape == (6, 3)
    assert not (neighbours == np.arange(6)[:, None]).any()


def test_group_geometry_is_position_minus_centre() -> None:
    members = np.array([[[0.0, 0.0], [2.0, 4.0]]])
    centres, relative = group_geometry(members)
    np.testing.assert_array_equal(centres, [[1.0, 2.0]])
    np.testing.assert_array_equal(relative, [[[-1.0, -2.0], [1.0, 2.0]]])


def test_grouping_a_hundred_thousand_positions() -> None:
    positions = np.random.default_rng(2).random((100_000, 2)) * 3000
    groups = draw(positions, 2, 100_000)
    assert groups.shape == (100_000, 4)
    assert np.linalg.norm(positions[groups] - positions[groups[:, :1]], axis=2).max() < 100
