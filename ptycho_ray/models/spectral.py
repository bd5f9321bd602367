"""Convolutions in Fourier space: learned weights on the low frequencies of a feature map.

Legend: B batch, I and O channels in and out, H and W sides of the map, K frequencies kept along an axis.
Z. Li et al., Fourier neural operator, arXiv:2010.08895; A. Tran et al., factorised form, arXiv:2111.13802.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ComplexWeight(nn.Module):
    """Complex Gaussian weights of standard deviation ``std`` and any shape, kept as real numbers [first axis, rest, 2].

    Real, because fused optimisers, the sum of gradients over workers and 16-bit casts know no complex parameter; of three
    axes, because four would be taken for the weights of a convolution and laid out as such.
    """

    def __init__(self, *shape: int, std: float) -> None:
        super().__init__()
        self.shape = shape
        self.parts = nn.Parameter(torch.randn(shape[0], math.prod(shape[1:]), 2) * (std / 2**0.5))

    def forward(self) -> Tensor:
        return torch.view_as_complex(self.parts.float()).reshape(self.shape)


class SpectralConvolution(nn.Module):
    """A learned matrix between the channels for each low frequency; all other frequencies become zero.

    The transform of a real map is kept for columns 0 ... W/2 only, so its low frequencies lie in *two* corners: rows from 0 up
    and rows from -1 down. Both have weights; with the first alone, waves with negative row frequency could not pass.

    Args:
        channels: I; ``outputs``: O, as many if None.
        modes: frequencies kept to each side along an axis; as many as the map has if that is fewer.
        side: side of the input; ``side_out``: of the output, the same if None. Another side resamples the map.
    """

    def __init__(
        self, channels: int, modes: int, side: int, *, outputs: int | None = None, side_out: int | None = None
    ) -> None:
        super().__init__()
        outputs, self.side_out = outputs or channels, side_out or side
        smaller = min(side, self.side_out)
        self.rows, self.columns = min(modes, smaller // 2), min(modes, smaller // 2 + 1)
        self.gain = self.side_out / side  # keeps values when the number of pixels changes (orthonormal transforms)
        self.weight = ComplexWeight(channels, outputs, 2 * self.rows, self.columns, std=channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, I, H, W] to [B, O, side_out, side_out], float32."""
        spectrum = torch.fft.rfft2(x.float(), norm="ortho")[..., : self.columns]
        low = torch.cat([spectrum[..., : self.rows, :], spectrum[..., -self.rows :, :]], dim=-2)
        low = torch.einsum("bixy,ioxy->boxy", low, self.weight()) * self.gain
        b, o = low.shape[:2]
        side = self.side_out
        between = low.new_zeros(b, o, side - 2 * self.rows, self.columns)
        whole = torch.cat([low[..., : self.rows, :], between, low[..., self.rows :, :]], dim=-2)
        return torch.fft.irfft2(whole, s=(side, side), norm="ortho")


class FactorisedConvolution(nn.Module):
    """One-dimensional spectral convolutions along rows and along columns, added.

    The weights are O(channels**2 * modes) and not O(channels**2 * modes**2).
    """

    def __init__(self, channels: int, modes: int, side: int) -> None:
        super().__init__()
        self.modes = min(modes, side // 2 + 1)
        std = (2 * channels) ** -0.5
        self.weight_rows = ComplexWeight(channels, channels, self.modes, std=std)
        self.weight_columns = ComplexWeight(channels, channels, self.modes, std=std)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same shape, float32."""
        x = x.float()
        height, width = x.shape[-2:]
        along_width = torch.fft.rfft(x, dim=-1, norm="ortho")[..., : self.modes]
        along_height = torch.fft.rfft(x, dim=-2, norm="ortho")[..., : self.modes, :]
        along_width = torch.einsum("bihk,iok->bohk", along_width, self.weight_columns())
        along_height = torch.einsum("bikw,iok->bokw", along_height, self.weight_rows())
        return torch.fft.irfft(along_width, n=width, dim=-1, norm="ortho") + torch.fft.irfft(
            along_height, n=height, dim=-2, norm="ortho"
        )
