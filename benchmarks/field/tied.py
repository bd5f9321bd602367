"""Single patterns of an object whose amplitude and phase are made of one grey value, solved with that knowledge.

A complex object under a probe as wide as its window has twice as many unknowns as its pattern has pixels; a grey value has
as many. The unknown is the grey value, with the mean power spectrum of the training images as its expectation; photon noise
enters by the variance of square roots. No pattern of the training set and no network is used.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from benchmarks.field import natural
from benchmarks.field.cases import Case
from ptycho_ray.reconstruction.stitching import StitchedObject

STEPS, RATE = 300, 0.1
#: Added to counts and rates under the square roots, in photons.
DARK = 0.3
#: One in so many training crops for mean and spectrum.
THIN = 40
CHUNK = 50


def tied_object(case: Case, seed: int) -> StitchedObject:
    """The mosaic of all grey values, each most probable for its own pattern."""
    crops = natural.crops("train")[::THIN]
    mean = float(crops.mean())
    power = np.mean(np.abs(np.fft.fft2(crops - mean, norm="ortho")) ** 2, axis=0)
    power[0, 0] = power.max()  # the mean of one crop is hardly known
    root = torch.from_numpy(np.sqrt(power)).float()
    probe = torch.from_numpy(np.fft.ifftshift(case.scan.probe, axes=(-2, -1)))
    image = np.ones(case.truth.shape, dtype=np.complex64)
    half = case.scan.N // 2
    for rows in np.array_split(np.arange(len(case.scan)), -(-len(case.scan) // CHUNK)):
        counts = torch.from_numpy(np.fft.ifftshift(case.scan.patterns.intensity(rows), axes=(-2, -1)).copy())
        grey = np.fft.fftshift(_most_probable(counts, probe, root, mean).numpy(), axes=(-2, -1))
        for number, tile in zip(rows, natural.transmission(np.clip(grey, 0, 1)), strict=True):
            row, column = case.scan.positions_px[number].astype(int)
            image[row - half : row + half, column - half : column + half] = tile
    return StitchedObject(image, np.ones(image.shape, dtype=np.float32), (0.0, 0.0))


def _most_probable(counts: Tensor, probe: Tensor, root: Tensor, mean: float) -> Tensor:
    """Grey values [n, N, N] from photons [n, N, N], both with the origin in the corner; Adam over whitened coefficients."""
    whitened = torch.zeros_like(counts, requires_grad=True)
    target = (counts + DARK).sqrt()
    adam = torch.optim.Adam([whitened], lr=RATE)
    rates = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS)) + 0.01)

    def grey() -> Tensor:
        return mean + torch.fft.ifft2(torch.fft.fft2(whitened) * root).real

    for _ in range(STEPS):
        x = grey()
        waves = torch.fft.fft2(torch.polar(0.5 + 0.5 * x, math.pi * (x - 0.5))[:, None] * probe, norm="ortho")
        rate = waves.abs().square().sum(dim=1)
        loss = 2 * ((rate + DARK).sqrt() - target).square().sum() + 0.5 * whitened.square().sum()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
        rates.step()
    return grey().detach()
