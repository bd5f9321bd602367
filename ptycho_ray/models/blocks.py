"""Building blocks of the networks: convolutions, residual blocks, changes of resolution.

Every block maps [B, C, H, W] to a map of the same or of half or twice the side.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptycho_ray.models.spectral import FactorisedConvolution, SpectralConvolution
from ptycho_ray.physics.blur import reflect

#: How much of the encoder's map a decoder sees at first. That map still looks like the pattern, not like the object.
SKIP_START = 0.1


def convolution(inputs: int, outputs: int, size: int = 3, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """A convolution with He-normal weights and no initial bias that keeps the side (divided by ``stride``)."""
    padding = (size - 1) // 2
    layer = nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, groups=groups)
    return _started(layer)


def mirrored_convolution(inputs: int, outputs: int, size: int = 3, *, groups: int = 1) -> nn.Sequential:
    """A convolution with mirrored instead of zero padding."""
    layer = nn.Conv2d(inputs, outputs, size, groups=groups)
    return nn.Sequential(Reflection(size // 2), _started(layer))


def _started(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Reflection(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return reflect(x, self.width)


def norm(kind: str, channels: int) -> nn.Module:
    """'instance': every channel of every map gets mean 0 and variance 1, then a learned scale and offset; 'none'."""
    return nn.InstanceNorm2d(channels, affine=True) if kind == "instance" else nn.Identity()


def scale_parameter(start: float, *, channels: int | None = None, trainable: bool = True) -> nn.Parameter:
    """A factor on a branch: one number, or one for each channel."""
    shape = () if channels is None else (channels, 1, 1)
    return nn.Parameter(torch.full(shape, float(start)), requires_grad=trainable)


class SpectralBlock(nn.Module):
    """x + GELU(spectral(x) + conv3(x)), the block that PtychoPINN calls PtychoBlock.

    Args:
        fusion: 'baseline' as above; 'layerscale' puts a factor for each channel before the sum with x; 'branch_gated' a
            factor before each of the two branches; 'branch_gated_layerscale' both.
        branches: 'both', 'conv_only' or 'spectral_only'.
        layerscale: first value of the factors for each channel.
        normalised: an instance norm after the GELU.
    """

    def __init__(
        self,
        channels: int,
        modes: int,
        side: int,
        *,
        fusion: str = "baseline",
        branches: str = "both",
        layerscale: float = 0.1,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.spectral = SpectralConvolution(channels, modes, side) if branches != "conv_only" else None
        self.local = mirrored_convolution(channels, channels) if branches != "spectral_only" else None
        gated, scaled = fusion.startswith("branch_gated"), fusion.endswith("layerscale")
        self.spectral_gate = scale_parameter(1.0) if gated and self.spectral is not None else None
        self.local_gate = scale_parameter(1.0) if gated and self.local is not None else None
        self.scale = scale_parameter(layerscale, channels=channels) if scaled else None
        self.norm = norm("instance" if normalised else "none", channels)

    def forward(self, x: Tensor) -> Tensor:
        branches = [
            branch(x) if gate is None else gate * branch(x)
            for branch, gate in ((self.spectral, self.spectral_gate), (self.local, self.local_gate))
            if branch is not None
        ]
        step = self.norm(functional.gelu(sum(branches[1:], start=branches[0])))
        return x + (step if self.scale is None else self.scale * step)


class LocalRefiner(nn.Module):
    """x + conv3(GELU(conv3(x)))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(channels, channels), nn.GELU(), convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class FactorisedStack(nn.Module):
    """Blocks x + g * project(GELU(expand(norm(spectral(x))))) with 1 x 1 layers and a factorised spectral convolution.

    Args:
        share_weights: all blocks use the weights of one spectral convolution.
        gate: first value of g, which all blocks share.
        mlp_ratio: channels after ``expand`` over those before.
    """

    def __init__(
        self,
        channels: int,
        modes: int,
        side: int,
        *,
        blocks: int,
        share_weights: bool = True,
        gate: float = 0.1,
        norm_kind: str = "instance",
        mlp_ratio: float = 2.0,
    ) -> None:
        super().__init__()
        wide = max(1, round(channels * mlp_ratio))
        self.spectral = nn.ModuleList(
            FactorisedConvolution(channels, modes, side) for _ in range(1 if share_weights else blocks)
        )
        self.pointwise = nn.ModuleList(
            nn.Sequential(
                norm(norm_kind, channels),
                convolution(channels, wide, 1),
                nn.GELU(),
                convolution(wide, channels, 1),
            )
            for _ in range(blocks)
        )
        self.gate = scale_parameter(gate)

    def forward(self, x: Tensor) -> Tensor:
        for number, pointwise in enumerate(self.pointwise):
            x = x + self.gate * pointwise(self.spectral[number % len(self.spectral)](x))
        return x


