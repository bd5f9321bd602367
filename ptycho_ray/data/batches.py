"""Numbers in batches, and batches read ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

Loaded = TypeVar("Loaded")


def batches(n: int, batch_size: int) -> Iterator[np.ndarray]:
    """0 .. n - 1 in consecutive pieces."""
    for start in range(0, n, batch_size):
        yield np.arange(start, min(start + batch_size, n))


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on ``device``. The host goes on at once: a GPU is sent to from page-locked memory, for a plain copy
    would first wait for all that the GPU still has to do."""
    if device.type == "cpu":
        return tensor
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def prefetched(
    read: Callable[[np.ndarray], Loaded], rows: Iterable[np.ndarray], *, threads: int, ahead: int
) -> Iterator[Loaded]:
    """``read`` of each of ``rows``, in order. ``threads`` of them read up to ``ahead`` batches before they are needed;
    threads are enough, since reading and decompressing release the interpreter.
    """
    if threads == 0:
        yield from map(read, rows)
        return
    waiting: deque[Future[Loaded]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for some in rows:
            waiting.append(pool.submit(read, some))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
