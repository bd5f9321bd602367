"""Corrections of the scan positions of one scan, learnt together with the network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.files import atomic_path

#: So many patterns mark a scan by their energies, beside its positions.
MARKS = 8
#: Positions of the same scan agree that well, in pixels, and energies to that part.
SAME_PX, SAME_PART = 1e-2, 1e-3


class ScanPositions(nn.Module):
    """Shifts of the positions of one scan, and what identifies this scan.

    Attributes:
        shifts_px: what is added to each measured position, float32 [n, 2] (row, column); a parameter.
        measured_px: the measured positions, float32 [n, 2].
        marks: energies of a few patterns in the units of the file, float32.
    """

    def __init__(self, n_patterns: int, n_marks: int) -> None:
        super().__init__()
        self.shifts_px = nn.Parameter(torch.zeros(n_patterns, 2), requires_grad=False)
        self.measured_px: Tensor
        self.marks: Tensor
        self.register_buffer("measured_px", torch.zeros(n_patterns, 2))
        self.register_buffer("marks", torch.zeros(n_marks))

    @classmethod
    def of(cls, raw: RawData) -> ScanPositions:
        """Positions of ``raw`` with zero shifts."""
        marks = _marks(raw)
        made = cls(len(raw), len(marks))
        made.measured_px.copy_(torch.from_numpy(raw.positions_px))
        made.marks.copy_(torch.from_numpy(marks))
        return made

    @classmethod
    def shaped_like(cls, weights: Mapping[str, Tensor]) -> ScanPositions | None:
        """An object that can take the entries ``positions.*`` of saved weights; None if there are none."""
        if "positions.shifts_px" not in weights:
            return None
        return cls(len(weights["positions.shifts_px"]), len(weights["positions.marks"]))

    def of_groups(self, members: Tensor) -> tuple[Tensor, Tensor]:
        """The effect of the shifts on groups of patterns ``members`` [b, C]: on the positions relative to the
        group's centre [b, C, 2], and on the centre [b, 2]."""
        shifts = self.shifts_px[members]
        centres = shifts.mean(dim=1)
        return shifts - centres[:, None], centres

    @torch.no_grad()
    def limit(self, largest_px: float) -> None:
        """Keep every shift within ``largest_px`` along each axis."""
        self.shifts_px.clamp_(-largest_px, largest_px)

    @torch.no_grad()
    def centred_px(self) -> NDArray[np.float64]:
        """The shifts [n, 2] minus the mean of those that moved, which is undetermined."""
        shifts = self.shifts_px.detach().cpu().numpy().astype(np.float64)
        moved = shifts.any(axis=1)
        if moved.any():
            shifts[moved] -= shifts[moved].mean(axis=0)
        return shifts

    def rms_px(self) -> float:
        """Root mean square length of the shifts of the positions that moved; 0 if none did."""
        shifts = self.centred_px()
        squares = np.sum(shifts[shifts.any(axis=1)] ** 2, axis=1)
        return float(np.sqrt(squares.mean())) if squares.size else 0.0

    def knows(self, raw: RawData) -> bool:
        """Whether ``raw`` is the scan whose positions these are: the same number of patterns, positions and energies."""
        if raw.positions_px.shape != tuple(self.measured_px.shape):
            return False
        near = np.abs(raw.positions_px - self.measured_px.cpu().numpy()) < SAME_PX
        return bool(near.all() and np.allclose(_marks(raw), self.marks.cpu().numpy(), rtol=SAME_PART))

    def save(self, path: Path) -> None:
        """Write ``positions_px`` (learnt), ``measured_px`` and ``shifts_px``, float64 [n, 2] (row, column), as NPZ."""
        measured, shifts = self.measured_px.cpu().numpy().astype(np.float64), self.centred_px()
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, positions_px=measured + shifts, measured_px=measured, shifts_px=shifts)

    def correct(self, container: PtychoDataContainer) -> PtychoDataContainer:
        """``container`` at the learnt positions if its scan is this one, else as it is. Groups stay the same."""
        if not self.knows(container.raw):
            return container
        raw = copy.copy(container.raw)
        raw.positions_px = raw.positions_px + self.centred_px()
        return PtychoDataContainer.from_groups(raw, container.nn_indices, container.normalisation)


def _marks(raw: RawData) -> NDArray[np.float32]:
    rows = np.unique(np.linspace(0, len(raw) - 1, min(MARKS, len(raw))).round().astype(np.int64))
    return raw.patterns.intensity(rows).sum(axis=(1, 2), dtype=np.float64).astype(np.float32)
