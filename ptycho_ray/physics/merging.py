"""From the overlapping patches of a group to one object, and back to patches that agree with each other."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ptycho_ray.physics.translation import cut_from_canvas, place_patches

#: Added to the reference's mask count (PtychoPINN, ``reassemble_patches_position_real``).
REFERENCE_EPSILON = 1e-3


def canvas_side(n: int, largest_shift_px: float) -> int:
    """Side of the square canvas that holds patches of side n moved by up to ``largest_shift_px``; n plus an even number.

    One pixel is added on each side for the second tap of the interpolation, unless nothing is shifted.
    """
    margin = math.ceil(largest_shift_px) + 1 if largest_shift_px > 0 else 0
    return n + 2 * margin


def central_mask(n: int, device: torch.device | None = None) -> Tensor:
    """One inside the central square of side n/2, zero outside, float32 [n, n]."""
    mask = torch.zeros(n, n, device=device)
    mask[n // 4 : n - n // 4, n // 4 : n - n // 4] = 1.0
    return mask


def merge_weighted(patches: Tensor, relative: Tensor, weight: Tensor, side: int) -> Tensor:
    """Weighted mean of the patches of each group on the group's canvas.

    Args:
        patches: complex [B, C, N, N].
        relative: position of each pattern minus the centre of its group, [B, C, 2], pixels (row, column).
        weight: trust in each pixel of a patch, [N, N], positive everywhere (the illumination, for instance).
        side: side S of the canvas, see :func:`canvas_side`.

    Returns:
        Canvas, complex [B, S, S]; zero where no patch reaches.
    """
    total = place_patches(patches * weight, relative, side).sum(dim=1)
    coverage = place_patches(weight.expand(*patches.shape), relative, side).sum(dim=1)
    return total / coverage.clamp_min(torch.finfo(coverage.dtype).tiny)


def merge_central_mask(patches: Tensor, relative: Tensor, side: int) -> Tensor:
    """The reference's merge: sum of whole patches over the count of central squares plus 0.001.

    Kept for comparison with PtychoPINN. Outside the central squares the sum is divided by 0.001 alone, so a network
    that fills the border of its patches sees it multiplied by a thousand. Shapes as :func:`merge_weighted`.
    """
    mask = central_mask(patches.shape[-1], patches.device)
    total = place_patches(patches, relative, side).sum(dim=1)
    count = place_patches(mask.expand(*patches.shape), relative, side).sum(dim=1)
    return total / (count + REFERENCE_EPSILON)


def extract_patches(canvas: Tensor, relative: Tensor, n: int) -> Tensor:
    """Cut the C patches of each group back out of its canvas: [B, S, S] and [B, C, 2] give [B, C, n, n]."""
    expanded = canvas[:, None].expand(-1, relative.shape[1], -1, -1)
    return cut_from_canvas(expanded, relative, n)
