"""A small U-Net for images of any sides, which the learned prior and the unrolled solver have in common."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from ptycho_ray.models.blocks import LocalRefiner, convolution

#: Sides of an image are brought to a multiple of this: pixels are gathered by two, and halved once more.
MULTIPLE = 4


class SmallUNet(nn.Module):
    """Two resolutions, on pixels gathered two by two: an output pixel depends on those within about 30.

    Args:
        inputs, outputs: maps that come in and go out.
        width: channels at half of the resolution; twice as many at a quarter.
    """

    def __init__(self, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.first = convolution(4 * inputs, width)
        self.down = nn.Sequential(LocalRefiner(width), LocalRefiner(width))
        self.coarser = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.deep = nn.Sequential(*(LocalRefiner(2 * width) for _ in range(3)))
        self.finer = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up = nn.Sequential(LocalRefiner(width), LocalRefiner(width))
        self.last = convolution(width, 4 * outputs)

    def maps(self, seen: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H, W], 32 bits."""
        height, width = seen.shape[-2:]
        padding = (0, -width % MULTIPLE, 0, -height % MULTIPLE)
        gathered = functional.pixel_unshuffle(functional.pad(seen, padding, mode="replicate"), 2)
        high = self.down(self.first(gathered))
        high = self.up(high + self.finer(self.deep(self.coarser(high))))
        return functional.pixel_shuffle(self.last(high), 2).float()[..., :height, :width]
