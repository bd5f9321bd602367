"""A network that solves all patterns of a scan together, on one canvas (``models/unrolled.py``)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.data.batches import batches, sent
from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.models.number_format import convolutions
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.unrolled import PARTS, Windows, stabilised
from ptycho_ray.physics.likelihood import good_pixels_of
from ptycho_ray.reconstruction.stitching import StitchedObject

#: Amplitudes of a scan are kept in memory up to this size; of a larger one the patterns are read in every iteration.
AMPLITUDE_BYTES = 2**29


@torch.inference_mode()
def reconstruct_together(
    model: PhysicsInformedModel,
    container: PtychoDataContainer,
    batch_size: int,
    positions_px: NDArray[np.float64],
    on_batch: Callable[[int, int], None] | None = None,
) -> StitchedObject:
    """Reconstruct the patterns of all groups of a scan; memory beside the canvases is that of ``batch_size`` patterns.

    Args:
        positions_px: of all patterns of the scan, float64 [n, 2] (row, column).
        on_batch: ``on_batch(done, all)`` is told how much is done, in groups.
    """
    model.eval()
    scan = _Scan(model, container, batch_size, positions_px)
    passes = 0

    def descent(part: int, image: Tensor) -> Tensor:
        nonlocal passes
        total = torch.zeros_like(image)
        for where, amplitudes in scan.pieces(part):
            total += where.descent(image, amplitudes, scan.good)
        passes += 1
        if on_batch is not None:
            on_batch(passes * len(container) // model.config.unrolled_iterations, len(container))
        return total

    lights, weight = [], torch.zeros(scan.shape, device=scan.device)
    for part in scan.parts:
        light = torch.zeros_like(weight)
        for rows in part:
            where = scan.windows(rows)
            light += where.light()
            weight += where.added(model.overlap_weight().expand(len(rows), scan.side, scan.side))
        lights.append(light)
    with convolutions(tf32=False):
        image = model.solve([functools.partial(descent, part) for part in range(len(lights))], lights)
    image = torch.where(torch.stack(lights).sum(dim=0) > 0, image, 0)
    stitched = StitchedObject(image[0].cpu().numpy(), weight[0].cpu().numpy(), scan.origin_px)
    return stitched.with_zero_mean_phase()


class _Scan:
    """The patterns of a scan on one canvas, in the parts that are taken in turn and in batches of each."""

    def __init__(
        self,
        model: PhysicsInformedModel,
        container: PtychoDataContainer,
        batch_size: int,
        positions: NDArray[np.float64],
    ) -> None:
        self.model, self.container = model, container
        self.device, self.side = model.probe_parts.device, model.config.N
        numbers = np.unique(container.nn_indices)
        self.numbers = numbers[in_pairs(positions[numbers])]
        corners = positions[self.numbers] - self.side // 2
        first = np.floor(corners + 0.5)
        self.corners = corners - first.min(axis=0)
        height, width = (np.ptp(first, axis=0) + self.side + 1).astype(int)  # 32 bits may round half a pixel up
        self.shape = (1, int(height), int(width))
        self.origin_px = (float(first[:, 0].min()), float(first[:, 1].min()))
        parts = min(PARTS, len(numbers))
        self.parts = [
            [part[some] for some in batches(len(part), batch_size)]
            for part in (np.arange(len(numbers))[number::parts] for number in range(parts))
        ]
        good = good_pixels_of(container.raw.bad_pixels, self.device)
        self.good = None if good is None else torch.fft.ifftshift(good)
        self.kept: dict[int, Tensor] | None = {} if 4 * len(numbers) * self.side**2 <= AMPLITUDE_BYTES else None

    def pieces(self, part: int) -> Iterator[tuple[Windows, Tensor]]:
        """Windows and amplitudes of the batches of a part."""
        for rows in self.parts[part]:
            yield self.windows(rows), self.amplitudes(rows)

    def windows(self, rows: NDArray[np.int64]) -> Windows:
        corners = sent(torch.from_numpy(self.corners[rows].astype(np.float32)), self.device)
        return Windows(
            self.model.probe, corners, torch.zeros(len(rows), dtype=torch.int64, device=self.device), self.shape
        )

    def amplitudes(self, rows: NDArray[np.int64]) -> Tensor:
        if self.kept is not None and int(rows[0]) in self.kept:
            return self.kept[int(rows[0])]
        photons = self.container.raw.patterns.intensity(self.numbers[rows])
        photons *= np.float32(self.container.normalisation.photon_scale)
        found = sent(stabilised(torch.from_numpy(photons)), self.device)
        if self.kept is not None:
            self.kept[int(rows[0])] = found
        return found


def in_pairs(positions: NDArray[np.float64]) -> NDArray[np.int64]:
    """An order of positions [n, 2] in which every second one is spread over the scan as evenly as all of them, int64 [n]:
    they are halved along their longer side again and again."""

    def ordered(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        if len(rows) <= 2:
            return [rows]
        there = positions[rows]
        along = np.argsort(there[:, np.ptp(there, axis=0).argmax()], kind="stable")
        middle = len(rows) // 4 * 2 or 1
        return ordered(rows[along[:middle]]) + ordered(rows[along[middle:]])

    return np.concatenate(ordered(np.arange(len(positions))))
