"""Single patterns of an object whose amplitude and phase are made of one grey value, solved with and without that knowledge.

A complex object under a probe as wide as its window has twice as many unknowns as its pattern has pixels; a grey value has
as many. The unknown is the grey value (without the tie: one for the amplitude and one for the phase), with the mean power
spectrum of the training images as its expectation (or a flat one); photon noise enters by the variance of square roots. No
pattern of the training set and no network is used.

From a flat start all photons at once lead into a wrong minimum. So they count little at first: the expectation draws
the smooth image, and details follow as the weight rises to its true value.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from benchmarks.field import natural
from benchmarks.field.cases import Case
from ptycho_ray.reconstruction.stitching import StitchedObject

STEPS, RATE = 600, 0.1
#: Patterns weigh like ones of so many photons at first, and have their true weight after this share of the steps.
FIRST_PHOTONS, RISE = 1e5, 2 / 3
#: Added to counts and rates under the square roots, in photons.
DARK = 0.3
#: One in so many training crops for mean and spectrum.
THIN = 40
CHUNK = 50


def tied_object(case: Case, seed: int, *, tie: bool = True, spectrum: bool = True) -> StitchedObject:
    """The mosaic of all grey values, each most probable for its own pattern."""
    crops = natural.crops("train")[::THIN]
    mean = float(crops.mean())
    power = np.mean(np.abs(np.fft.fft2(crops - mean, norm="ortho")) ** 2, axis=0)
    power[0, 0] = power.max()  # the mean of one crop is hardly known
    root = torch.from_numpy(np.sqrt(power if spectrum else np.full_like(power, crops.var()))).float()
    probe = torch.from_numpy(np.fft.ifftshift(case.scan.probe, axes=(-2, -1)))
    image = np.ones(case.truth.shape, dtype=np.complex64)
    half = case.scan.N // 2
    for rows in np.array_split(np.arange(len(case.scan)), -(-len(case.scan) // CHUNK)):
        counts = torch.from_numpy(np.fft.ifftshift(case.scan.patterns.intensity(rows), axes=(-2, -1)).copy())
        found = np.fft.fftshift(_most_probable(counts, probe, root, mean, tie).numpy(), axes=(-2, -1))
        for number, tile in zip(rows, found, strict=True):
            row, column = case.scan.positions_px[number].astype(int)
            image[row - half : row + half, column - half : column + half] = tile
    return StitchedObject(image, np.ones(image.shape, dtype=np.float32), (0.0, 0.0))


def _most_probable(counts: Tensor, probe: Tensor, root: Tensor, mean: float, tie: bool) -> Tensor:
    """Transmissions [n, N, N] from photons [n, N, N], both with the origin in the corner; Adam over whitened coefficients."""
    whitened = torch.zeros(1 if tie else 2, *counts.shape, requires_grad=True)
    target = (counts + DARK).sqrt()
    adam = torch.optim.Adam([whitened], lr=RATE)
    rates = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS)) + 0.01)
    first = min(1.0, FIRST_PHOTONS / float(counts.sum(dim=(-2, -1)).mean()))

    def transmission(limit: bool) -> Tensor:
        grey = mean + torch.fft.ifft2(torch.fft.fft2(whitened) * root).real
        grey = grey.clamp(0, 1) if limit else grey
        return torch.polar(0.5 + 0.5 * grey[0], math.pi * (grey[-1] - 0.5))

    for step in range(STEPS):
        waves = torch.fft.fft2(transmission(False)[:, None] * probe, norm="ortho")
        misfit = 2 * ((waves.abs().square().sum(dim=1) + DARK).sqrt() - target).square().sum()
        weight = first ** max(0.0, 1 - step / (RISE * STEPS))
        adam.zero_grad()
        (weight * misfit + 0.5 * whitened.square().sum()).backward()  # type: ignore[no-untyped-call]
        adam.step()
        rates.step()
    return transmission(True).detach()
