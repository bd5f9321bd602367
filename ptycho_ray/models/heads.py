"""The first and the last layers that the Fourier and hybrid networks share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptycho_ray.config import ModelConfig
from ptycho_ray.models.activations import (
    AMPLITUDE_ACTIVATIONS,
    HEAD_GAIN,
    START_INPUT,
    from_start,
    scaled_tanh,
)
from ptycho_ray.models.blocks import convolution
from ptycho_ray.models.conditioning import input_channels


class ObjectHead(nn.Module):
    """Features to object patches: a 1 x 1 convolution and the functions that bound amplitude and phase.

    ``generator_output_mode`` 'real_imag' yields the real and the imaginary part, unbounded; 'amp_phase' and
    'amp_phase_logits', which differ in PtychoPINN only in where the functions stand, yield ``amp_activation`` of one half of
    the channels as amplitude and pi * tanh of the other as phase.

    An untrained network yields a nearly flat object of amplitude START_AMPLITUDE and phase 0, where no function is
    saturated, whatever its body returns: the weights start small, and :func:`bounded` limits the features. All outputs
    have the gain pi of the phase, so that the amplitude, and real and imaginary part, do not learn three times slower.
    """

    def __init__(self, config: ModelConfig, features: int) -> None:
        super().__init__()
        self.outputs = output_channels(config)
        self.real_imag = config.generator_output_mode == "real_imag"
        self.amplitude, self.start = AMPLITUDE_ACTIVATIONS[config.amp_activation], START_INPUT[config.amp_activation]
        self.layer = convolution(features, 2 * self.outputs, 1)
        with torch.no_grad():  # what improves a retrieved object starts by changing nothing
            self.layer.weight.mul_(0.0 if config.probe_conditioning == "retrieval" else HEAD_GAIN)

    def forward(self, x: Tensor) -> Tensor:
        """[B, features, N, N] to complex64 [B, O, N, N]."""
        first, second = self.layer(bounded(x)).float().split(self.outputs, dim=1)
        if self.real_imag:
            return torch.complex(from_start(math.pi * first), math.pi * second)
        return torch.polar(self.amplitude(self.start + math.pi * first), scaled_tanh(second))


class ObjectNetwork(nn.Module):
    """Input transform, lifter, body, head: the frame of every network but ``cnn``.

    Args:
        body: maps ``config.fno_width`` channels to ``features`` at the same side.
        lift: the first layers; conv3, GELU, conv3 if None.
        bounded_lift: bound the input of the body (:func:`bounded`). A body that adds to its input at full resolution
            would otherwise pass the bright centre of the pattern through, whatever it learns.
    """

    def __init__(
        self,
        config: ModelConfig,
        body: nn.Module,
        features: int,
        lift: nn.Module | None = None,
        *,
        bounded_lift: bool = False,
    ) -> None:
        super().__init__()
        self.bounded_lift = bounded_lift
        self.transform = config.fno_input_transform
        width = config.fno_width
        self.lift = lift or nn.Sequential(
            convolution(input_channels(config), width), nn.GELU(), convolution(width, width)
        )
        self.body = body
        self.head = ObjectHead(config, features)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised diffraction amplitudes [B, input channels, N, N] to object patches, complex64 [B, O, N, N]."""
        lifted = self.lift(transformed(x, self.transform))
        return self.head(self.body(bounded(lifted) if self.bounded_lift else lifted))


def bounded(features: Tensor) -> Tensor:
    """x / sqrt(1 + mean of x**2 over the channels) at each pixel: small features pass, large ones end at size 1.

    A pattern spans many orders of magnitude, and a network that keeps the resolution carries its bright centre to the head.
    """
    features = features.float()
    return features * torch.rsqrt(1 + features.square().mean(dim=1, keepdim=True))


def transformed(x: Tensor, kind: str) -> Tensor:
    """The input after ``fno_input_transform``. Square root and logarithm keep the sign, for probe channels have one."""
    if kind == "sqrt":
        return x.sign() * x.abs().sqrt()
    if kind == "log1p":
        return x.sign() * x.abs().log1p()
    if kind == "instancenorm":
        return functional.instance_norm(x)
    return x


def output_channels(config: ModelConfig) -> int:
    """Complex maps that a network draws for each group: one object a pattern, or one for all if they are not merged; twice as
    many where it improves retrieved objects."""
    return (config.gridsize**2 if config.object_big else 1) * (2 if config.probe_conditioning == "retrieval" else 1)
