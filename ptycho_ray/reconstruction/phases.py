"""One global phase for a whole scan.

A diffraction pattern does not determine the global phase of its patch, so a network is free to choose a different one
for every pattern, and an average of such patches is blurred. Where patches overlap, however, their relative phase can
be measured; from all pairs of neighbours the phase of every patch follows up to one constant ("angular
synchronisation", A. Singer, Appl. Comput. Harmon. Anal. 30, 20 (2011); here solved as a sparse least-squares problem).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

#: Each patch is compared with so many nearest neighbours.
NEIGHBORS = 12
#: The compared window holds this share of the illumination ...
ENERGY_SHARE = 0.95
#: ... and is binned until it has at most so many pixels a side: enough for a phase, little to keep for every patch.
WINDOW_SIDE = 16
#: Least-squares steps after the start from a spanning tree; the phases of the pairs are small by then.
STEPS = 3


@dataclass(frozen=True)
class PhaseWindow:
    """The part of a patch that is compared with its neighbours.

    Attributes:
        crop: the central square of the patch that is used, pixels.
        binning: number of pixels summed in each direction.
        weight: weight of each pixel of the patch, float32 [N, N].
    """

    crop: int
    binning: int
    weight: NDArray[np.float32]

    @classmethod
    def of(cls, weight: NDArray[np.float32]) -> PhaseWindow:
        """The window that ``weight`` calls for."""
        side, total = weight.shape[-1], float(weight.sum())
        crop = side
        for smaller in range(2, side, 2):
            start = (side - smaller) // 2
            if weight[start : start + smaller, start : start + smaller].sum() >= ENERGY_SHARE * total:
                crop = smaller
                break
        binning = -(-crop // WINDOW_SIDE)
        return cls(crop // binning * binning, binning, weight)

    def cut(self, patches: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """Weighted and binned windows [n, m, m] of patches [n, N, N]."""
        start = (patches.shape[-1] - self.crop) // 2
        inside = slice(start, start + self.crop)
        seen = patches[:, inside, inside] * self.weight[inside, inside]
        m, b = self.crop // self.binning, self.binning
        return seen.reshape(-1, m, b, m, b).sum(axis=(2, 4))


def synchronised_phases(
    windows: NDArray[np.complex64], positions_px: NDArray[np.float64], window: PhaseWindow
) -> NDArray[np.complex64]:
    """Unit complex numbers [n] that, multiplied to the patches, make them agree where they overlap.

    Args:
        windows: what ``window.cut`` made of the patches, complex [n, m, m].
        positions_px: positions of the patches, [n, 2]; rounded to pixels of the windows, which is enough for a phase.

    Patches without a neighbour that overlaps keep their phase. The mean direction of all phases becomes zero.
    """
    n = len(windows)
    first, second, products = _overlaps(windows, positions_px / window.binning)
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
    """Phases that make each patch agree with its neighbour on the tree of the best overlaps; independent of the
    initial phases."""
    products_of = sparse.coo_array((products, (first, second)), shape=(n, n)).tocsr()
    turn = (products_of + products_of.conj().T).todok()  # (i, j): conj(i) * j
    cost = sparse.coo_array((1.0 + 1.0 / (1e-30 + np.abs(products)), (first, second)), shape=(n, n)).tocsr()
    tree = minimum_spanning_tree(cost)
    _, part = connected_components(tree, directed=False)
    phases = np.ones(n, dtype=np.complex128)
    for root in np.unique(part, return_index=True)[1]:
        order, parent = breadth_first_order(tree, root, directed=False)
        for node in order[1:]:
            step = turn[parent[node], node]
            phases[node] = phases[parent[node]] * np.conj(step) / max(abs(step), 1e-30)
    return phases


def _overlaps(
    windows: NDArray[np.complex64], positions: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.complex128]]:
    """Pairs of neighbours i < j and the inner products of their windows where both look at the same place."""
    n, side = windows.shape[:2]
    _, neighbors = cKDTree(positions).query(positions, k=min(NEIGHBORS + 1, n))
    neighbors = neighbors.reshape(n, -1)
    pairs = np.stack([np.repeat(np.arange(n), neighbors.shape[1]), neighbors.reshape(-1)], axis=1)
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
    steps = np.rint(positions[pairs[:, 1]] - positions[pairs[:, 0]]).astype(int)
    near = (np.abs(steps) < side).all(axis=1)
    pairs, steps = pairs[near], steps[near]

    products = np.empty(len(pairs), dtype=np.complex128)
    for k, ((i, j), (down, right)) in enumerate(zip(pairs.tolist(), steps.tolist(), strict=True)):
        here = windows[i, max(down, 0) : side + min(down, 0), max(right, 0) : side + min(right, 0)]
        there = windows[j, max(-down, 0) : side + min(-down, 0), max(-right, 0) : side + min(-right, 0)]
        products[k] = np.vdot(here, there)
    # products are conj(i) * j, so their phase is (phase of j) - (phase of i)
    return pairs[:, 0], pairs[:, 1], products


def _laplacian(
    first: NDArray[np.int64], second: NDArray[np.int64], strength: NDArray[np.float64], n: int
) -> sparse.csc_array:
    """Weighted graph Laplacian, with a little on the diagonal so that separate parts of a scan do not make it singular."""
    links = sparse.coo_array((strength, (first, second)), shape=(n, n)).tocsr()
    links = links + links.T
    degree = np.asarray(links.sum(axis=1)).reshape(-1)
    return (sparse.diags_array(degree + 1e-6 * degree.mean() + 1e-30) - links).tocsc()
