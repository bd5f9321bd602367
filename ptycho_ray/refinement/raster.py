"""Artefacts of a scan on a regular grid: what is periodic with the grid may pass from the object to the probe and back.

If all positions lie on a grid of whole pixels, an object multiplied by a function of that period, and a probe divided by it,
diffract exactly as before: the patterns do not tell them apart. While the probe is solved for, such a pattern grows in the
image. Samples do not know where they will be scanned; so the part of the object that repeats in all cells of the grid, relative
to the object's own neighbourhood, is given to the probe.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.refinement.run import Run

#: A step is whole, and a position on the grid, if it is within so many pixels.
WHOLE_PX = 0.02
#: Cells of the grid in each direction, at the least, for a mean over cells to be told from the sample.
LEAST_CELLS = 6
#: Shares of the typical illumination from which a pixel counts.
LIT = 0.1


def raster_step_px(positions_px: NDArray[np.float64]) -> tuple[int, int] | None:
    """(rows, columns) between neighbours of positions [n, 2] on a grid along the axes of the detector; None if there is no such
    grid, or its steps are not whole pixels: only then does what repeats cancel exactly. (Any raster: ``data/scan_grid.py``.)"""
    steps = []
    for along in positions_px.T:
        away = along - along.min()
        gaps = np.diff(np.unique(np.round(away / WHOLE_PX)) * WHOLE_PX)
        gaps = gaps[gaps > 3 * WHOLE_PX]
        if len(gaps) < LEAST_CELLS:
            return None
        step = round(float(np.median(gaps)))
        if step < 2 or np.abs(away - step * np.round(away / step)).max() > WHOLE_PX:
            return None
        steps.append(step)
    return steps[0], steps[1]


def periodic_part(image: Tensor, lit: Tensor, step_px: tuple[int, int]) -> Tensor:
    """What repeats in all cells of the grid, relative to the neighbourhood: a complex factor with root mean square one, [H, W].

    Args:
        image: complex [H, W].
        lit: bool [H, W], the pixels that count.
    """
    weight = lit.to(image.real.dtype)
    around = _smooth(image * weight, step_px) / _smooth(weight, step_px).clamp_min(1e-3)
    cells = [
        torch.arange(length, device=image.device) % step for length, step in zip(image.shape, step_px, strict=True)
    ]
    place = (cells[0][:, None] * step_px[1] + cells[1]).flatten()
    size = step_px[0] * step_px[1]
    relative = torch.zeros(size, dtype=image.dtype, device=image.device)
    relative.index_add_(0, place, (image * around.conj() * weight).flatten())
    total = torch.zeros(size, dtype=weight.dtype, device=image.device)
    total.index_add_(0, place, (around.abs().square() * weight).flatten())
    factor = relative / total.clamp_min(1e-12)
    factor = factor / factor.abs().square().mean().sqrt().clamp_min(1e-12)
    mean = factor.mean()
    return (factor * (mean.conj() / mean.abs().clamp_min(1e-12)))[place].view(image.shape)


def give_to_probe(run: Run, step_px: tuple[int, int]) -> None:
    """Divide the object of a run by its periodic part and multiply the probe by it; no predicted pattern changes."""
    state, geometry = run.state, run.geometry
    light = run.illumination()
    factor = periodic_part(state.object[0], light > LIT * light[light > 0].median(), step_px)
    state.object.div_(factor)
    row, column = (int(corner) for corner in geometry.corners[0])
    window = factor[row : row + geometry.side, column : column + geometry.side]
    for spectrum in (state.probe_spectrum, state.eigen_spectrum):
        if len(spectrum):
            spectrum.copy_(torch.fft.fft2(torch.fft.ifft2(spectrum, norm="ortho") * window, norm="ortho"))


def _smooth(image: Tensor, sigma_px: tuple[int, int]) -> Tensor:
    """Convolved with a Gaussian, periodically, by the Fourier transform."""
    frequencies = [torch.fft.fftfreq(length, device=image.device) for length in image.shape]
    damping = [torch.exp(-2 * (math.pi * sigma * f) ** 2) for sigma, f in zip(sigma_px, frequencies, strict=True)]
    made = torch.fft.ifft2(torch.fft.fft2(image) * (damping[0][:, None] * damping[1]))
    return made if image.is_complex() else made.real
