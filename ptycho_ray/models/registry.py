"""Network architectures by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ptycho_ray.config import ModelConfig
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.models.cnn import ConvolutionalAutoencoder

#: Each entry builds a network that maps [B, C, N, N] to amplitude and phase, each [B, O, N, N].
ARCHITECTURES: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "cnn": ConvolutionalAutoencoder,
}


def build_network(config: ModelConfig) -> nn.Module:
    """Build the network that ``config.architecture`` names; ConfigurationError if there is none of that name yet."""
    try:
        build = ARCHITECTURES[config.architecture]
    except KeyError:
        raise ConfigurationError(
            field="architecture", found=repr(config.architecture), expected=f"one of {', '.join(sorted(ARCHITECTURES))}"
        ) from None
    return build(config)
