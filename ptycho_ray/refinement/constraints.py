"""Prior knowledge of object and probe, imposed after every iteration."""

from __future__ import annotations

import torch
from torch import Tensor


def limit_amplitude(image: Tensor, limit: float) -> None:
    """Scale down, in place, what is larger than ``limit`` in amplitude."""
    amplitude = image.abs()
    image.mul_(torch.where(amplitude > limit, limit / amplitude.clamp_min(1e-12), torch.ones_like(amplitude)))


def pull_to_phase_object(image: Tensor, share: float) -> None:
    """Take ``share`` of the logarithm of the amplitude away, in place."""
    image.mul_(image.abs().clamp_min(1e-12).pow_(-share))


def smooth_phase(image: Tensor, share: float) -> None:
    """Turn each pixel of [S, H, W], in place, by ``share`` of its phase difference from the mean of its four neighbours."""
    mean = torch.zeros_like(image)
    for axis in (-2, -1):
        for step in (1, -1):
            mean += torch.roll(image, step, axis)
    image.mul_(torch.exp(1j * share * torch.angle(mean * image.conj())))


def reduce_total_variation(image: Tensor, threshold: float) -> None:
    """One descent step on the isotropic total variation of complex images [S, H, W], in place, smoothed at ``threshold``.

    The step is ``threshold / 8`` times the gradient of ``sum sqrt(|D z|^2 + threshold^2)``: differences far above the
    threshold (edges) move by a fixed amount, those far below are averaged out.
    """
    down = torch.zeros_like(image)
    across = torch.zeros_like(image)
    down[..., :-1, :] = image[..., 1:, :] - image[..., :-1, :]
    across[..., :, :-1] = image[..., :, 1:] - image[..., :, :-1]
    size = (down.abs().square() + across.abs().square() + threshold**2).sqrt()
    down /= size
    across /= size
    divergence = down + across
    divergence[..., 1:, :] -= down[..., :-1, :]
    divergence[..., :, 1:] -= across[..., :, :-1]
    image.add_(divergence, alpha=threshold / 8)


def probe_centre_px(probe: Tensor) -> Tensor:
    """Where the bright part of a probe [P, N, N] lies, (row, column): the centroid of its squared intensity, float64 [2]."""
    bright = probe.abs().square().sum(dim=0).double().square()
    axis = torch.arange(probe.shape[-1], dtype=torch.float64, device=probe.device)
    return torch.stack([bright.sum(dim=1) @ axis, bright.sum(dim=0) @ axis]) / bright.sum()


def shift_spectrum(spectrum: Tensor, shift_px: Tensor) -> None:
    """Move what has the Fourier transform ``spectrum`` [P, N, N] by (rows, columns), in place."""
    frequency = torch.fft.fftfreq(spectrum.shape[-1], device=spectrum.device, dtype=torch.float64)
    for axis, shift in enumerate(shift_px):
        ramp = torch.exp(-2j * torch.pi * frequency * shift).to(spectrum.dtype)
        spectrum.mul_(ramp[:, None] if axis == 0 else ramp)
