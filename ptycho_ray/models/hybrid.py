"""Hourglass networks: spectral blocks on the way down, a bottleneck, convolutions on the way up."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ptycho_ray.config import ModelConfig
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.models.blocks import (
    Ascent,
    Descent,
    FactorisedStack,
    Hourglass,
    Merge,
    ScaledSum,
    SpectralBlock,
    SpectralResidualStack,
    convnext_body,
    convolution,
    doubled,
    halved,
    resnet_body,
    scale_parameter,
)
from ptycho_ray.models.heads import ObjectNetwork

#: The hybrid_resnet family has at least so many spectral blocks.
LEAST_ENCODER_BLOCKS = 3
#: The variants with a factorised stack have this many spectral blocks beside it.
BLOCKS_BESIDE_FFNO = 2


def possible_halvings(n: int) -> int:
    """How often a side can be halved with a whole result of at least 4 pixels."""
    halvings = 0
    while n % 2 == 0 and n >= 8:
        n, halvings = n // 2, halvings + 1
    return halvings


def channels_at(config: ModelConfig, level: int) -> int:
    """Channels after ``level`` halvings: twice as many each time, up to ``max_hidden_channels``."""
    return min(config.fno_width * 2**level, config.max_hidden_channels or config.fno_width * 2**level)


# -- hybrid and stable_hybrid ------------------------------------------------------------------------------------------


def hybrid(config: ModelConfig) -> nn.Module:
    """``fno_blocks`` spectral blocks with a halving after each but the last, a bottleneck with half the modes, and a decoder
    that sees the encoder's maps (U-NO)."""
    return _hybrid(config, stable=False)


def stable_hybrid(config: ModelConfig) -> nn.Module:
    """``hybrid`` whose blocks add layerscale * norm(GELU(...)), which bounds the growth of the signal.

    PtychoPINN starts the factors at 0.001, so that at first no spectral layer takes part, and reports a flat amplitude; here
    they start at ``hybrid_layerscale``.
    """
    return _hybrid(config, stable=True)


