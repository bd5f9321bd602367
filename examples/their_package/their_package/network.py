"""A network: ``ptycho-ray train scan.npz --architecture two_layers``."""

import torch
from torch import Tensor, nn

from ptycho_ray.config import ModelConfig


class TwoLayers(nn.Module):
    """Amplitudes of patterns [B, C, N, N] to complex patches [B, C, N, N], near 1 to begin with."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, width, 7, padding=3)
        self.outer = nn.Conv2d(width, 2 * channels, 7, padding=3)

    def forward(self, amplitudes: Tensor) -> Tensor:
        log_amplitude, phase = self.outer(torch.relu(self.inner(amplitudes))).chunk(2, dim=1)
        return torch.polar(torch.exp(0.1 * log_amplitude), phase)


def two_layers(config: ModelConfig) -> nn.Module:
    """The network for these settings."""
    return TwoLayers(config.gridsize**2, width=8 * config.n_filters_scale)
