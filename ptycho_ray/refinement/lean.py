"""The tilt of a thick sample: by how much its slices lean, and how well they tell it.

Slices that are shifted against each other in proportion to their depth explain the patterns exactly as a tilt does. Along that
direction the loss of the patterns is flat, and a step of the tilt alone against their gradient leads nowhere: the object has
leant already. So the object may lean; after an iteration its slices are set upright, and what they leant is given to the tilt.
No pattern changes by that, only the prior that neighbouring slices are alike falls, in one step of Gauss and Newton.

Legend: S slices, [H, W] canvas.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from ptycho_ray.refinement.run import Run

#: Share of the brightest illumination from which on a pixel tells; the most pixels that one step may move a slice to the next.
LIT, MOST_PX = 0.3, 0.5
#: Determinant of the slopes over the square of their sum below which the image varies along one axis only.
LEAST_SLOPES = 1e-6
#: Blocks of the image along an axis, which are left out in turn to tell the error.
BLOCKS = 4


def set_upright(run: Run, others: tuple[Tensor, ...] = ()) -> None:
    """Set the slices of the present estimate upright, and ``others`` [S, H, W] with them; the tilt takes what they leant."""
    state = run.state
    assert state.slice_shift_px is not None
    step = _solved(_equations(state.object, run.illumination()).sum(dim=(-2, -1))).clamp(-MOST_PX, MOST_PX)
    for image in (state.object, *others):
        _shear(image, step)
    state.slice_shift_px += step


def lean_error_px(run: Run, shift_px: Tensor) -> Tensor:
    """Standard error of the shift from a slice to the next, ``shift_px``, float64 [2].

    Two parts: how far the parts of the image disagree, by leaving out one of ``BLOCKS**2`` blocks after the other; and that a
    slice is a plane where the sample leans within it, half the shift of one slice over all of them (``docs/experiments.md``).
    """
    light = run.illumination()
    equations = _equations(run.state.object, light)
    lit = torch.nonzero(light[1:-1, 1:-1] > LIT * light.max())
    top, left = lit.amin(dim=0).tolist()
    bottom, right = lit.amax(dim=0).tolist()
    blocks = [
        block.sum(dim=(-2, -1))
        for rows in equations[:, top : bottom + 1, left : right + 1].tensor_split(BLOCKS, dim=1)
        for block in rows.tensor_split(BLOCKS, dim=2)
    ]
    total, count = torch.stack(blocks).sum(dim=0), len(blocks)
    without = torch.stack([_solved(total - block) for block in blocks])
    scatter = (without - without.mean(dim=0)).square().sum(dim=0) * ((count - 1) / count)
    within = shift_px / (2 * len(run.state.object))
    return (scatter + within.square()).sqrt()


def _equations(image: Tensor, light: Tensor) -> Tensor:
    """What each pixel adds to the normal equations of the lean, float64 [5, H - 2, W - 2]: the squared slopes along rows, their
    product with those along columns, those along columns, and the products of both with the difference of the slices."""
    made = torch.zeros(5, image.shape[1] - 2, image.shape[2] - 2, dtype=torch.float64, device=image.device)
    for above, below in pairwise(image):
        mean, difference = 0.5 * (above + below), (below - above)[1:-1, 1:-1]
        row, column = 0.5 * (mean[2:, 1:-1] - mean[:-2, 1:-1]), 0.5 * (mean[1:-1, 2:] - mean[1:-1, :-2])
        pairs = ((row, row), (row, column), (column, column), (row, difference), (column, difference))
        for total, (one, other) in zip(made, pairs, strict=True):
            total += (one.conj() * other).real
    seen = light[1:-1, 1:-1]
    return made * torch.where(seen > LIT * light.max(), seen / light.max(), torch.zeros_like(seen))


def _solved(sums: Tensor) -> Tensor:
    """(row, column) by which the next slice lies further on, float64 [2], from sums [5]; zero for slices without structure."""
    a, b, c, row, column = sums.unbind()
    determinant = (a * c - b * b).clamp_min(LEAST_SLOPES * (a + c).square() + 1e-300)
    return torch.stack([b * column - c * row, b * row - a * column]) / determinant


def _shear(image: Tensor, shift_px: Tensor) -> None:
    """Move slice k of [S, H, W] back by k times a shift (row, column), in place; beyond the canvas there is vacuum."""
    rows, columns = (
        torch.fft.fftfreq(length, dtype=torch.float64, device=image.device) * shift
        for length, shift in zip(image.shape[1:], shift_px, strict=True)
    )
    for number, each in enumerate(image[1:], start=1):
        ramp = [torch.exp(2j * math.pi * number * turns).to(image.dtype) for turns in (rows, columns)]
        spectrum = torch.fft.fft2(each - 1).mul_(ramp[0][:, None]).mul_(ramp[1])
        each.copy_(torch.fft.ifft2(spectrum).add_(1))
