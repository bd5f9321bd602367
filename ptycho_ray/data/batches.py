"""Groups in batches, read ahead of their use if asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.data.container import PtychoDataContainer

#: Photons [b, C, N, N] and positions relative to the group centre [b, C, 2], both float32.
Batch = tuple[Tensor, Tensor]


def batches(n: int, batch_size: int) -> Iterator[np.ndarray]:
    """0 .. n - 1 in consecutive pieces."""
    for start in range(0, n, batch_size):
        yield np.arange(start, min(start + batch_size, n))


def prefetched(
    container: PtychoDataContainer, rows: Iterable[np.ndarray], execution: ExecutionConfig
) -> Iterator[Batch]:
    """The batches of ``rows``, in order. With ``num_workers`` threads up to ``prefetch_factor`` batches a thread are read
    ahead (2 if not given); threads are enough, since reading and decompressing release the interpreter. With
    ``pin_memory`` they lie in page-locked memory where there is a GPU.
    """
    pin = execution.pin_memory and torch.cuda.is_available()

    def read(some: np.ndarray) -> Batch:
        photons, relative = (torch.from_numpy(array) for array in container.batch(some))
        return (photons.pin_memory(), relative.pin_memory()) if pin else (photons, relative)

    if execution.num_workers == 0:
        yield from map(read, rows)
        return
    ahead = execution.num_workers * (execution.prefetch_factor or 2)
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(execution.num_workers) as pool:
        for some in rows:
            waiting.append(pool.submit(read, some))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
