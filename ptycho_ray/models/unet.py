"""A U-Net: local convolutions at several resolutions (Ronneberger et al., MICCAI 2015)."""

from __future__ import annotations

from torch import nn

from ptycho_ray.config import ModelConfig
from ptycho_ray.models.blocks import Ascent, Descent, Hourglass, LocalRefiner, Merge, doubled, halved
from ptycho_ray.models.heads import ObjectNetwork
from ptycho_ray.models.hybrid import channels_at, possible_halvings

#: The deepest maps have an eighth of the side.
HALVINGS = 3


def unet(config: ModelConfig) -> nn.Module:
    """``fno_width`` channels at full resolution, twice as many after each blurred halving.

    Nothing in it depends on N: weights of one side serve any other. With ``probe_conditioning: retrieval`` the input is
    where the object is, and the skip connections carry it.
    """
    depth = min(HALVINGS, possible_halvings(config.N))
    widths = [channels_at(config, level) for level in range(depth + 1)]
    encoder = [
        Descent(LocalRefiner(widths[level]), halved("blurpool", widths[level], widths[level + 1]))
        for level in range(depth)
    ]
    decoder = [
        Ascent(
            doubled("linear", widths[level + 1], widths[level]),
            Merge("concat", widths[level], widths[level]),
            LocalRefiner(widths[level]),
        )
        for level in reversed(range(depth))
    ]
    bottleneck = nn.Sequential(LocalRefiner(widths[depth]), LocalRefiner(widths[depth]))
    return ObjectNetwork(config, Hourglass(encoder, bottleneck, decoder), widths[0])
