"""The measured patterns as the kernel asks for them: square roots of photons, held as 32 bits, as counts of 16, or on disk.

Legend: n patterns, b patterns of a batch, N pattern side.
"""

from __future__ import annotations

import logging
import math
import tempfile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.data.batches import sent
from ptycho_ray.data.patterns import PatternStack, evenly_spread
from ptycho_ray.physics.propagation import Propagator
from ptycho_ray.refinement.streamed import SHARE_OF_FREE, StreamedAmplitude, amplitude_of, free_bytes

log = logging.getLogger(__name__)

#: Largest count that 16 bits hold.
MOST_COUNTS = 2**16 - 1
#: Patterns that stand for all where only the mean is wanted.
MEAN_OF = 512


class CountedAmplitude:
    """Square roots of measured photons, real [n, N, N], of counts that are held as 16 bits: half the memory, the same figures.

    A batch costs a conversion and a square root more than one that lies there as 32 bits: 2 % of an update.

    Args:
        counts: uint16 [n, N, N] in the detector order of the propagator.
        photons: photons per count.
        dtype: of the amplitudes.
    """

    def __init__(self, counts: Tensor, photons: float, dtype: torch.dtype) -> None:
        self.counts, self.photons, self.dtype = counts, photons, dtype
        self.shape, self.device = counts.shape, counts.device

    def __len__(self) -> int:
        return self.shape[0]

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """The patterns ``rows``, int64 [b], a tensor of its own [b, N, N]; ``dim`` is 0 as for a tensor."""
        assert dim == 0
        bits = self.counts.view(torch.int16).index_select(0, rows)  # not every device selects unsigned numbers
        return bits.view(torch.uint16).to(self.dtype).mul_(self.photons).sqrt_()


Amplitude = Tensor | CountedAmplitude | StreamedAmplitude


def measured_amplitude(
    patterns: PatternStack,
    photons: float,
    propagator: Propagator,
    dtype: torch.dtype,
    device: torch.device,
    memory_GB: float | None = None,
    small: bool = False,
) -> Amplitude:
    """The amplitudes of all patterns: in memory if they fit as 32 bits or as counts of 16, else on disk if they are there.

    Args:
        memory_GB: what they may take; half of what is free if None.
        small: as counts of 16 bits whenever they are such, though there is room.
    """
    room = SHARE_OF_FREE * free_bytes(device) if memory_GB is None else memory_GB * 1e9
    values = math.prod(patterns.shape)
    fits = values * dtype.itemsize <= room
    if (small or not fits) and values * torch.uint16.itemsize <= room:
        counts = _counts(patterns, propagator, device)
        if counts is not None:
            return CountedAmplitude(counts, photons, dtype)
    if not (fits or patterns.in_memory):
        log.warning(
            "the patterns would take %.3g GB and %.3g GB are there for them: they stay on disk and are read as they are needed",
            values * dtype.itemsize / 1e9,
            room / 1e9,
        )
        return StreamedAmplitude(patterns, photons, propagator, dtype, device)
    amplitude = torch.empty(patterns.shape, dtype=dtype, device=device)
    for piece in _pieces(np.arange(len(patterns)), patterns.N):
        amplitude[piece[0] : piece[-1] + 1] = amplitude_of(patterns, piece, photons, propagator, dtype, device)
    return amplitude


def _counts(patterns: PatternStack, propagator: Propagator, device: torch.device) -> Tensor | None:
    """All intensities, uint16 [n, N, N] in detector order; None if one is no whole number of 16 bits."""
    counts = torch.empty(patterns.shape, dtype=torch.uint16, device=device)
    for piece in _pieces(np.arange(len(patterns)), patterns.N):
        intensity = patterns.intensity(piece)
        if intensity.max() > MOST_COUNTS or not np.array_equal(intensity, np.floor(intensity)):
            return None
        there = propagator.arrange(sent(torch.from_numpy(intensity), device))
        counts[piece[0] : piece[-1] + 1] = there.to(torch.uint16)
    return counts


def mean_pattern(amplitude: Amplitude, rows: NDArray[np.int64]) -> Tensor:
    """The mean intensity of the patterns ``rows``, real [N, N]; of frames on disk of some of them, evenly spread."""
    some = rows[evenly_spread(len(rows), MEAN_OF)] if isinstance(amplitude, StreamedAmplitude) else rows
    total = torch.zeros(amplitude.shape[1:], dtype=torch.float64, device=amplitude.device)
    for piece in _pieces(some, amplitude.shape[-1]):
        chosen = amplitude.index_select(0, torch.as_tensor(piece, device=amplitude.device))
        total += chosen.square_().sum(dim=0)
    return (total / len(some)).to(amplitude.dtype)


def writable_copy(amplitude: Amplitude) -> Tensor:
    """A copy [n, N, N] to be written into: in memory, or in a temporary file that goes when it is no longer used."""
    if isinstance(amplitude, Tensor):
        return amplitude.clone()
    with tempfile.TemporaryFile(prefix="ptycho_ray_", suffix=".amplitude") as file:
        real = np.float64 if amplitude.dtype == torch.float64 else np.float32
        copy = torch.from_numpy(np.memmap(file, real, "w+", shape=tuple(amplitude.shape)))
    for piece in _pieces(np.arange(len(amplitude)), amplitude.shape[-1]):
        copy[piece[0] : piece[-1] + 1] = amplitude.index_select(0, torch.as_tensor(piece, device=amplitude.device))
    return copy


def _pieces(rows: NDArray[np.int64], side: int) -> list[NDArray[np.int64]]:
    """``rows`` in pieces of 1 MiB: of larger ones the allocator keeps what was freed."""
    return np.array_split(rows, max(1, -(-len(rows) * 4 * side**2 // 2**20)))
