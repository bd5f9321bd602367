"""Cost of a network: parameters, and floating-point operations of a forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, bmm_flop

from ptycho_ray.config import ModelConfig
from ptycho_ray.models.conditioning import input_channels
from ptycho_ray.models.registry import build_network
from ptycho_ray.models.unrolled import UnrolledSolver


@dataclass(frozen=True)
class Cost:
    """Parameters (numbers that are trained) and operations for one group of patterns.

    A multiplication and an addition count as two; a complex multiplication and addition as eight; a Fourier transform of n
    numbers as 5 n log2(n), of real ones half of it. Activations, norms and sums are not counted, nor is what physics computes
    beside the network (a retrieval before it, the kernel between the steps of the unrolled solver).
    """

    parameters: int
    flops: int


def network_cost(config: ModelConfig) -> Cost:
    """The cost of the network of a configuration. Only shapes are propagated: nothing is computed and no memory allocated."""
    with torch.device("meta"):
        network = build_network(config).eval().requires_grad_(False)
        x = torch.empty(1, input_channels(config), config.N, config.N)
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
    with torch.no_grad(), counter:
        network(x)
    times = network.iterations if isinstance(network, UnrolledSolver) else 1
    return Cost(sum(parameter.numel() for parameter in network.parameters()), times * counter.get_total_flops())


def _transform(real: bool) -> Callable[..., int]:
    """Operations of a Fourier transform over the axes ``dim``; ``a`` and ``out`` are tensors."""

    def flops(a: Any, dim: list[int], *args: Any, out_val: Any = None, **kwargs: Any) -> int:
        whole = max(a.numel(), out_val.numel())
        length = math.prod(max(a.shape[axis], out_val.shape[axis]) for axis in dim)
        return round(5 * whole * math.log2(length) / (2 if real else 1))

    flops._get_raw = True  # type: ignore[attr-defined] # torch's mark for "give me tensors and not shapes"
    return flops


def _product(a: Any, b: Any, *args: Any, **kwargs: Any) -> int:
    return bmm_flop(a.shape, b.shape) * (4 if a.is_complex() else 1)


_product._get_raw = True  # type: ignore[attr-defined]

_FORMULAS = {
    torch.ops.aten.bmm: _product,
    torch.ops.aten._fft_r2c: _transform(real=True),
    torch.ops.aten._fft_c2r: _transform(real=True),
    torch.ops.aten._fft_c2c: _transform(real=False),
}
