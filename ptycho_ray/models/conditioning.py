"""Conditioning of a network on the probe, so that one network serves several.

The pattern alone does not show which part of it is due to the probe. ``probe_conditioning: channels`` adds the probe to
the pattern as further input channels: its wave, on the pixels of the object, and its diffraction pattern, on those of
the measured pattern and in the same units. ``retrieval`` goes further: instead of the pattern, the network sees a phase
retrieval of the single pattern (:mod:`ptycho_ray.models.retrieval`), the next step of that retrieval, the wave of the
probe, and the photons per pixel; all of them on the pixels of the object.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_ray.config import ModelConfig
from ptycho_ray.models.unrolled import INPUTS
from ptycho_ray.physics.diffraction import diffraction_intensity

#: Real and imaginary part of the strongest mode, and one more: the diffraction amplitude of all modes, or the dose.
PROBE_CHANNELS = 3
#: Divides the logarithm of the photons a pixel, to be of order one.
DOSE_SCALE = 8.0
#: Multiplies the step that would come next, which is small, to be of order one.
STEP_SCALE = 10.0


def input_channels(config: ModelConfig) -> int:
    """Channels of a network's input: one a pattern of the group (four of its retrieved object), and those of the probe;
    of one that solves scans the maps that its step sees."""
    if config.solves_scans:
        return INPUTS
    a_pattern = 4 if config.probe_conditioning == "retrieval" else 1
    return a_pattern * config.gridsize**2 + (0 if config.probe_conditioning == "none" else PROBE_CHANNELS)


def probe_channels(probe: Tensor, input_scale: float) -> Tensor:
    """The probe as input channels, float32 [PROBE_CHANNELS, N, N].

    Args:
        probe: modes in sqrt(photons), complex [P, N, N].
        input_scale: network input = input_scale * sqrt(photons).
    """
    wave = probe_wave(probe)
    diffraction = input_scale * diffraction_intensity(probe).sqrt()
    return torch.stack([wave.real, wave.imag, diffraction])


def retrieval_channels(retrieved: Tensor, step: Tensor, probe: Tensor, level: float) -> Tensor:
    """What :func:`~ptycho_ray.models.retrieval.single_shot_retrieval` yields, and the probe, as input channels, float32
    [B, 4 C + PROBE_CHANNELS, N, N].

    Args:
        retrieved, step: transmissions, complex [B, C, N, N]; ``level`` is the mean amplitude.
        probe: modes in sqrt(photons), complex [P, N, N].
    """
    wave = probe_wave(probe)
    dose = torch.log1p(level**2 * probe.abs().square().sum(dim=0)) / DOSE_SCALE
    seen = torch.stack([wave.real, wave.imag, dose]).expand(len(retrieved), -1, -1, -1)
    relative, ahead = retrieved / level - 1, step * (STEP_SCALE / level)
    return torch.cat([relative.real, relative.imag, ahead.real, ahead.imag, seen], dim=1)


def probe_wave(probe: Tensor) -> Tensor:
    """The strongest mode [N, N] divided by its largest amplitude, with its phase chosen so that its
    intensity-weighted mean is real: neither the photons nor the global phase of a probe carry information on its
    shape."""
    number = probe.abs().square().sum(dim=(-2, -1)).argmax()
    strongest = probe.index_select(0, number.view(1))[0]  # probe[number] would have the host wait for the number
    amplitude = strongest.abs()
    mean = (strongest * amplitude).sum()
    return strongest * (mean.conj() / mean.abs().clamp_min(torch.finfo(torch.float32).tiny)) / amplitude.max()
