"""Refining one scan on workers that each hold a tile of it (``tiles.py``): the solver of one worker, and its files.

After the loss of a worker all resume from the last set of files; a set of another number of tiles is put together and divided
anew (``tile_files.py``).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_ray.data.batches import sent
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.evaluation.explained import Figures
from ptycho_ray.physics.probe import orthogonal_modes
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.result import Progress
from ptycho_ray.refinement.solver import Refinement
from ptycho_ray.refinement.tile_files import TiledState, complete_sets, read_tiles, tile_file
from ptycho_ray.refinement.tiles import Neighbours, tiles_of
from ptycho_ray.training.parallel import DataParallel

#: Updates between two averages of the probe; borders of the object are exchanged once an iteration. As the probe of a tile
#: drifts its object follows, elsewhere than that of a neighbour: a smooth phase between them, slow to go (docs/distributed.md).
PROBE_EVERY = 2
#: A small tile is updated at least that often in an iteration, by smaller batches: so often a pixel of a larger one is, too.
LEAST_UPDATES = 20
#: Methods whose updates are those of batches, between which the object can be exchanged.
IN_TILES = ("adam", "epie", "rpie", "lsqml")


def can_be_tiled(config: RefinementConfig) -> bool:
    """Whether a worker needs no more than its tile."""
    free = config.position_model == "free" and config.tilt_start is None and config.prior == "none"
    return config.method in IN_TILES and free


def check_tiles(config: RefinementConfig) -> None:
    """ConfigurationError for settings that need the whole scan in one place."""
    for field, found, allowed, expected in (
        ("method", config.method, IN_TILES, f"one of {', '.join(IN_TILES)}"),
        ("position_model", config.position_model, ("free",), "free"),
        ("tilt_start", config.tilt_start, (None,), "a tilt that is known (--tilt-row-mrad, --tilt-column-mrad)"),
        ("prior", config.prior, ("none",), "none"),
    ):
        if found not in allowed:
            raise ConfigurationError(
                "it needs the whole scan on every worker",
                field=field,
                found=found,
                expected=f"{expected} for a scan in tiles",
                hint="--split data shares every batch of the whole scan instead",
            )


class TiledRefinement(Refinement):
    """The refinement of one tile, in step with those of the other workers.

    Args:
        scan: the patterns of this tile alone.
        config: settings.
        place: the place of this worker.
        numbers: the numbers of the patterns of ``scan`` in the whole scan, int64 [k].
        start: object to begin with, of the whole scan or of this part.
        probe, held_out: as for :class:`Refinement`, of this tile.
        probe_every: updates between two averages of the probe.
        device: where tensors live.

    Raises:
        ConfigurationError: settings that need the whole scan in one place.
        InputError: as for :class:`Refinement`.
    """

    def __init__(
        self,
        scan: RawData,
        config: RefinementConfig | None = None,
        *,
        place: DataParallel,
        numbers: NDArray[np.int64],
        start: StitchedObject | None = None,
        probe: NDArray[np.complex64] | None = None,
        held_out: NDArray[np.int64] | None = None,
        probe_every: int = PROBE_EVERY,
        device: torch.device | None = None,
    ) -> None:
        check_tiles(config or RefinementConfig())
        self.place, self.numbers = place, numbers
        self.tiles = Neighbours(place, device or torch.device("cpu"))
        super().__init__(scan, config, start=start, probe=probe, held_out=held_out, device=device, tiles=self.tiles)
        if self.config.batch_size is None:
            self.run.batch_size = max(4, min(self.run.batch_size, len(self.run.rows) // LEAST_UPDATES))
        updates = -(-len(self.run.rows) // self.run.batch_size)
        table = np.zeros(place.size)
        table[place.rank] = -(-updates // probe_every)
        self._parts_of_iteration = int(max(self.tiles.sum(sent(torch.from_numpy(table), self.tiles.device))))

    @torch.no_grad()
    def stitched(self) -> StitchedObject:
        """The image of this tile, with the phase that it has in common with the others."""
        return self._with_light()

    def judge(self, rows: NDArray[np.int64]) -> Figures:
        """The same over the patterns ``rows`` of all tiles."""
        own = super().judge(rows) if len(rows) else Figures(0.0, 0.0, 0.0)
        return Figures(*self.tiles.mean([own.likelihood, own.deviance, own.r_factor], len(rows)))

    def save_tile(self, checkpoint: Path) -> None:
        """Write the state of this tile, and when all have done so remove older ones."""
        file = tile_file(checkpoint, self.run.iteration, self.place)
        file.parent.mkdir(parents=True, exist_ok=True)
        self.save(file)
        self.tiles.sum(torch.zeros(1, device=self.tiles.device))  # all have written
        if self.place.rank == 0:
            for older in complete_sets(checkpoint)[1:]:
                shutil.rmtree(older[0].parent, ignore_errors=True)

    def resume_tiles(self, checkpoint: Path) -> bool:
        """Go on from the last complete set of files, of any number of tiles; False if there is none."""
        sets = complete_sets(checkpoint)
        if not sets:
            return False
        if len(sets[0]) == self.place.size:
            self.resume(tile_file(checkpoint, int(sets[0][0].parent.name), self.place))
        else:
            self._take_up(read_tiles(sets[0]))
        return True

    # -- an iteration ------------------------------------------------------------------------------------------------

    def _iterate(self) -> float:
        run, tiles = self.run, self.tiles
        total = torch.zeros((), dtype=torch.float64, device=tiles.device)
        tiles.weigh(run.illumination())
        self.method.auxiliary.begin(run)
        drawn = run.draw()
        for part in np.array_split(np.arange(len(drawn)), self._parts_of_iteration):
            run.only = [drawn[number] for number in part]
            total += self.method.iterate(run)
            tiles.share_probe(run.state, len(run.rows))
        run.only = None
        self.method.auxiliary.settle(run)
        tiles.combine(run.state.object)
        self.after.apply(run)
        tiles.share_probe(run.state, len(run.rows))
        loss = tiles.mean_there(total / len(run.rows), len(run.rows))
        return float(loss) / run.kernel.amplitude.shape[1:].numel()

    def _any(self, rows: NDArray[np.int64]) -> bool:
        """Whether any tile has any: all judge together."""
        return float(self.tiles.sum(torch.full((), float(len(rows)), device=self.tiles.device))) > 0

    def _parts(self) -> dict[str, object]:
        return super()._parts() | {"tile": self._own_part()}

    @torch.no_grad()
    def _own_part(self) -> dict[str, torch.Tensor]:
        """What the file of a tile has besides the state, to be put together without the scan."""
        state, propagator = self.run.state, self.run.kernel.propagator
        part = {
            "numbers": torch.from_numpy(self.numbers.copy()),
            "origin_px": torch.tensor(self.run.geometry.origin_px, dtype=torch.float64),
            "light": self.run.illumination(),
            "probe": orthogonal_modes(state.probe) / self._photons**0.5,
        }
        if state.background is not None:
            part["background"] = propagator.restore(state.background) / self._photons
        return part

    def _take_up(self, whole: TiledState) -> None:
        """Begin with the state of a run of other tiles; steps begin without history."""
        run, header = self.run, whole.header
        state, geometry = run.state, run.geometry
        row, column = (round(a - b) for a, b in zip(geometry.origin_px, whole.origin_px, strict=True))
        box = (slice(None), slice(row, row + geometry.height), slice(column, column + geometry.width))
        state.object.copy_(torch.from_numpy(whole.object[box]))
        for name, values in whole.shared.items():
            getattr(state, name).copy_(values)
        for name, values in whole.own.items():
            getattr(state, name).copy_(values[self.numbers])
        geometry.place(whole.positions_px[self.numbers])
        run.iteration, run.backoff = header["iteration"], header["backoff"]
        self._backoffs, self._lowest = header["backoffs"], header["lowest"]
        self.history = [Progress(**item) for item in header["history"]]
        self._begin_method()


def refine_tile(
    scan: RawData,
    config: RefinementConfig | None = None,
    *,
    parallel: DataParallel,
    checkpoint: Path,
    start: StitchedObject | None = None,
    probe: NDArray[np.complex64] | None = None,
    held_out: NDArray[np.int64] | None = None,
    resume: bool = True,
    probe_every: int = PROBE_EVERY,
    device: torch.device | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_image: Callable[[Progress, StitchedObject], None] | None = None,
    image_every: int = 0,
    at_end: Callable[[Refinement], None] | None = None,
) -> None:
    """What each of the workers does that refine a scan in tiles; what they find is in their files (:func:`read_tiles`).

    Args:
        scan: the whole scan; frames on disk stay there but for those of this worker.
        parallel: the place of this worker.
        checkpoint: where one process would keep its state; the files of tiles lie in a folder beside it.
        start, probe, held_out: as for :class:`Refinement`, of the whole scan.
        resume: go on from the files of tiles if there are any; else they are removed.
        on_progress: called after every iteration, on every worker.
        on_image: given the image of this tile alone every ``image_every`` iterations.
        at_end: given the refinement of this tile after the last one.
    """
    numbers = tiles_of(scan.positions_px, parallel.size)[parallel.rank]
    own = scan.select(numbers)
    refinement = TiledRefinement(
        own,
        config,
        place=parallel,
        numbers=numbers,
        start=start,
        probe=probe,
        held_out=None if held_out is None else np.flatnonzero(np.isin(numbers, held_out)),
        probe_every=probe_every,
        device=device,
    )
    if resume:
        refinement.resume_tiles(checkpoint)
    for progress in refinement:
        if progress.iteration % refinement.config.check_every == 0:
            refinement.save_tile(checkpoint)
        if on_progress is not None:
            on_progress(progress)
        if on_image is not None and image_every and progress.iteration % image_every == 0:
            on_image(progress, refinement.stitched())
    refinement.save_tile(checkpoint)
    if at_end is not None:
        at_end(refinement)