class ScaledSum(nn.Module):
    """x + s * body(x) for several bodies in turn; they share the one factor s."""

    def __init__(self, bodies: Sequence[nn.Module], scale: nn.Parameter) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(bodies)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        for body in self.bodies:
            x = x + self.scale * body(x)
        return x


def resnet_body(channels: int) -> nn.Sequential:
    """conv3, norm, GELU, conv3, norm, with mirrored edges."""
    return nn.Sequential(
        mirrored_convolution(channels, channels),
        norm("instance", channels),
        nn.GELU(),
        mirrored_convolution(channels, channels),
        norm("instance", channels),
    )


def convnext_body(channels: int) -> nn.Sequential:
    """Depthwise 7 x 7, norm, 1 x 1 to four times the channels, GELU, 1 x 1 (Z. Liu et al., arXiv:2201.03545)."""
    return nn.Sequential(
        mirrored_convolution(channels, channels, 7, groups=channels),
        norm("instance", channels),
        convolution(channels, 4 * channels, 1),
        nn.GELU(),
        convolution(4 * channels, channels, 1),
    )


class SpectralResidualStack(nn.Module):
    """Blocks x + s * resnet_body(x) + g * factorised(x).

    Args:
        share_weights: one factorised convolution for all blocks, or one for each.
        gate: first value of g; ``gate_mode`` 'shared' is one g for all blocks, 'per_block' one for each.
        scale: s, shared.
    """

    def __init__(
        self,
        channels: int,
        modes: int,
        side: int,
        *,
        blocks: int,
        share_weights: bool,
        gate: float,
        gate_mode: str,
        scale: nn.Parameter,
    ) -> None:
        super().__init__()
        self.bodies = nn.ModuleList(resnet_body(channels) for _ in range(blocks))
        self.spectral = nn.ModuleList(
            FactorisedConvolution(channels, modes, side) for _ in range(1 if share_weights else blocks)
        )
        self.gates = nn.ParameterList(scale_parameter(gate) for _ in range(blocks if gate_mode == "per_block" else 1))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        for number, body in enumerate(self.bodies):
            spectral = self.spectral[number % len(self.spectral)]
            x = x + self.scale * body(x) + self.gates[number % len(self.gates)] * spectral(x)
        return x


class BlurPool(nn.Module):
    """Every second pixel after a 1-2-1 blur (R. Zhang, arXiv:1904.11486)."""

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        self.kernel: Tensor
        self.register_buffer("kernel", line[:, None] * line, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 3, 3)
        return functional.conv2d(reflect(x, 1), kernel, stride=2, groups=channels)


def halved(kind: str, inputs: int, outputs: int) -> nn.Module:
    """Half the side: 'stride_conv' a 2 x 2 convolution, 'avgpool' or 'blurpool' with a 1 x 1 convolution."""
    if kind == "stride_conv":
        return _started(nn.Conv2d(inputs, outputs, 2, stride=2))
    pool: nn.Module = nn.AvgPool2d(2) if kind == "avgpool" else BlurPool()
    return nn.Sequential(pool, convolution(inputs, outputs, 1))


