"""Adam's two moments, for a tensor or a part of it."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST, SECOND, TINY = 0.9, 0.999, 1e-12
#: Numbers in a strip of a canvas.
STRIP = 2**17


class Moments:
    """Running mean of gradients and of their squares (Kingma and Ba 2015), with the correction of their zero start.

    Args:
        like: real tensor whose shape and type they have; a complex one counts as pairs of reals.
        second: decay of the mean of squares.
    """

    def __init__(self, like: Tensor, second: float = SECOND) -> None:
        real = torch.view_as_real(like) if like.is_complex() else like
        self.mean, self.square = torch.zeros_like(real), torch.zeros_like(real)
        self.second, self.steps = second, 0

    def step(self, value: Tensor, gradient: Tensor, rate: float | Tensor, where: tuple[slice, ...] = ()) -> None:
        """Move ``value`` (real view) against ``gradient`` by about ``rate``, in place; only inside ``where`` of each."""
        self.steps += 1
        mean, square = self.mean[where], self.square[where]
        mean.lerp_(gradient, 1 - FIRST)
        square.mul_(self.second).addcmul_(gradient, gradient, value=1 - self.second)
        size = rate * (1 - self.second**self.steps) ** 0.5 / (1 - FIRST**self.steps)
        for moving, m, s in zip(strips(value[where]), strips(mean), strips(square), strict=True):
            root = s.sqrt().add_(TINY)
            if isinstance(size, Tensor):
                moving.add_((m * -size).div_(root))
            else:
                moving.addcdiv_(m, root, value=-size)


def strips(canvas: Tensor) -> tuple[Tensor, ...]:
    """A canvas [S, H, ...] on a processor in strips of rows, so that nothing of its size is made beside it; others whole."""
    if canvas.device.type != "cpu" or canvas.dim() < 3:
        return (canvas,)
    return canvas.chunk(max(1, canvas.numel() // STRIP), dim=1)
