"""Scan positions by cross-correlation: where on the object the exit wave required by the measurement fits best.

The exit wave of a pattern is given the measured amplitudes at the detector. Its illuminated part,
``sum conj(P) psi``, is correlated with the object around the present position; at the displacement ``d`` the object
accounts for the fraction ``|sum conj(P) psi conj(O(u + d))|**2 / sum |P|**2 |O(u + d)|**2`` of it, and the position
moves to where that is largest. Since the wave keeps the phases of the present position, one update covers only a part
of the displacement (after Zhang et al., Opt. Express 21, 13592, 2013, who correlate successive objects).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_ray.refinement.kernel import EPSILON
from ptycho_ray.refinement.run import Run

#: How far a position is looked for in one iteration, whole pixels.
REACH_PX = 3


def correlation_steps(run: Run, rows: Tensor) -> Tensor:
    """Where the positions of the patterns ``rows`` should move, real [b, 2] pixels."""
    kernel, state = run.kernel, run.state
    waves = kernel.forward(state, rows)
    factor = kernel.amplitude.index_select(0, rows) / waves.intensity.add(EPSILON).sqrt()
    if kernel.good is not None:
        factor = torch.where(kernel.good > 0, factor, torch.ones_like(factor))
    wanted = kernel.propagator.backward(waves.detector * factor[:, None])
    patch = waves.patches[0][:, 0]
    seen, light = (waves.probes.conj() * wanted).sum(dim=1), waves.probes.abs().square().sum(dim=1)
    explained = _correlation(seen, patch).abs().square() / _correlation(light, patch.abs().square()).real
    around = torch.roll(explained, (REACH_PX, REACH_PX), dims=(1, 2))[:, : 2 * REACH_PX + 1, : 2 * REACH_PX + 1]
    return peaks(around) - REACH_PX


def _correlation(image: Tensor, other: Tensor) -> Tensor:
    """sum over u of conj(image(u)) other(u + d), for every d, cyclic, [b, N, N]."""
    return torch.fft.ifft2(torch.fft.fft2(image).conj() * torch.fft.fft2(other))


def peaks(images: Tensor) -> Tensor:
    """Place of the highest inner pixel of each image [b, m, m], between pixels by a parabola along each axis, [b, 2]."""
    inner = images[:, 1:-1, 1:-1]
    index = inner.reshape(len(images), -1).argmax(dim=1)
    row, column = index // inner.shape[2] + 1, index % inner.shape[2] + 1
    number = torch.arange(len(images), device=images.device)
    top = images[number, row, column]
    places = []
    for at, before, after in (
        (row, images[number, row - 1, column], images[number, row + 1, column]),
        (column, images[number, row, column - 1], images[number, row, column + 1]),
    ):
        bend = before - 2 * top + after
        offset = torch.where(bend < 0, 0.5 * (before - after) / bend.clamp_max(-1e-30), torch.zeros_like(bend))
        places.append(at + offset.clamp(-0.5, 0.5))
    return torch.stack(places, dim=1).to(images.dtype)
