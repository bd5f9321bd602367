"""The smooth phase of a scan in tiles: what changes slowly over several tiles none of them sees alone.

The change of the phase is averaged over small cells, summed over all tiles, and over-relaxed on the grid of these cells for the
whole scan (``smooth.py`` says why); each tile takes its part of that.

Legend: S slices, [H, W] canvas of a tile, [h, w] cells of the whole scan.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptycho_ray.refinement.moments import strips
from ptycho_ray.refinement.smooth import over_relaxed
from ptycho_ray.refinement.tiles import Neighbours

#: Cells of the grid along a window: what is finer than two of them, the probe's own size, needs no over-relaxation.
CELLS_A_WINDOW = 16


class SmoothOverTiles:
    """:class:`.smooth.SmoothAcceleration` for one of several tiles; all call it together.

    Args:
        image: the object of this tile, complex [S, H, W].
        gain: largest factor.
        tiles: all tiles.
        side: N.
    """

    def __init__(self, image: Tensor, gain: float, tiles: Neighbours, side: int) -> None:
        self._gain, self._tiles = gain, tiles
        self._cell = max(1, side // CELLS_A_WINDOW)
        top, left = tiles.corner
        self._axes = [
            (first + torch.arange(length, device=image.device))
            for first, length in zip((top, left), image.shape[-2:], strict=True)
        ]
        self._cells = [-(-length // self._cell) for length in tiles.whole]
        self.last = image.clone()

    def apply(self, image: Tensor, illumination: Callable[[], Tensor], probe_diameter_px: Tensor) -> None:
        """Over-relax the change of ``image`` since ``last``, in place; ``last`` is then the image before. The ``illumination``
        of this tile is not asked for: that of all counts."""
        both = zip(strips(image), strips(self.last), strict=True)
        change = torch.cat([torch.angle(now * before.conj()).mean(dim=0) for now, before in both])
        weight = self._tiles.lit_weight()
        change -= (
            change * weight
        ).sum() / weight.sum()  # what a tile turned as a whole, it turned to agree with the others
        change *= weight
        del weight  # and change below: canvases are what a tile has beside its patterns
        cells = over_relaxed(self._gather(change), self._gain, probe_diameter_px / self._cell)
        del change
        further = self._spread(cells)
        self.last.copy_(image)
        image.mul_(torch.polar(further.new_ones(()).expand_as(further), further))

    def _gather(self, field: Tensor) -> Tensor:
        """Means of [H, W] over cells, [h, w], of all tiles together."""
        rows, columns = (axis // self._cell for axis in self._axes)
        lines = field.new_zeros(self._cells[0], field.shape[1]).index_add_(0, rows, field)
        cells = field.new_zeros(*self._cells).index_add_(1, columns, lines)
        return self._tiles.sum(cells) / self._cell**2

    def _spread(self, cells: Tensor) -> Tensor:
        """[h, w] between the centres of cells, linearly, on the canvas of this tile [H, W]."""
        for dim, axis in enumerate(self._axes):
            place = ((axis + 0.5) / self._cell - 0.5).clamp(0, cells.shape[dim] - 1).to(cells.dtype)
            low = place.floor().long()
            high = (low + 1).clamp_max(cells.shape[dim] - 1)
            part = (place - low).unsqueeze(1 - dim)
            cells = cells.index_select(dim, low).lerp_(cells.index_select(dim, high), part)
        return cells
