"""The convolutional autoencoder of PtychoPINN: one encoder, two decoders, no skip connections.

Topology and parameter counts follow the TensorFlow reference (PtychoPINN, ``ptycho/model.py``), so that its weights
can be used as they are; sides other than 64, 128 and 256 continue its rule.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptycho_ray.config import ModelConfig
from ptycho_ray.models.activations import (
    AMPLITUDE_ACTIVATIONS,
    HEAD_GAIN,
    Activation,
    from_start,
    identity,
    scaled_tanh,
)
from ptycho_ray.models.conditioning import input_channels
from ptycho_ray.physics.merging import central_mask

#: Channels that the last decoder stage sets aside for the border of a patch.
BORDER_CHANNELS = 4


def downsampling_steps(n: int) -> int:
    """How often the encoder halves a pattern of side n: down to 8 pixels, or as far as n can be halved."""
    powers_of_two = (n & -n).bit_length() - 1
    return min(int(math.log2(n / 8)), powers_of_two)


def convolution(inputs: int, outputs: int) -> nn.Conv2d:
    """3 x 3 convolution that keeps the size, with He-uniform weights (for ReLU) and no initial bias.

    The reference starts Glorot-uniform, which halves the signal at every ReLU: over the depth of this network so little of
    the input reaches the heads that training first spends epochs on a flat object (docs/experiments.md).
    """
    layer = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def head(inputs: int, outputs: int) -> nn.Conv2d:
    """The last convolution of a decoder: small weights, so that training starts near a flat object and not saturated."""
    layer = convolution(inputs, outputs)
    with torch.no_grad():
        layer.weight.mul_(HEAD_GAIN)
    return layer


class DoubleConvolution(nn.Module):
    """Two convolutions, each followed by ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = convolution(inputs, outputs)
        self.second = convolution(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(functional.relu(self.first(x))))


class Decoder(nn.Module):
    """From the code to one real image a channel: the central half from most channels, the border from the last four."""

    def __init__(self, config: ModelConfig, outputs: int, code_channels: int) -> None:
        super().__init__()
        n, f = config.N, config.n_filters_scale
        steps = downsampling_steps(n)
        widths = [32 * f * 2 ** (steps - 2 - i) for i in range(steps - 1)]
        self.blocks = nn.ModuleList(
            DoubleConvolution(inputs, outputs_)
            for inputs, outputs_ in zip([code_channels, *widths[:-1]], widths, strict=True)
        )
        self.pad_object = config.pad_object
        self.probe_big = config.probe_big
        full_width = max(1, round(f * 2048 / n))  # channels at the full side n
        if self.pad_object:
            self.centre_head = head(widths[-1] - BORDER_CHANNELS, outputs)
            if self.probe_big:
                self.border_block = DoubleConvolution(BORDER_CHANNELS, full_width)
                self.border_head = head(full_width, outputs)
        else:
            self.last_block = DoubleConvolution(widths[-1], full_width)
            self.centre_head = head(full_width, outputs)
        self.n = n
        self.border: Tensor
        self.register_buffer("border", 1.0 - central_mask(n), persistent=False)

    def forward(self, code: Tensor, activation: Activation, border: Activation = functional.silu) -> Tensor:
        x = code
        for block in self.blocks:
            x = functional.interpolate(block(x), scale_factor=2.0, mode="nearest")
        if not self.pad_object:
            x = functional.interpolate(self.last_block(x), scale_factor=2.0, mode="nearest")
            return activation(self.centre_head(x).float())
        centre = activation(self.centre_head(x[:, :-BORDER_CHANNELS]).float())
        image = functional.pad(centre, [self.n // 4] * 4)
        if self.probe_big:
            around = functional.interpolate(
                self.border_block(x[:, -BORDER_CHANNELS:]), scale_factor=2.0, mode="nearest"
            )
            image = image + border(self.border_head(around).float()) * self.border
        return image


class ConvolutionalAutoencoder(nn.Module):
    """Amplitude in (0, 1) and phase in (-pi, pi) of each pattern's patch, from normalised diffraction amplitudes.

    Input [B, input channels, N, N]; output two float32 tensors [B, O, N, N] with O = C if ``object_big`` else 1. With
    ``cnn_output_mode`` 'real_imag' the two decoders yield real and imaginary part, and the output is complex64 [B, O, N, N].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        f, steps = config.n_filters_scale, downsampling_steps(config.N)
        channels = input_channels(config)
        outputs = config.gridsize**2 if config.object_big else 1
        widths = [128 * f // 2 ** (steps - 1 - i) for i in range(steps)]
        self.encoder = nn.ModuleList(
            DoubleConvolution(inputs, outputs_)
            for inputs, outputs_ in zip([channels, *widths[:-1]], widths, strict=True)
        )
        self.amplitude_decoder = Decoder(config, outputs, widths[-1])
        self.phase_decoder = Decoder(config, outputs, widths[-1])
        self.amplitude_activation = AMPLITUDE_ACTIVATIONS[config.amp_activation]
        self.real_imag = config.cnn_output_mode == "real_imag"

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        for block in self.encoder:
            x = functional.max_pool2d(block(x), 2)
        if self.real_imag:
            real = self.amplitude_decoder(x, from_start, from_start)
            return torch.complex(real, self.phase_decoder(x, identity, identity))
        amplitude = self.amplitude_decoder(x, self.amplitude_activation)
        phase = self.phase_decoder(x, scaled_tanh)
        return amplitude, phase
