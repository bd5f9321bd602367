"""Groups of neighbouring scan positions that the network sees together.

Legend: n scan points, C = gridsize**2 members a group, B groups, K nearest neighbours that members are drawn from.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ptycho_ray.errors import InputError

MAX_LISTED_COMBINATIONS = 100_000


def group_indices(
    positions_px: NDArray[np.float64],
    gridsize: int,
    n_groups: int,
    *,
    neighbor_count: int,
    generator: np.random.Generator,
    include_seed_point: bool = True,
    enable_oversampling: bool = False,
    neighbor_pool_size: int | None = None,
    sequential: bool = False,
) -> NDArray[np.int64]:
    """Choose groups of C = gridsize**2 scan points, int64 [B, C].

    Each group belongs to one scan point, its seed. The seed comes first in the group (unless ``include_seed_point`` is
    False, as in PtychoPINN), the other members are drawn without repetition from its K nearest neighbours and ordered
    by distance. K is ``neighbor_pool_size`` if given, else ``neighbor_count``, and must be at least C.

    * ``n_groups`` < n: n_groups different seeds at random (the first ones if ``sequential``), ascending.
    * ``n_groups`` = n: every scan point is a seed once.
    * ``n_groups`` > n: with gridsize 1, n groups. Otherwise ``enable_oversampling`` must be set; every point is the
      seed of n_groups // n groups, a random choice of points of one more, and the groups of one seed differ as long as
      its neighbours allow it.

    Raises InputError where points, neighbours or settings do not allow such groups.
    """
    n, C = len(positions_px), gridsize**2
    _check_request(n, C, gridsize, n_groups, neighbor_count, neighbor_pool_size, enable_oversampling)
    pool = neighbor_pool_size or neighbor_count
    if C > 1 and not include_seed_point and n < C + 1:
        raise InputError(
            field="gridsize",
            found=f"{n} scan points for gridsize {gridsize}",
            expected=f"at least {C + 1} where the seed point is left out of its group",
        )
    if n_groups <= n or C == 1:
        if sequential or n_groups >= n:
            seeds = np.arange(min(n_groups, n))
        else:
            seeds = np.sort(generator.choice(n, n_groups, replace=False))
        if C == 1:
            return seeds[:, None].astype(np.int64)
        turn = np.zeros(len(seeds), dtype=np.int64)
    else:
        rounds, rest = divmod(n_groups, n)
        extra = np.arange(rest) if sequential else np.sort(generator.choice(n, rest, replace=False))
        seeds = np.concatenate([np.tile(np.arange(n), rounds), extra])
        turn = np.concatenate([np.repeat(np.arange(rounds), n), np.full(rest, rounds)])
    neighbours = nearest_neighbours(positions_px, min(pool, n - 1))
    chosen = _choose(neighbours.shape[1], C - include_seed_point, seeds, turn, n, generator)
    members = np.take_along_axis(neighbours[seeds], chosen, axis=1)
    if include_seed_point:
        members = np.concatenate([seeds[:, None], members], axis=1)
    return members.astype(np.int64)


def nearest_neighbours(positions_px: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """The k nearest other points of each point, int64 [n, k], nearest first. A point is never its own neighbour."""
    n = len(positions_px)
    _, found = cKDTree(positions_px).query(positions_px, k=k + 1, workers=2)
    is_self = found == np.arange(n)[:, None]
    is_self[~is_self.any(axis=1), -1] = True  # more than k points at one place: drop the last one instead
    return found[~is_self].reshape(n, k).astype(np.int64)


def group_geometry(positions_BC2: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres of mass [B, 2] of groups of positions, and the members' positions relative to them [B, C, 2]."""
    centres_B2 = positions_BC2.mean(axis=1)
    return centres_B2, positions_BC2 - centres_B2[:, None]


