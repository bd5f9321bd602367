"""The activation functions at the end of a network, and their initial values."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Activation = Callable[[Tensor], Tensor]

AMPLITUDE_ACTIVATIONS: dict[str, Activation] = {
    "sigmoid": torch.sigmoid,
    "swish": functional.silu,
    "softplus": functional.softplus,
    "relu": functional.relu,
}
#: First weights of the heads, relative to those of the other layers.
HEAD_GAIN = 0.05
#: Amplitude of the object of an untrained network. The transmission is then about 1 with a disc-shaped probe of diameter
#: N/2 (object_scale 1.13) and more with others, and a sigmoid has a slope of 0.19 left.
START_AMPLITUDE = 0.75
#: What goes into each amplitude activation to yield START_AMPLITUDE.
START_INPUT = {
    "sigmoid": math.log(START_AMPLITUDE / (1 - START_AMPLITUDE)),
    "softplus": math.log(math.expm1(START_AMPLITUDE)),
    "relu": START_AMPLITUDE,
    "swish": 1.0203512,
}


def scaled_tanh(x: Tensor) -> Tensor:
    return math.pi * torch.tanh(x)


def identity(x: Tensor) -> Tensor:
    return x


def from_start(x: Tensor) -> Tensor:
    """A real part that starts at START_AMPLITUDE."""
    return x + START_AMPLITUDE
