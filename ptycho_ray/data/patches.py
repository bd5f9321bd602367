"""Patches of an object at scan positions.

Legend: B groups, C patches a group, N patch side; positions are (row, column) in object pixels and patch pixel N//2
lies on the position.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

PATCHES_AT_ONCE = 256


def cut_patches(image: NDArray, positions_px: ArrayLike, N: int) -> NDArray[np.complex64]:
    """Cut N x N patches of ``image`` [H, W] at ``positions_px`` [..., 2], complex64 [..., N, N].

    patch[r, c] = image[r + row - N//2, c + column - N//2], bilinear between pixels, zero outside the image.
    """
    positions = np.asarray(positions_px, dtype=np.float64)
    flat = positions.reshape(-1, 2) - N // 2
    corner = np.floor(flat).astype(np.int64)
    fraction = (flat - corner).astype(np.float32)[:, :, None, None]
    margin = N + 1
    padded = np.pad(np.asarray(image, dtype=np.complex64), margin)
    limit = np.array(image.shape) + margin
    corner = np.clip(corner + margin, 0, limit)
    windows = sliding_window_view(padded, (N + 1, N + 1))
    patches = np.empty((len(flat), N, N), dtype=np.complex64)
    for start in range(0, len(flat), PATCHES_AT_ONCE):
        some = slice(start, start + PATCHES_AT_ONCE)
        taken, down, right = windows[corner[some, 0], corner[some, 1]], fraction[some, 0], fraction[some, 1]
        rows = taken[:, :-1] * (1 - down) + taken[:, 1:] * down
        patches[some] = rows[:, :, :-1] * (1 - right) + rows[:, :, 1:] * right
    return patches.reshape(*positions.shape[:-1], N, N)


def get_image_patches(
    gt_image: NDArray, global_offsets: NDArray, local_offsets: NDArray, N: int, gridsize: int = 1
) -> NDArray[np.complex64]:
    """Truth patches (B, N, N, C) of a grouped scan, channels last (PtychoPINN chain, callchain 3.5).

    ``global_offsets`` (B, 1, 2, 1) are the group centres and ``local_offsets`` (B, 1, 2, C) the *negated* offsets of
    the members from them, both [x, y], as ``generate_grouped_data`` returns them. The patches are cut at the scan
    positions, centre - local offset; the reference adds the two and so mirrors them about the centre at gridsize > 1.
    """
    if local_offsets.shape[-1] != gridsize**2:
        raise ValueError(f"local_offsets have {local_offsets.shape[-1]} channels, expected gridsize**2 = {gridsize**2}")
    positions_xy = global_offsets[:, 0] - local_offsets[:, 0]
    patches = cut_patches(gt_image, positions_xy.transpose(0, 2, 1)[..., ::-1], N)
    return np.moveaxis(patches, 1, -1)
