"""What is trained on: the groups of one scan, or of several that share one network.

Groups of all scans are numbered through: first those of the first scan, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.models.physics_informed import PhysicsInformedModel


@dataclass(frozen=True)
class ScanTraining:
    """One scan in a training run: the network inside the scan's own physics (probe, scales), all its groups, and those
    that are trained on and held out."""

    name: str
    model: PhysicsInformedModel
    container: PtychoDataContainer
    training: PtychoDataContainer
    validation: PtychoDataContainer | None


class Piece(NamedTuple):
    """Groups of one scan: its number, photons [b, C, N, N], positions relative to the group centres [b, C, 2]."""

    scan: int
    photons: Tensor
    relative: Tensor


def whole_model(models: Sequence[PhysicsInformedModel]) -> nn.Module:
    """All that is trained: the one model, or the list of those that share a network."""
    return models[0] if len(models) == 1 else nn.ModuleList(models)


class GroupList:
    """The groups of several containers, numbered through."""

    def __init__(self, containers: Sequence[PtychoDataContainer | None]) -> None:
        self.containers = containers
        self.sizes = [0 if container is None else len(container) for container in containers]
        self.ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, rows: NDArray[np.int64]) -> list[Piece]:
        """The groups ``rows``, one piece a scan that has any."""
        scans = np.searchsorted(self.ends, rows, side="right")
        pieces = []
        for scan in np.unique(scans):
            container = self.containers[scan]
            assert container is not None
            photons, relative = container.batch(rows[scans == scan] - (self.ends[scan] - self.sizes[scan]))
            pieces.append(Piece(int(scan), torch.from_numpy(photons), torch.from_numpy(relative)))
        return pieces

    def order(self, sampling: str, generator: np.random.Generator) -> NDArray[np.int64]:
        """Which groups an epoch visits, in random order; as many as there are.

        'proportional' visits every group once. 'even' visits each scan equally often: of a large scan some of its groups,
        of a small one all of them several times.
        """
        if sampling == "proportional":
            return generator.permutation(len(self))
        wanted = np.diff(np.linspace(0, len(self), len(self.sizes) + 1).round().astype(int))
        rows = []
        for end, size, count in zip(self.ends, self.sizes, wanted, strict=True):
            rounds = [generator.permutation(size) for _ in range(-(-count // size))]
            rows.append(np.concatenate(rounds)[:count] + end - size)
        return generator.permutation(np.concatenate(rows))


def distinct_names(files: Sequence[str]) -> list[str]:
    """Short names of scans for their figures: the file's, with a number where that is not enough."""
    stems = [Path(file).stem for file in files]
    return [
        f"{stem or 'scan'}-{number + 1}" if stems.count(stem) > 1 or not stem else stem
        for number, stem in enumerate(stems)
    ]