def _hybrid(config: ModelConfig, *, stable: bool) -> nn.Module:
    def block(level: int, modes: int) -> nn.Module:
        return SpectralBlock(
            channels_at(config, level),
            modes,
            config.N // 2**level,
            fusion="layerscale" if stable else config.hybrid_fusion,
            branches=config.hybrid_branches,
            layerscale=config.hybrid_layerscale,
            normalised=stable,
        )

    depth = min(config.fno_blocks - 1, possible_halvings(config.N))
    encoder = [
        Descent(
            block(level, config.fno_modes),
            halved(config.hybrid_downsample, channels_at(config, level), channels_at(config, level + 1)),
        )
        for level in range(depth)
    ]
    bottleneck = nn.Sequential(block(depth, config.fno_modes), block(depth, max(1, config.fno_modes // 2)))
    decoder = []
    for level in reversed(range(depth)):
        width = channels_at(config, level)
        refine = nn.Sequential(convolution(width, width), nn.GELU(), convolution(width, width))
        up = doubled("transpose", channels_at(config, level + 1), width)
        decoder.append(Ascent(up, Merge("concat", width, width), refine))
    return ObjectNetwork(config, Hourglass(encoder, bottleneck, decoder), config.fno_width)


# -- the hybrid_resnet family ------------------------------------------------------------------------------------------

#: A bottleneck of ``width`` channels at the given side.
Bottleneck = Callable[[ModelConfig, int, int], nn.Module]


def residual_bottleneck(config: ModelConfig, width: int, side: int) -> nn.Module:
    return ScaledSum([resnet_body(width) for _ in range(config.resnet_blocks)], _residual_scale(config))


def convnext_bottleneck(config: ModelConfig, width: int, side: int) -> nn.Module:
    return ScaledSum([convnext_body(width) for _ in range(config.resnet_blocks)], _residual_scale(config))


def ffno_bottleneck(config: ModelConfig, width: int, side: int) -> nn.Module:
    return FactorisedStack(
        width,
        config.spectral_bottleneck_modes,
        side,
        blocks=config.spectral_bottleneck_blocks,
        share_weights=config.spectral_bottleneck_share_weights,
        gate=config.spectral_bottleneck_gate_init,
    )


def spectral_bottleneck(config: ModelConfig, width: int, side: int) -> nn.Module:
    return SpectralResidualStack(
        width,
        config.spectral_bottleneck_modes,
        side,
        blocks=config.spectral_bottleneck_blocks,
        share_weights=config.spectral_bottleneck_share_weights,
        gate=config.spectral_bottleneck_gate_init,
        gate_mode=config.spectral_bottleneck_gate_mode,
        scale=_residual_scale(config),
    )


def _residual_scale(config: ModelConfig) -> nn.Parameter:
    return scale_parameter(config.resnet_scale, trainable=config.resnet_scale_trainable)


def hourglass_resnet(
    config: ModelConfig,
    bottleneck: Bottleneck = residual_bottleneck,
    *,
    ffno: str = "",
    upsampler: str = "transpose_norm",
    keep_width: bool = False,
) -> nn.Module:
    """Spectral blocks with ``hybrid_downsample_steps`` halvings, a 1 x 1 convolution to ``resnet_width``, a bottleneck, and as
    many doublings.

    Args:
        ffno: 'first' or 'last' puts a factorised stack before or after the spectral blocks, which then are two.
        upsampler: see :func:`doubled`.
        keep_width: no decoder stage has fewer channels than ``fno_width``.
    """
    steps = min(config.hybrid_downsample_steps, possible_halvings(config.N))
    side = config.N // 2**steps
    blocks = BLOCKS_BESIDE_FFNO if ffno else max(LEAST_ENCODER_BLOCKS, config.fno_blocks)
    encoder = []
    for level in range(steps):
        block: nn.Module = _encoder_block(config, level)
        if level == 0 and ffno == "first":
            block = nn.Sequential(_ffno_encoder(config, 0), block)
        down = halved(config.hybrid_downsample, channels_at(config, level), channels_at(config, level + 1))
        encoder.append(Descent(block, down))
    deepest = channels_at(config, steps)
    width = config.resnet_width or deepest
    if width % 4:
        raise ConfigurationError(field="model.resnet_width", found=width, expected="a multiple of 4")
    low: list[nn.Module] = [_encoder_block(config, steps) for _ in range(blocks - steps)]
    if ffno == "last":
        low.append(_ffno_encoder(config, steps))
    low.append(convolution(deepest, width, 1))
    low.append(bottleneck(config, width, side))
    decoder = []
    inputs = width
    for level in reversed(range(steps)):
        outputs = inputs // 2
        if keep_width:
            outputs = max(outputs, config.fno_width)
        merge = Merge(config.hybrid_skip, outputs, channels_at(config, level))
        decoder.append(Ascent(doubled(upsampler, inputs, outputs), merge))
        inputs = outputs
    return ObjectNetwork(config, Hourglass(encoder, nn.Sequential(*low), decoder), inputs)


def _encoder_block(config: ModelConfig, level: int) -> nn.Module:
    return SpectralBlock(
        channels_at(config, level),
        config.fno_modes,
        config.N // 2**level,
        fusion=config.hybrid_fusion,
        branches=config.hybrid_branches,
        layerscale=config.hybrid_layerscale,
    )


def _ffno_encoder(config: ModelConfig, level: int) -> nn.Module:
    return FactorisedStack(
        channels_at(config, level),
        config.ffno_encoder_modes,
        config.N // 2**level,
        blocks=config.ffno_encoder_blocks,
        share_weights=config.ffno_encoder_share_weights,
        gate=config.ffno_encoder_gate_init,
        norm_kind=config.ffno_encoder_norm,
        mlp_ratio=config.ffno_encoder_mlp_ratio,
    )
