"""One phase for a whole scan.

A diffraction pattern does not tell the global phase of its patch, so a network is free to choose another one for every
pattern, and an average of such patches is blurred. Where patches overlap, though, the phase between two of them is
measured; from all pairs of neighbours the phase of every patch follows up to one constant ("angular synchronisation",
A. Singer, Appl. Comput. Harmon. Anal. 30, 20 (2011); here solved as a sparse least-squares problem).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

#: Each patch is compared with so many nearest neighbours.
NEIGHBORS = 12
#: The compared window holds this share of the illumination.
ENERGY_SHARE = 0.95
#: Least-squares steps after the start from a spanning tree; the phases of the pairs are small by then.
STEPS = 3


def synchronised_phases(
    patches: NDArray[np.complex64], positions_px: NDArray[np.float64], weight: NDArray[np.float32]
) -> NDArray[np.complex64]:
    """Unit complex numbers [n] that, multiplied to the patches, make them agree where they overlap.

    Args:
        patches: complex [n, N, N].
        positions_px: their positions, [n, 2]; rounded to pixels, which is enough for a phase.
        weight: trust in each pixel of a patch, [N, N].

    Patches without a neighbour that overlaps keep their phase. The mean direction of all phases is kept.
    """
    n = len(patches)
    first, second, products = _overlaps(patches, positions_px, weight)
    strength = np.abs(products)
    phases = _along_spanning_tree(first, second, products, n)
    laplacian = _laplacian(first, second, strength, n)
    for _ in range(STEPS):
        left = np.angle(products * phases[second] * phases[first].conj()) * strength
        right_side = np.bincount(second, left, n) - np.bincount(first, left, n)
        phases = phases * np.exp(-1j * spsolve(laplacian, right_side))
    return (phases * np.exp(-1j * np.angle(phases.sum()))).astype(np.complex64)


def _along_spanning_tree(
    first: NDArray[np.int64], second: NDArray[np.int64], products: NDArray[np.complex128], n: int
) -> NDArray[np.complex128]:
    """Phases that make each patch agree with its neighbour on the tree of the best overlaps; right from any start."""
    products_of = sparse.coo_array((products, (first, second)), shape=(n, n)).tocsr()
    turn = (products_of + products_of.conj().T).todok()  # (i, j): conj(i) * j
    worst_first = sparse.coo_array((1.0 + 1.0 / (1e-30 + np.abs(products)), (first, second)), shape=(n, n)).tocsr()
    tree = minimum_spanning_tree(worst_first)
    _, part = connected_components(tree, directed=False)
    phases = np.ones(n, dtype=np.complex128)
    for root in np.unique(part, return_index=True)[1]:
        order, parent = breadth_first_order(tree, root, directed=False)
        for node in order[1:]:
            step = turn[parent[node], node]
            phases[node] = phases[parent[node]] * np.conj(step) / max(abs(step), 1e-30)
    return phases


def _overlaps(
    patches: NDArray[np.complex64], positions_px: NDArray[np.float64], weight: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.complex128]]:
    """Pairs of neighbours i < j and the weighted inner products of their patches where both look at the sample."""
    n, side = len(patches), patches.shape[-1]
    crop = _illuminated_side(weight)
    start = (side - crop) // 2
    inside = slice(start, start + crop)
    seen = patches[:, inside, inside] * weight[inside, inside]

    _, neighbors = cKDTree(positions_px).query(positions_px, k=min(NEIGHBORS + 1, n))
    pairs = np.stack([np.repeat(np.arange(n), neighbors.shape[1]), neighbors.reshape(-1)], axis=1)
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    steps = np.rint(positions_px[pairs[:, 1]] - positions_px[pairs[:, 0]]).astype(int)
    near = (np.abs(steps) < crop).all(axis=1)
    pairs, steps = pairs[near], steps[near]

    products = np.empty(len(pairs), dtype=np.complex128)
    for k, ((i, j), (down, right)) in enumerate(zip(pairs.tolist(), steps.tolist(), strict=True)):
        here = seen[i, max(down, 0) : crop + min(down, 0), max(right, 0) : crop + min(right, 0)]
        there = seen[j, max(-down, 0) : crop + min(-down, 0), max(-right, 0) : crop + min(-right, 0)]
        products[k] = np.vdot(here, there)
    # products are conj(i) * j, so their phase is (phase of j) - (phase of i)
    return pairs[:, 0], pairs[:, 1], products


def _illuminated_side(weight: NDArray[np.float32]) -> int:
    """Side of the smallest centred square that holds ENERGY_SHARE of the weight."""
    side, total = weight.shape[-1], float(weight.sum())
    for crop in range(2, side, 2):
        start = (side - crop) // 2
        if weight[start : start + crop, start : start + crop].sum() >= ENERGY_SHARE * total:
            return crop
    return side


def _laplacian(
    first: NDArray[np.int64], second: NDArray[np.int64], strength: NDArray[np.float64], n: int
) -> sparse.csc_array:
    """Weighted graph Laplacian, with a little on the diagonal so that separate parts of a scan do not make it singular."""
    links = sparse.coo_array((strength, (first, second)), shape=(n, n)).tocsr()
    links = links + links.T
    degree = np.asarray(links.sum(axis=1)).reshape(-1)
    return (sparse.diags_array(degree + 1e-6 * degree.mean() + 1e-30) - links).tocsc()
