"""One scan divided among workers: each holds its patterns and the part of the object that they light, a tile.

Canvases of neighbouring tiles overlap by the windows at their border. There the object is exchanged and averaged, weighted by
the light that each tile throws on a pixel; probe and background are averaged over all. What a pattern does not tell, the phase
of a tile and of its probe, is made common first.

Legend: n patterns, S slices, P probe modes, N pattern side, [H, W] canvas of a tile.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.linalg import lsqr
from torch import Tensor

from ptycho_ray.data.batches import sent
from ptycho_ray.physics.smooth_phase import LIT_SHARE
from ptycho_ray.refinement.estimate import Estimate
from ptycho_ray.refinement.patch_geometry import Geometry
from ptycho_ray.training.parallel import DataParallel

#: Share of the brightest light of a tile from which it says anything of a pixel.
DARK_SHARE = 1e-6
#: Rows and columns of a canvas.
Box = tuple[slice, slice]


def tiles_of(positions_px: NDArray[np.float64], count: int) -> list[NDArray[np.int64]]:
    """Patterns of each of ``count`` compact tiles, equally many but for one: cut across the longer side, again and again.

    Every pattern of the positions [n, 2] is in one tile; the numbers of a tile are in increasing order.
    """

    def cut(rows: NDArray[np.int64], count: int) -> list[NDArray[np.int64]]:
        if count == 1:
            return [np.sort(rows)]
        inside = positions_px[rows]
        axis = int(np.argmax(np.ptp(inside, axis=0))) if len(rows) else 0
        order = rows[np.argsort(inside[:, axis], kind="stable")]
        first = count // 2
        middle = len(rows) * first // count
        return [*cut(order[:middle], first), *cut(order[middle:], count - first)]

    return cut(np.arange(len(positions_px)), count)


class Neighbours:
    """The tiles of all workers as one of them sees them; torch.distributed joins the workers.

    Args:
        parallel: the place of this worker; tiles are numbered by rank.
        device: where tensors live.
    """

    def __init__(self, parallel: DataParallel, device: torch.device) -> None:
        self.rank, self.size, self.device = parallel.rank, parallel.size, device
        #: For each tile whose canvas overlaps: its number and the common rectangle of this canvas.
        self.common: list[tuple[int, Box]] = []
        #: Pixel (0, 0) of this canvas in that of the whole scan, and rows and columns of the latter.
        self.corner, self.whole = (0, 0), (0, 0)
        self._pairs: list[tuple[int, int]] = []
        self._light, self._total = torch.zeros(0), torch.zeros(0)
        self._shares: list[Tensor] = []
        self._both: list[Tensor] = []
        self._probe: Tensor | None = None

    def meet(self, geometry: Geometry) -> None:
        """Learn where the other tiles lie."""
        own = [*geometry.origin_px, geometry.height, geometry.width]
        table = torch.zeros(self.size, 4, dtype=torch.float64)
        table[self.rank] = torch.tensor(own, dtype=torch.float64)
        boxes = self.sum(sent(table, geometry.device)).cpu().numpy().astype(np.int64)
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        row, column = (int(away) for away in low[self.rank] - low.min(axis=0))
        height, width = (int(side) for side in high.max(axis=0) - low.min(axis=0))
        self.corner, self.whole = (row, column), (height, width)
        self._pairs = [
            (one, other)
            for one in range(self.size)
            for other in range(one + 1, self.size)
            if (np.maximum(low[one], low[other]) < np.minimum(high[one], high[other])).all()
        ]
        self.common = []
        for pair in self._pairs:
            if self.rank in pair:
                other = sum(pair) - self.rank
                top, left = np.maximum(low[self.rank], low[other]) - low[self.rank]
                bottom, right = np.minimum(high[self.rank], high[other]) - low[self.rank]
                self.common.append((other, (slice(int(top), int(bottom)), slice(int(left), int(right)))))

    # -- sums over all tiles -----------------------------------------------------------------------------------------

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all tiles, of the shape of ``values``."""
        total = values.clone()
        if self.size > 1:
            torch.distributed.all_reduce(torch.view_as_real(total) if total.is_complex() else total)
        return total

    def mean(self, values: Sequence[float], weight: float) -> list[float]:
        """Weighted means over all tiles."""
        own = sent(torch.tensor(values, dtype=torch.float64), self.device)
        found: list[float] = self.mean_there(own, weight).tolist()
        return found

    def mean_there(self, value: Tensor, weight: float) -> Tensor:
        """The same of numbers that lie on the device, float64, and stay there."""
        sums = self.sum(torch.cat([value.reshape(-1), value.new_ones(1)]) * weight)
        return (sums[:-1] / sums[-1]).view(value.shape)

    def first(self, values: Sequence[float]) -> list[float]:
        """The numbers of the first tile."""
        own = sent(torch.tensor(values, dtype=torch.float64), self.device)
        return [float(value) for value in self.sum(own if self.rank == 0 else torch.zeros_like(own))]

    # -- the object --------------------------------------------------------------------------------------------------

    def weigh(self, light: Tensor) -> None:
        """Take the light [H, W] that this tile throws on its canvas as the weight of its object from now on."""
        light = torch.where(
            light > DARK_SHARE * light.max(), light, 0
        )  # what lies below is the rounding of a transform
        theirs = self._swap(light[None])
        self._total = self._light = light  # the last ones go before there are others
        total = light.clone()
        for (_, box), other in zip(self.common, theirs, strict=True):
            total[box] += other[0]
        dark = total <= 0
        self._total = total
        self._light = torch.where(dark, torch.ones_like(light), light / total.clamp_min(1e-30))
        self._shares = [
            other[0] / total[box].clamp_min(1e-30) for (_, box), other in zip(self.common, theirs, strict=True)
        ]
        self._both = [light[box] * other[0] for (_, box), other in zip(self.common, theirs, strict=True)]

    def lit_weight(self) -> Tensor:
        """How much each pixel [H, W] of this canvas counts in sums over all tiles: in full, shared among the tiles that see it,
        from LIT_SHARE of the brightest light on."""
        brightest = torch.zeros(self.size, dtype=self._total.dtype, device=self._total.device)
        brightest[self.rank] = self._total.max()
        level = LIT_SHARE * self.sum(brightest).max()
        return (self._total / level).clamp_max_(1).mul_(self._light)

    def combine(self, image: Tensor) -> None:
        """Make the object [S, H, W] common where tiles overlap, in place: the mean by light, after phases are made common."""
        theirs = self._swap(image)
        overlaps = torch.zeros(len(self._pairs), len(image), dtype=torch.complex128, device=image.device)
        for (other, box), part, both in zip(self.common, theirs, self._both, strict=True):
            if self.rank < other:
                product = (image[(slice(None), *box)].conj() * part * both).sum(dim=(-2, -1))
                overlaps[self._pairs.index((self.rank, other))] = product
        turns = self._turns(self.sum(overlaps).cpu().numpy())  # [tiles, S]
        factors = sent(torch.from_numpy(turns), image.device).to(image.dtype)[..., None, None]
        torch.view_as_real(image.mul_(factors[self.rank])).mul_(self._light[..., None])  # as complex it would be copied
        for (other, box), part, share in zip(self.common, theirs, self._shares, strict=True):
            image[(slice(None), *box)] += part * factors[other] * share

    def _turns(self, overlaps: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """Factors [tiles, S] of modulus one by which overlapping tiles agree best, from their products [pairs, S]."""
        turns = np.ones((self.size, overlaps.shape[1]), dtype=np.complex128)
        if not self._pairs:
            return turns
        one, other = np.array(self._pairs).T
        pair = np.arange(len(one))
        for number, products in enumerate(overlaps.T):
            weight = np.sqrt(np.abs(products) / max(np.abs(products).max(), 1e-300))
            entries = (np.concatenate([-weight, weight]), (np.tile(pair, 2), np.concatenate([one, other])))
            angles = lsqr(coo_array(entries, shape=(len(pair), self.size)), -weight * np.angle(products), 0, 1e-9, 1e-9)
            turns[:, number] = np.exp(1j * angles[0])
        return turns

    def _swap(self, image: Tensor) -> list[Tensor]:
        """What the overlapping tiles have of [S, H, W] in the common rectangles, [S, h, w] each."""
        sent = [image[(slice(None), *box)].contiguous() for _, box in self.common]
        received = [torch.empty_like(part) for part in sent]
        steps = []
        for (other, _), part, into in zip(self.common, sent, received, strict=True):
            ours, their = (torch.view_as_real(t) if t.is_complex() else t for t in (part, into))
            steps.append(torch.distributed.P2POp(torch.distributed.isend, ours, other))
            steps.append(torch.distributed.P2POp(torch.distributed.irecv, their, other))
        for request in torch.distributed.batch_isend_irecv(steps) if steps else ():
            request.wait()
        return received

    # -- what all patterns share -------------------------------------------------------------------------------------

    def share_probe(self, state: Estimate, patterns: int) -> None:
        """Average probe, eigenmodes and background over all tiles, by their numbers of patterns, in place.

        The phase of each mode is first made that of the last average.
        """
        spectrum = state.probe_spectrum
        if self._probe is not None:
            products = (self._probe.conj() * spectrum).sum(dim=(-2, -1))
            back = products.conj() / products.abs().clamp_min(1e-30)
            spectrum.mul_(back[:, None, None])
            state.eigen_spectrum.mul_(back[0])
        parts = [spectrum, state.eigen_spectrum, *([] if state.background is None else [state.background])]
        reals = [torch.view_as_real(part) if part.is_complex() else part for part in parts]
        weight = torch.full((1,), float(patterns), dtype=reals[0].dtype, device=reals[0].device)
        total = self.sum(torch.cat([part.reshape(-1) * patterns for part in reals] + [weight]))
        for part, mean in zip(reals, (total[:-1] / total[-1]).split([part.numel() for part in reals]), strict=True):
            part.copy_(mean.view_as(part))
        self._probe = spectrum.clone()
