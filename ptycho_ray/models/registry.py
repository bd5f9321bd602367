"""Network architectures by name.

A new one is a function from the configuration to a module that maps [B, input channels, N, N] to complex patches
[B, O, N, N], built from ``blocks.py`` and ``heads.py``, and one line here; one of another package is registered
(docs/extending.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from torch import nn

from ptycho_ray.config import ModelConfig
from ptycho_ray.config.extensions import find, register
from ptycho_ray.config.model import OUR_NETWORKS
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.models.cnn import ConvolutionalAutoencoder
from ptycho_ray.models.fourier import ffno, fno, fno_vanilla, neuralop_uno
from ptycho_ray.models.hybrid import (
    convnext_bottleneck,
    ffno_bottleneck,
    hourglass_resnet,
    hybrid,
    spectral_bottleneck,
    stable_hybrid,
)
from ptycho_ray.models.unet import unet
from ptycho_ray.models.unrolled import UnrolledSolver

#: Each entry builds a network that maps [B, input channels, N, N] to the complex patches [B, O, N, N] or to their
#: amplitude and phase.
ARCHITECTURES: dict[str, Callable[[ModelConfig], nn.Module]] = {
    "cnn": ConvolutionalAutoencoder,
    "fno": fno,
    "fno_vanilla": fno_vanilla,
    "ffno": ffno,
    "neuralop_uno": neuralop_uno,
    "hybrid": hybrid,
    "stable_hybrid": stable_hybrid,
    "hybrid_resnet": hourglass_resnet,
    "hybrid_resnet_ffno_ptychoblock_encoder": partial(hourglass_resnet, ffno="first"),
    "hybrid_resnet_ptychoblock_ffno_encoder": partial(hourglass_resnet, ffno="last"),
    "hybrid_resnet_ffno_bottleneck": partial(hourglass_resnet, bottleneck=ffno_bottleneck),
    "hybrid_resnet_convnext_bottleneck": partial(hourglass_resnet, bottleneck=convnext_bottleneck),
    "spectral_resnet_bottleneck_net": partial(hourglass_resnet, bottleneck=spectral_bottleneck, keep_width=True),
    "spectral_resnet_bottleneck_linear_decoder": partial(
        hourglass_resnet, bottleneck=spectral_bottleneck, keep_width=True, upsampler="linear"
    ),
    "unet": unet,
    "unrolled": UnrolledSolver,
}


#: Networks whose weights do not depend on the side of the patterns.
ANY_SIDE = frozenset({"unet", "unrolled"})


def for_side(config: ModelConfig, side: int) -> ModelConfig:
    """The configuration for patterns of another side, if a trained network of ``config`` serves them; else ``config``."""
    serves = config.architecture in ANY_SIDE and config.sees_probe
    return replace(config, N=side) if serves else config


def build_network(config: ModelConfig) -> nn.Module:
    """Build the network that ``config.architecture`` names, one of ours or of another package."""
    if config.learned_input_channels != 1:
        raise ConfigurationError(
            field="model.learned_input_channels",
            found=config.learned_input_channels,
            expected=1,
            hint="probe_conditioning gives a network further input channels",
        )
    if config.architecture == "cnn" and config.probe_conditioning == "retrieval":
        raise ConfigurationError(
            "'cnn' predicts the border of a patch separately and cannot preserve a retrieved object",
            field="model.architecture",
            found="'cnn' with probe_conditioning 'retrieval'",
            expected="'unet', or any other network",
        )
    if config.solves_scans and config.probe_conditioning != "none":
        raise ConfigurationError(
            f"{config.architecture!r} sees the probe in any case",
            field="model.probe_conditioning",
            found=repr(config.probe_conditioning),
            expected="'none', or not given",
        )
    build = ARCHITECTURES.get(config.architecture) or find("network", config.architecture)
    return build(config)


def register_network(name: str, network: nn.Module | Callable[[ModelConfig], nn.Module]) -> None:
    """Make a network known as ``architecture=name`` in this process: a module, of which every model gets a copy, or a function
    from the settings to one. It maps amplitudes, float32 [B, C, N, N], to complex patches [B, C, N, N], where C is
    gridsize**2; with ``probe_conditioning`` it gets further channels.

    Raises:
        ConfigurationError: the name is no word, or that of a network of ours; or it is neither a module nor a function.
    """
    module = network
    build = (lambda config: copy.deepcopy(module)) if isinstance(module, nn.Module) else network
    register("network", name, build, taken=OUR_NETWORKS)
