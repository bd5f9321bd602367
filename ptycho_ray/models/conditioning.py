"""What a network is told of the probe, so that one network serves several.

The pattern alone does not tell which part of it is probe. ``probe_conditioning: channels`` puts the probe beside the
pattern as further input channels: its wave, pixel by pixel where the object will be, and its own diffraction, pixel by
pixel where the pattern is and in the same units.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_ray.config import ModelConfig
from ptycho_ray.physics.diffraction import diffraction_intensity

#: Real and imaginary part of the strongest mode, and the diffraction amplitude of all modes.
PROBE_CHANNELS = 3


def input_channels(config: ModelConfig) -> int:
    """Channels of a network's input: one a pattern of the group, and those of the probe."""
    return config.gridsize**2 + (PROBE_CHANNELS if config.probe_conditioning == "channels" else 0)


def probe_channels(probe: Tensor, input_scale: float) -> Tensor:
    """The probe as input channels, float32 [PROBE_CHANNELS, N, N].

    Args:
        probe: modes in sqrt(photons), complex [P, N, N].
        input_scale: network input = input_scale * sqrt(photons).

    The wave is that of the strongest mode, divided by its largest amplitude, and turned so that its intensity-weighted mean
    is real: neither the photons nor the phase of a probe, which diffraction leaves open, says anything on its shape.
    """
    strongest = probe[probe.abs().square().sum(dim=(-2, -1)).argmax()]
    amplitude = strongest.abs()
    mean = (strongest * amplitude).sum()
    wave = strongest * (mean.conj() / mean.abs().clamp_min(torch.finfo(torch.float32).tiny)) / amplitude.max()
    diffraction = input_scale * diffraction_intensity(probe).sqrt()
    return torch.stack([wave.real, wave.imag, diffraction])
