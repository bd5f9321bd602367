"""Several processes that train one model together.

Every global batch is divided among them and the gradients are added up, so that a step is the same step whatever the
number of processes. Why this is not DistributedDataParallel: docs/decisions/0007-data-parallel.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True)
class DataParallel:
    """The place of this process among ``size`` that run the same program; torch.distributed joins them if size > 1."""

    rank: int = 0
    size: int = 1

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """What this process computes of a global batch; all shares together are the batch, some may be empty."""
        return rows[self.rank :: self.size]

    def align(self, model: nn.Module) -> None:
        """Broadcast the numbers of the first process to all."""
        if self.size > 1:
            for value in unique_state(model).values():
                torch.distributed.broadcast(value, src=0)

    def add_up(self, parameters: Iterable[nn.Parameter], figures: Tensor) -> Tensor:
        """Sum the gradients over all processes, in place, and return the sum of ``figures`` [F]; one collective.

        A gradient that no process has stays None, so that the optimiser leaves that parameter alone.
        """
        if self.size == 1:
            return figures
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        missing = [number for number, p in enumerate(trained) if p.grad is None]
        present = torch.ones(len(trained), dtype=figures.dtype, device=figures.device)
        for number in missing:
            present[number] = 0
        tail = torch.cat([present, figures]).float()
        flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), tail])
        torch.distributed.all_reduce(flat)
        *sums, tail = flat.split([gradient.numel() for gradient in gradients] + [len(tail)])
        present, figures = tail.split([len(present), len(figures)])
        counts = present.tolist() if missing else []  # a look at the device only where it matters
        nowhere = {number for number in missing if not counts[number]}
        for number, (parameter, gradient, total) in enumerate(zip(trained, gradients, sums, strict=True)):
            if number not in nowhere:
                parameter.grad = gradient.copy_(total.view_as(gradient))
        return figures


def unique_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; what several parts of a model share comes once, under its first name."""
    return {name: value.data for name, value in [*model.named_parameters(), *model.named_buffers()]}
