"""Networks that keep the resolution and see the whole pattern through spectral convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptycho_ray.config import ModelConfig
from ptycho_ray.models.blocks import FactorisedStack, LocalRefiner, SpectralBlock, convolution, norm
from ptycho_ray.models.conditioning import input_channels
from ptycho_ray.models.heads import ObjectNetwork
from ptycho_ray.models.spectral import SpectralConvolution

#: Channels of the first and the last pointwise layer of ``neuralop_uno``, over its width.
LIFTING_RATIO = 4


def fno_vanilla(config: ModelConfig) -> nn.Module:
    """``fno_blocks`` spectral blocks, nothing else."""
    return ObjectNetwork(config, nn.Sequential(*_spectral_blocks(config)), config.fno_width, bounded_lift=True)


def fno(config: ModelConfig) -> nn.Module:
    """``fno_blocks`` spectral blocks, a 1 x 1 convolution, ``fno_cnn_blocks`` of conv3 and GELU."""
    width = config.fno_width
    local = [layer for _ in range(config.fno_cnn_blocks) for layer in (convolution(width, width), nn.GELU())]
    body = nn.Sequential(*_spectral_blocks(config), convolution(width, width, 1), *local)
    return ObjectNetwork(config, body, width, bounded_lift=True)


def ffno(config: ModelConfig) -> nn.Module:
    """``fno_blocks`` factorised blocks (see FactorisedStack), then ``fno_cnn_blocks`` of x + conv3(GELU(conv3(x)))."""
    width = config.fno_width
    stack = FactorisedStack(width, config.fno_modes, config.N, blocks=config.fno_blocks, gate=1.0)
    refiners = [LocalRefiner(width) for _ in range(config.fno_cnn_blocks)]
    return ObjectNetwork(config, nn.Sequential(stack, *refiners, norm("instance", width)), width, bounded_lift=True)


def _spectral_blocks(config: ModelConfig) -> list[nn.Module]:
    return [SpectralBlock(config.fno_width, config.fno_modes, config.N) for _ in range(config.fno_blocks)]


def neuralop_uno(config: ModelConfig) -> nn.Module:
    """A U-shaped neural operator: spectral layers of width 1, 2, 2, 1 times ``fno_width`` at the sides N, N/2, N/2, N.

    M. A. Rahman et al., arXiv:2204.11127. Replaces the package neuraloperator, whose model exists in PtychoPINN only
    for N = 128 and single patterns; decision 0015.
    """
    width = config.fno_width
    return ObjectNetwork(config, UShapedOperator(config), width, lift=_with_grid(config))


def _with_grid(config: ModelConfig) -> nn.Module:
    width = config.fno_width
    wide = LIFTING_RATIO * width
    return nn.Sequential(
        GridEmbedding(config.N),
        convolution(input_channels(config) + 2, wide, 1),
        nn.GELU(),
        convolution(wide, width, 1),
    )


class GridEmbedding(nn.Module):
    """Two more channels: row and column of each pixel, from 0 to 1."""

    def __init__(self, n: int) -> None:
        super().__init__()
        axis = torch.linspace(0, 1, n)
        self.grid: Tensor
        self.register_buffer("grid", torch.stack(torch.meshgrid(axis, axis, indexing="ij")), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.grid.to(x.dtype).expand(len(x), -1, -1, -1)], dim=1)


class UShapedOperator(nn.Module):
    """Four layers GELU(spectral(x) + linear(x)); the last two also see what the first two yielded, side by side."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        w, n, modes = config.fno_width, config.N, config.fno_modes
        self.layers = nn.ModuleList(
            [
                ResamplingLayer(w, w, modes, n, n),
                ResamplingLayer(w, 2 * w, modes, n, n // 2),
                ResamplingLayer(4 * w, 2 * w, modes, n // 2, n // 2),
                ResamplingLayer(3 * w, w, modes, n // 2, n),
            ]
        )
        wide = LIFTING_RATIO * w
        self.projection = nn.Sequential(convolution(w, wide, 1), nn.GELU(), convolution(wide, w, 1), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        first = functional.gelu(self.layers[0](x))
        second = functional.gelu(self.layers[1](first))
        third = functional.gelu(self.layers[2](torch.cat([second, second], dim=1)))
        fourth = self.layers[3](torch.cat([third, functional.avg_pool2d(first, 2)], dim=1))
        return self.projection(fourth)


class ResamplingLayer(nn.Module):
    """spectral(x) + linear(x), at another resolution."""

    def __init__(self, inputs: int, outputs: int, modes: int, side: int, side_out: int) -> None:
        super().__init__()
        self.spectral = SpectralConvolution(inputs, modes, side, outputs=outputs, side_out=side_out)
        self.linear = convolution(inputs, outputs, 1)
        self.resample: nn.Module = nn.Identity()
        if side_out < side:
            self.resample = nn.AvgPool2d(side // side_out)
        elif side_out > side:
            self.resample = nn.Upsample(scale_factor=side_out // side, mode="nearest")

    def forward(self, x: Tensor) -> Tensor:
        return self.spectral(x) + self.resample(self.linear(x))