def legacy_group_indices(
    positions_px: NDArray[np.float64],
    gridsize: int,
    n_groups: int,
    *,
    neighbor_count: int,
    seed: int,
    enable_oversampling: bool = False,
    neighbor_pool_size: int | None = None,
    sequential: bool = False,
) -> NDArray[np.int64]:
    """Groups [B, C] drawn from numpy's legacy stream in the order of PtychoPINN, for parity with it (callchain 3.3).

    The seed point is in none of its own groups, oversampling draws from a few seeds only, and the sequential mode
    always draws as if ``seed`` were 0, all as in the reference. Raises InputError as ``group_indices`` does.
    """
    n, C = len(positions_px), gridsize**2
    _check_request(n, C, gridsize, n_groups, neighbor_count, neighbor_pool_size, enable_oversampling)
    stream = np.random.RandomState(0 if sequential else seed)
    tree = cKDTree(positions_px[:, ::-1])
    if n_groups > n and C > 1:
        pool = neighbor_pool_size or neighbor_count
        return _legacy_oversampled(tree, stream, C, n_groups, pool, sequential)
    ordered = sequential or n_groups >= n
    seeds = np.arange(min(n_groups, n)) if ordered else stream.choice(n, n_groups, replace=False)
    if C == 1:
        return seeds[:, None].astype(np.int64)
    _, found = tree.query(tree.data[seeds], k=min(neighbor_count + 1, n))
    groups = np.empty((len(seeds), C), dtype=np.int64)
    for row, (point, near) in enumerate(zip(seeds, found, strict=True)):
        others = near[1:]
        if len(others) < C:
            others = np.concatenate([[point], others])
        groups[row] = stream.choice(others, C, replace=False)
    return groups


def _legacy_oversampled(
    tree: cKDTree, stream: np.random.RandomState, C: int, n_groups: int, pool: int, sequential: bool
) -> NDArray[np.int64]:
    n = tree.n
    needed = math.ceil(n_groups / math.comb(pool, C))
    n_seeds = min(2 * needed, n)
    seeds = np.arange(n_seeds) if sequential else stream.choice(n, n_seeds, replace=False)
    combinations: list[tuple[int, ...]] = []
    for point in seeds:
        _, near = tree.query(tree.data[point], k=min(pool + 1, n))
        combinations.extend(itertools.combinations([int(i) for i in near if i != point][:pool], C))
        if len(combinations) >= 2 * n_groups:
            break
    if not combinations:
        raise InputError(field="gridsize", found=f"{n} scan points", expected=f"more than {C} scan points")
    del combinations[2 * n_groups :]
    drawn = stream.choice(len(combinations), n_groups, replace=len(combinations) < n_groups)
    return np.array(combinations, dtype=np.int64)[drawn]


def _choose(
    k: int, count: int, seeds: NDArray, turn: NDArray, n: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Which of the k neighbours join each group, ascending [B, count]; groups of one seed differ where they can."""
    total = math.comb(k, count)
    if turn.any() and total <= MAX_LISTED_COMBINATIONS:
        listed = np.array(list(itertools.combinations(range(k), count)))[generator.permutation(total)]
        start = generator.integers(total, size=n)
        return listed[(start[seeds] + turn) % total]
    if count == k:
        return np.broadcast_to(np.arange(k), (len(seeds), k))
    keys = generator.random((len(seeds), k))
    return np.sort(np.argpartition(keys, count - 1, axis=1)[:, :count], axis=1)


def _check_request(
    n: int, C: int, gridsize: int, n_groups: int, neighbor_count: int, pool_size: int | None, oversampling: bool
) -> None:
    for name, value in (("gridsize", gridsize), ("n_groups", n_groups), ("neighbor_count", neighbor_count)):
        if value < 1:
            raise InputError(field=name, found=value, expected="1 or more")
    if C == 1:
        return
    if n < C:
        raise InputError(
            field="gridsize",
            found=f"{n} scan points for gridsize {gridsize}",
            expected=f"at least {C} scan points (gridsize**2)",
        )
    if n_groups > n and not oversampling:
        raise InputError(
            field="n_groups",
            found=f"{n_groups} groups from {n} scan points",
            expected=f"at most {n}",
            hint=f"set enable_oversampling (with neighbor_count or neighbor_pool_size of at least {C}) to draw more",
        )
    name = "neighbor_count" if pool_size is None else "neighbor_pool_size"
    pool = neighbor_count if pool_size is None else pool_size
    if pool < C:
        raise InputError(
            field=name,
            found=f"{pool} neighbours for gridsize {gridsize}",
            expected=f"at least {C} (gridsize**2)",
        )
