"""Adam's two moments, for a tensor or a part of it."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST, SECOND, TINY = 0.9, 0.999, 1e-12


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
        root = square.sqrt().add_(TINY)
        size = rate * (1 - self.second**self.steps) ** 0.5 / (1 - FIRST**self.steps)
        if isinstance(size, Tensor):
            value[where].add_((mean * -size).div_(root))
        else:
            value[where].addcdiv_(mean, root, value=-size)
