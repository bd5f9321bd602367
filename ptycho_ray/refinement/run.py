"""The state of a refinement that every method works on, and what all methods share: batches, sums over processes, schedule."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.data.batches import sent
from ptycho_ray.refinement.batching import chunk_size, default_batch_size, draw_batches
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.estimate import Estimate
from ptycho_ray.refinement.kernel import Kernel
from ptycho_ray.refinement.patch_geometry import Geometry
from ptycho_ray.refinement.streamed import StreamedAmplitude
from ptycho_ray.refinement.tiles import Neighbours
from ptycho_ray.training.parallel import DataParallel


class Run:
    """One refinement in progress.

    Args:
        kernel: forward model and adjoint.
        state: the present estimate, changed in place.
        config: settings.
        rows: patterns that are learnt from, int64 [m].
        generator: draws the batches; the same on all processes.
        parallel: the place of this process among those that share the work.
        tiles: the other workers, where this one has only its own part of the scan; None for a whole scan.

    Attributes:
        iteration: how many are done.
        backoff: factor on all steps, reduced when a step has diverged.
        only: the batches that ``batches`` returns; None for those of a whole iteration.
    """

    def __init__(
        self,
        kernel: Kernel,
        state: Estimate,
        config: RefinementConfig,
        rows: NDArray[np.int64],
        generator: np.random.Generator,
        parallel: DataParallel,
        tiles: Neighbours | None = None,
    ) -> None:
        self.kernel, self.state, self.config, self.parallel = kernel, state, config, parallel
        self.rows, self.generator, self.tiles = rows, generator, tiles
        self.only: list[NDArray[np.int64]] | None = None
        self.iteration, self.backoff = 0, 1.0
        modes, side = state.probe_spectrum.shape[:2]
        canvas_px = state.object[0].numel()
        self.batch_size = config.batch_size or default_batch_size(side, modes, len(rows), canvas_px)

    @property
    def geometry(self) -> Geometry:
        return self.kernel.geometry

    def schedule(self) -> float:
        """Factor on the steps of the present iteration: half a cosine from one to nearly zero, or one."""
        if self.config.schedule == "constant":
            return self.backoff
        passed = min(self.iteration / self.config.iterations, 1.0)
        return self.backoff * max(0.5 * (1 + math.cos(math.pi * passed)), 1e-3)

    def moves(self, start: int | None) -> bool:
        """Whether an unknown with this start is updated in the present iteration."""
        return start is not None and self.iteration >= start

    @property
    def object_moves(self) -> bool:
        return self.moves(self.config.object_start)

    @property
    def probe_moves(self) -> bool:
        return self.moves(self.config.probe_start)

    @property
    def needs_probe_gradient(self) -> bool:
        """Whether the adjoint has to go on from the object to the probe and what belongs to it."""
        config = self.config
        return (
            self.probe_moves
            or (self.moves(config.position_start) and config.position_method != "cross_correlation")
            or (bool(config.eigenmodes) and self.moves(config.eigenmode_start))
        )

    def batches(self) -> list[NDArray[np.int64]]:
        """The batches of an iteration, or of a part of it; the same on every process that shares them."""
        return self.draw() if self.only is None else self.only

    def draw(self) -> list[NDArray[np.int64]]:
        """New batches for an iteration."""
        positions = self.geometry.positions_px
        drawn = draw_batches(self.rows, positions, self.batch_size, self.config.batching, self.generator)
        if isinstance(self.kernel.amplitude, StreamedAmplitude):
            self.kernel.amplitude.expect([self.parallel.share(batch) for batch in drawn])
        return drawn

    def chunks(self, rows: NDArray[np.int64]) -> list[Tensor]:
        """This process's share of ``rows`` in pieces that fit the cache, or that fill a GPU."""
        mine = self.parallel.share(rows)
        modes, side = self.state.probe_spectrum.shape[:2]
        size = chunk_size(side, modes, self.state.object.device)
        if isinstance(self.kernel.amplitude, StreamedAmplitude) and len(mine) > self.batch_size:
            self.kernel.amplitude.expect(mine[low : low + size] for low in range(0, len(mine), size))
        return [self.tensor(part) for part in np.array_split(mine, max(1, -(-len(mine) // size))) if len(part)]

    def tensor(self, rows: NDArray[np.int64]) -> Tensor:
        there = sent(torch.as_tensor(rows), self.state.object.device)
        amplitude = self.kernel.amplitude
        return amplitude.told(there, rows) if isinstance(amplitude, StreamedAmplitude) else there

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; one collective."""
        if self.parallel.size == 1 or not tensors:
            return
        reals = [torch.view_as_real(t) if t.is_complex() else t for t in tensors]
        flat = torch.cat([t.reshape(-1) for t in reals])
        torch.distributed.all_reduce(flat)
        for target, total in zip(reals, flat.split([t.numel() for t in reals]), strict=True):
            target.copy_(total.view_as(target))

    def mean_over_scan(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean of ``values`` [m, k], a row for each learnt pattern, over the whole scan, [k]."""
        mean = values.mean(axis=0)
        return mean if self.tiles is None else np.array(self.tiles.mean(mean.tolist(), len(values)))

    @torch.no_grad()
    def loss_of(self, rows: NDArray[np.int64]) -> float:
        """The loss a pixel of the present estimate in some patterns, of tiles in those of all."""
        return float(self.loss_there(rows))

    def loss_there(self, rows: NDArray[np.int64]) -> Tensor:
        """:meth:`loss_of`, left on the device, float64 []."""
        kernel = self.kernel
        total = torch.zeros((), dtype=torch.float64, device=self.state.object.device)
        for piece in np.array_split(rows, max(1, -(-len(rows) // 32))):
            waves = kernel.forward(self.state, self.tensor(piece))
            total += kernel.compare(waves, self.state.scale)[0].sum()
        loss = total / (len(rows) * kernel.amplitude.shape[1:].numel())
        return loss if self.tiles is None else self.tiles.mean_there(loss, len(rows))

    def illumination(self) -> Tensor:
        """Photons that fell on each pixel of the canvas from all learnt patterns, real [H, W]; sub-pixel parts left out."""
        geometry = self.geometry
        corners = torch.zeros(geometry.height, geometry.width, dtype=geometry.frequency.dtype)
        np.add.at(corners.numpy(), tuple(geometry.corners[self.rows].T), 1.0)
        corners = sent(corners, self.state.object.device)
        spot = self.state.probe.abs().square().sum(dim=0)
        shape = list(corners.shape)
        product = torch.fft.rfft2(corners)
        del corners  # canvases are what a tile has beside its patterns
        product *= torch.fft.rfft2(spot, shape)
        return torch.fft.irfft2(product, shape).clamp_min_(0)
