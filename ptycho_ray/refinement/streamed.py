"""Measured patterns that are too many for the memory: they stay in their file and are read, a batch ahead, as they are needed.

Legend: n patterns, b patterns of a batch, N pattern side.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ptycho_ray.data.batches import sent
from ptycho_ray.data.contents import free_memory_bytes
from ptycho_ray.data.patterns import PatternStack
from ptycho_ray.physics.propagation import Propagator

#: Share of the free memory that frames may take if nothing else is said: the rest is for the image and for others.
SHARE_OF_FREE = 0.5
#: Batches that are read ahead: one more than is worked on would do if the disk were steady.
AHEAD = 3


class StreamedAmplitude:
    """Square roots of measured photons, real [n, N, N] in the detector order of ``propagator``, of frames on disk.

    What a tensor of them would be asked for: ``index_select``, ``shape``, ``dtype``, ``device``. Batches that are announced by
    :meth:`expect` are read by a thread of their own while those before them are computed.

    Args:
        patterns: frames on disk.
        photons: photons per unit of their intensity.
    """

    def __init__(
        self, patterns: PatternStack, photons: float, propagator: Propagator, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.patterns, self.photons, self.propagator = patterns, photons, propagator
        self.shape, self.dtype, self.device = torch.Size(patterns.shape), dtype, device
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="frames")
        self._numbers = WeakTensorKeyDictionary()
        self._waiting: deque[NDArray[np.int64]] = deque()
        self._coming: deque[tuple[dict[int, int], Future[Tensor]]] = deque()

    def __len__(self) -> int:
        return self.shape[0]

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """The patterns ``rows``, int64 [b], a tensor of its own [b, N, N]; ``dim`` is 0 as for a tensor."""
        assert dim == 0
        numbers: list[int] = self._numbers.get(rows) or rows.tolist()
        while self._coming and not set(numbers) <= self._coming[0][0].keys():
            if not any(set(numbers) <= places.keys() for places, _ in self._coming):
                return self._read(np.asarray(numbers, dtype=np.int64))  # asked for in between, as by a judge
            self._coming.popleft()
            self._read_ahead()
        if not self._coming:
            return self._read(np.asarray(numbers, dtype=np.int64))
        places, read = self._coming[0]
        there = torch.tensor([places[number] for number in numbers])
        return read.result().index_select(0, sent(there, self.device))

    def told(self, rows: Tensor, numbers: NDArray[np.int64]) -> Tensor:
        """``rows``, which lie on the device, where it would take a wait to read that they are ``numbers``."""
        self._numbers[rows] = numbers.tolist()
        return rows

    def expect(self, batches: Iterable[NDArray[np.int64]]) -> None:
        """These batches will be asked for, in this order, whole or in pieces."""
        for _, future in self._coming:
            future.cancel()
        self._coming.clear()
        self._waiting = deque(batches)
        self._read_ahead()

    def _read_ahead(self) -> None:
        while self._waiting and len(self._coming) < AHEAD:
            rows = self._waiting.popleft()
            places = {int(row): place for place, row in enumerate(rows)}
            self._coming.append((places, self._reader.submit(self._read, rows)))

    def _read(self, rows: NDArray[np.int64]) -> Tensor:
        return amplitude_of(self.patterns, rows, self.photons, self.propagator, self.dtype, self.device)


def amplitude_of(
    patterns: PatternStack,
    rows: NDArray[np.int64],
    photons: float,
    propagator: Propagator,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Square roots of the photons of the patterns ``rows``, real [b, N, N], in the detector order of ``propagator``."""
    counts = sent(torch.from_numpy(patterns.intensity(rows)), device).to(dtype)
    return propagator.arrange(counts.mul_(photons).sqrt_()).contiguous()


def free_bytes(device: torch.device) -> int:
    """Memory that is free where the frames would lie, in bytes."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory_bytes()
