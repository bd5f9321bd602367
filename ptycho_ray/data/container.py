"""Grouped data as training and reconstruction read it.

Legend: B groups, b groups of one batch, C = gridsize**2 patterns a group, N pattern side.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_ray.data.grouping import group_geometry
from ptycho_ray.data.normalisation import Normalisation
from ptycho_ray.data.raw_data import RawData, channels_xy
from ptycho_ray.files import atomic_path


@dataclass(frozen=True)
class PtychoDataContainer:
    """Groups of patterns of one scan, with geometry and normalisation; patterns are read when a batch is asked for.

    raw                  the scan
    nn_indices           int64 [B, C], the members of each group
    centres_px           float64 [B, 2], group centres (row, column) from the measured positions
    relative_px          float64 [B, C, 2], measured position - centre
    nominal_relative_px  float64 [B, C, 2], the same from the nominal (start) positions
    normalisation        the scales of the training set

    The channels-last arrays of PtychoPINN's container (X, Y, coords_nominal, ...) are properties, computed on access
    for all groups at once: meant for small data and for interchange.
    """

    raw: RawData
    nn_indices: NDArray[np.int64]
    centres_px: NDArray[np.float64]
    relative_px: NDArray[np.float64]
    nominal_relative_px: NDArray[np.float64]
    normalisation: Normalisation

    @classmethod
    def from_groups(
        cls, raw: RawData, nn_indices: NDArray[np.int64], normalisation: Normalisation
    ) -> PtychoDataContainer:
        """The container of the groups ``nn_indices`` [B, C] of ``raw``."""
        centres, relative = group_geometry(raw.positions_px[nn_indices])
        _, nominal = group_geometry(raw.nominal_positions_px[nn_indices])
        return cls(raw, nn_indices, centres, relative, nominal, normalisation)

    def __len__(self) -> int:
        return len(self.nn_indices)

    @property
    def N(self) -> int:
        """Side of a pattern in pixels."""
        return self.raw.N

    @property
    def largest_shift_px(self) -> float:
        """Largest distance along an axis of a pattern from the centre of its group."""
        return float(np.abs(self.relative_px).max(initial=0.0))

    def batch(self, group_indices: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Photons [b, C, N, N] and measured positions relative to the group centres [b, C, 2] of some groups."""
        rows = np.asarray(group_indices)
        photons = self.raw.patterns.intensity(self.nn_indices[rows])
        photons *= np.float32(self.normalisation.photon_scale)
        return photons, self.relative_px[rows].astype(np.float32)

    def subset(self, group_rows: ArrayLike) -> PtychoDataContainer:
        """The container of some groups, with the same normalisation."""
        rows = np.asarray(group_rows)
        return replace(
            self,
            nn_indices=self.nn_indices[rows],
            centres_px=self.centres_px[rows],
            relative_px=self.relative_px[rows],
            nominal_relative_px=self.nominal_relative_px[rows],
        )

    def in_memory(self) -> PtychoDataContainer:
        """The same container with all patterns of its scan in memory."""
        raw = copy.copy(self.raw)
        raw.patterns = raw.patterns.loaded()
        return replace(self, raw=raw)

    @property
    def X(self) -> NDArray[np.float32]:
        """Normalised amplitude (B, N, N, C), the network's input."""
        scale = self.normalisation.input_scale * np.sqrt(self.normalisation.photon_scale)
        return np.moveaxis(np.float32(scale) * self.raw.patterns.amplitude(self.nn_indices), 1, -1)

    @property
    def Y(self) -> NDArray[np.complex64]:
        """Truth patches (B, N, N, C); ones where no truth is known."""
        truth = self.raw.truth_patches(self.nn_indices)
        if truth is None:
            truth = np.ones((*self.nn_indices.shape, self.N, self.N), dtype=np.complex64)
        return np.moveaxis(truth, 1, -1)

    @property
    def Y_I(self) -> NDArray[np.float32]:
        """Amplitude of ``Y``."""
        return np.abs(self.Y)

    @property
    def Y_phi(self) -> NDArray[np.float32]:
        """Phase of ``Y``."""
        return np.angle(self.Y)

    @property
    def YY_full(self) -> NDArray[np.complex64] | None:
        """The whole truth object [H, W], or None."""
        return self.raw.object_truth

    @property
    def norm_Y_I(self) -> float:
        """sqrt(mean photons) / (N/2)."""
        return float(np.sqrt(self.normalisation.mean_photons) / (self.N / 2))

    @property
    def coords_nominal(self) -> NDArray[np.float32]:
        """-(nominal position - centre), (B, 1, 2, C), [x, y]."""
        return channels_xy(-self.nominal_relative_px).astype(np.float32)

    @property
    def coords(self) -> NDArray[np.float32]:
        """The same as ``coords_nominal``."""
        return self.coords_nominal

    @property
    def coords_true(self) -> NDArray[np.float32]:
        """-(measured position - centre), (B, 1, 2, C), [x, y]."""
        return channels_xy(-self.relative_px).astype(np.float32)

    @property
    def global_offsets(self) -> NDArray[np.float64]:
        """Group centres (B, 1, 2, 1), [x, y]."""
        return channels_xy(self.centres_px[:, None])

    @property
    def local_offsets(self) -> NDArray[np.float64]:
        """-(measured position - centre), (B, 1, 2, C), [x, y], float64."""
        return channels_xy(-self.relative_px)

    @property
    def probe(self) -> NDArray[np.complex64]:
        """The first probe mode (N, N), in file units."""
        return self.raw.probe[0]

    @property
    def probeGuess(self) -> NDArray[np.complex64]:
        """The same as ``probe``."""
        return self.probe

    def to_npz(self, path: str | Path) -> None:
        """Write the channels-last arrays as a compressed NPZ."""
        names = ("X", "Y_I", "Y_phi", "norm_Y_I", "coords_nominal", "coords_true", "nn_indices", "global_offsets")
        arrays = {name: getattr(self, name) for name in (*names, "local_offsets", "probeGuess")}
        if self.YY_full is not None:
            arrays["YY_full"] = self.YY_full
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