def doubled(kind: str, inputs: int, outputs: int) -> nn.Module:
    """Twice the side: 'transpose' a 2 x 2 transposed convolution; 'transpose_norm' a 4 x 4 one with norm and GELU;
    'linear' bilinear with a 1 x 1 convolution."""
    if kind == "linear":
        return nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), convolution(inputs, outputs, 1)
        )
    if kind == "transpose":
        return smoothly_started(nn.ConvTranspose2d(inputs, outputs, 2, stride=2))
    layer = smoothly_started(nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1))
    return nn.Sequential(layer, norm("instance", outputs), nn.GELU())


def smoothly_started(layer: nn.ConvTranspose2d) -> nn.ConvTranspose2d:
    """Let a transposed convolution start as an interpolation (constant for 2 x 2, linear for 4 x 4) with random channels.

    With independent random weights it produces pixel-scale artefacts in the object; training removes them by
    suppressing the head, and the object stays flat (see docs/networks.md).
    """
    line = torch.tensor({2: [1.0, 1.0], 4: [0.25, 0.75, 0.75, 0.25]}[layer.kernel_size[0]])
    mixing = torch.randn(*layer.weight.shape[:2], 1, 1) * (2 / layer.weight.shape[0]) ** 0.5
    with torch.no_grad():
        layer.weight.copy_(mixing * (line[:, None] * line))
        assert layer.bias is not None
        layer.bias.zero_()
    return layer


class Merge(nn.Module):
    """How a decoder merges the encoder's map of the same side: 'none', 'add', 'gated_add' (with a learned factor that
    starts at SKIP_START) or 'concat' (with a 1 x 1 convolution whose weights on that map start smaller by SKIP_START)."""

    def __init__(self, kind: str, channels: int, skip_channels: int) -> None:
        super().__init__()
        self.kind = kind
        self.fit: nn.Module = nn.Identity()
        if kind == "concat":
            fit = convolution(channels + skip_channels, channels, 1)
            with torch.no_grad():
                fit.weight[:, channels:].mul_(SKIP_START)
            self.fit = fit
        elif kind != "none" and skip_channels != channels:
            self.fit = convolution(skip_channels, channels, 1)
        self.gate = scale_parameter(SKIP_START) if kind == "gated_add" else None

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        if self.kind == "none":
            return x
        if self.kind == "concat":
            return self.fit(torch.cat([x, skip.to(x.dtype)], dim=1))
        return x + self.fit(skip) * (1.0 if self.gate is None else self.gate)


class Descent(nn.Module):
    """A block at one resolution, and the way to the next: [B, C, H, W] to the halved map and the block's own."""

    def __init__(self, block: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.block, self.down = block, down

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.block(x)
        return self.down(x), x


class Ascent(nn.Module):
    """Back to the resolution of ``skip``, merge with it, and a block there."""

    def __init__(self, up: nn.Module, merge: Merge, block: nn.Module | None = None) -> None:
        super().__init__()
        self.up, self.merge, self.block = up, merge, block or nn.Identity()

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        merged: Tensor = self.block(self.merge(self.up(x), skip))
        return merged


class Hourglass(nn.Module):
    """Encoder, bottleneck, decoder: down the resolutions, through, and up again.

    Args:
        encoder: from the highest resolution down.
        bottleneck: works at the lowest resolution.
        decoder: as many, from the lowest resolution up.
    """

    def __init__(self, encoder: Sequence[Descent], bottleneck: nn.Module, decoder: Sequence[Ascent]) -> None:
        super().__init__()
        self.encoder, self.bottleneck, self.decoder = nn.ModuleList(encoder), bottleneck, nn.ModuleList(decoder)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for descent in self.encoder:
            x, skip = descent(x)
            skips.append(skip)
        x = self.bottleneck(x)
        for ascent in self.decoder:
            x = ascent(x, skips.pop())
        return x
