"""What a method is given, and what its image is judged against.

A case is a scan: patterns, positions and the probe that a method may believe. Single patterns are a scan whose positions lie
so far apart that nothing overlaps, so that every method runs on every case.

Legend: n patterns, N pattern side, [H, W] the truth, in whose pixels all positions are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data import RawData
from ptycho_ray.data.patches import cut_patches
from ptycho_ray.simulation.simulate import simulate_scan

#: First row, last row, first column, last column (exclusive) in the truth.
Window = tuple[int, int, int, int]


@dataclass(frozen=True)
class Case:
    """One scan of a contract.

    Attributes:
        name: as in the results, and of the files of another group.
        scan: what a method sees.
        truth: complex [H, W]; for a measured scan the image of another program.
        windows: what is scored, the mean over them.
        group: cases of one group are one line of the page, their mean; the name if empty.
        further: other windows of the same image, by the name of their line.
        register: fit a shift and a ramp before scoring, where the probe may be wrong and object and probe may move together.
        tile_px: side of the piece that the reference keeps of every pattern; None where positions are no raster.
        steps: those of the single-pattern solver.
        training: simulates a part of the training set of the contract, for methods that learn from its patterns.
    """

    name: str
    scan: RawData
    truth: NDArray[np.complexfloating]
    windows: tuple[Window, ...]
    group: str = ""
    further: dict[str, tuple[Window, ...]] = field(default_factory=dict)
    register: bool = False
    tile_px: int | None = None
    steps: int = 30
    training: Callable[[], RawData] | None = None


def raster(side: int, N: int, step: int) -> NDArray[np.float64]:
    """Positions [n, 2] of all windows of N pixels in an image of ``side`` whose corners are multiples of ``step``."""
    corners = np.arange(0, side - N + 1, step) + N // 2
    return np.stack(np.meshgrid(corners, corners, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float64)


def inside(positions: NDArray[np.float64]) -> Window:
    """The rectangle of the scan positions."""
    (top, left), (bottom, right) = np.ceil(positions.min(axis=0)), np.floor(positions.max(axis=0))
    return int(top), int(bottom), int(left), int(right)


def exposed(
    truth: NDArray[np.complexfloating],
    probe: NDArray[np.complexfloating],
    positions: NDArray[np.float64],
    photons: float,
    rng: np.random.Generator,
    *,
    noise: bool = True,
    sub_pixel: str = "integer",
) -> RawData:
    """A scan with ``photons`` in its mean pattern."""
    modes = probe if probe.ndim == 3 else probe[None]
    mean = np.mean(list(_energies(truth, modes, positions)))
    scaled = modes * np.sqrt(photons / mean)
    return simulate_scan(truth, scaled, positions, rng=rng, noise=noise, sub_pixel=sub_pixel)  # type: ignore[arg-type]


def _energies(
    truth: NDArray[np.complexfloating], modes: NDArray[np.complexfloating], positions: NDArray[np.float64]
) -> Iterator[float]:
    light = np.sum(np.abs(modes) ** 2, axis=0)
    for part in np.array_split(positions, max(1, len(positions) // 64)):
        yield from np.sum(light * np.abs(cut_patches(truth, part, light.shape[-1])) ** 2, axis=(1, 2))


def believing(scan: RawData, probe: NDArray[np.complexfloating]) -> RawData:
    """The scan with another probe in its file, [N, N] or [P, N, N], with the photons of the true one."""
    modes = probe if probe.ndim == 3 else probe[None]
    modes = modes * np.sqrt(np.sum(np.abs(scan.probe) ** 2) / np.sum(np.abs(modes) ** 2))
    return RawData(
        scan.positions_px[:, 1], scan.positions_px[:, 0], None, None, scan.patterns, modes.astype(np.complex64),
        objectGuess=scan.object_truth, counts_are_photons=scan.counts_are_photons, domain="intensity",
    )  # fmt: skip
