"""Which patterns are updated together, and which take no part."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

#: Bytes of the waves of one batch that the processor's second-level cache holds.
CACHE_BYTES = 2**20
#: On a GPU, which is slow with little work, waves may take this share of its memory (some ten arrays are as large), or so many
#: bytes where that is not known.
SHARE_OF_GPU, GPU_BYTES = 2**-9, 2**26


#: Patterns of a batch if nothing else is said: few, since many updates count for more than what their overhead costs.
LEAST_BATCH, MOST_BATCH = 16, 32
#: An update passes over the whole canvas: the patches of a batch have at least this share of its pixels, or a large scan would
#: spend most of its time there.
LEAST_SHARE = 0.25


def default_batch_size(side: int, modes: int, n: int, canvas_px: int) -> int:
    """Patterns per update: as many as fit into the cache, within limits; more on a large canvas, fewer in a small scan.

    Args:
        side: of a pattern, N.
        modes: of the probe.
        n: patterns that are learnt from.
        canvas_px: pixels of a slice of the canvas.
    """
    usual = min(max(LEAST_BATCH, chunk_size(side, modes)), MOST_BATCH)
    return max(1, min(max(usual, round(LEAST_SHARE * canvas_px / side**2)), max(4, n // 8)))


def chunk_size(side: int, modes: int, device: torch.device | None = None) -> int:
    """Patterns transformed at a time: as many complex64 waves as fit into the cache, or fill the device; at least 4."""
    room = CACHE_BYTES
    if device is not None and device.type == "cuda":
        room = int(torch.cuda.get_device_properties(device).total_memory * SHARE_OF_GPU)
    elif device is not None and device.type != "cpu":
        room = GPU_BYTES
    return max(4, room // (8 * modes * side**2))


def draw_batches(
    rows: NDArray[np.int64],
    positions_px: NDArray[np.float64],
    size: int,
    kind: Literal["random", "compact", "uniform"],
    generator: np.random.Generator,
) -> list[NDArray[np.int64]]:
    """Divide ``rows`` into batches of about ``size``, in random order.

    'compact' cuts the scan in halves along its longer side until the pieces are small enough; 'uniform' takes one pattern
    from each of ``size`` compact pieces, so that every batch covers the scan.
    """
    count = max(1, -(-len(rows) // size))
    if kind == "random":
        return [np.sort(part) for part in np.array_split(generator.permutation(rows), count)]
    if kind == "compact":
        pieces = compact_pieces(rows, positions_px, size)
        return [pieces[index] for index in generator.permutation(len(pieces))]
    order = np.concatenate([generator.permutation(piece) for piece in compact_pieces(rows, positions_px, count)])
    return [order[index::count] for index in generator.permutation(count)]


def compact_pieces(rows: NDArray[np.int64], positions_px: NDArray[np.float64], size: int) -> list[NDArray[np.int64]]:
    """Compact pieces of ``rows`` of at most ``size``: cut in halves along the longer side, neighbours in order."""
    if len(rows) <= size:
        return [rows]
    inside = positions_px[rows]
    axis = int(np.argmax(np.ptp(inside, axis=0)))
    order = rows[np.argsort(inside[:, axis], kind="stable")]
    middle = len(order) // 2
    return [*compact_pieces(order[:middle], positions_px, size), *compact_pieces(order[middle:], positions_px, size)]


def held_out_patterns(n: int, fraction: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """A random ``fraction`` of n patterns, scattered over the scan; at least one, unless it is 0. bool [n], True = held out."""
    held_out = np.zeros(n, dtype=bool)
    if fraction > 0:
        held_out[generator.choice(n, size=max(1, round(fraction * n)), replace=False)] = True
    return held_out
