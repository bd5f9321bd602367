"""Storage for the patterns of a stream: appended to plain files, so that acknowledged patterns are never lost."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.hdf5 import check_room, new_hdf5
from ptycho_ray.files import take_lock, write_json
from ptycho_ray.service.problems import Problem

BLOCK = 256
SETTINGS_FILE, PROBE_FILE = "stream.json", "probe.npy"


@dataclass(frozen=True)
class StreamSettings:
    """The content of the first message of a stream, and its owner.

    Attributes:
        model: key of the model that reconstructs the scan at the end, or AUTOMATIC.
        preview_model: key of the model that draws the live image; empty if none can.
        options: of the job at the end (``engine.Options``).
    """

    owner: str
    model: str
    N: int
    dtype: str
    domain: str
    counts_are_photons: bool | None
    pixel_size_m: float | None
    energy_eV: float | None
    detector_distance_m: float | None
    electrons: bool = False
    preview_model: str = ""
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


class Spool:
    """Frames and positions of one stream, in the order of their numbers. One process writes at a time.

    Raises:
        Problem: 404 for a stream that does not exist, 409 for one that another process has open.
    """

    def __init__(self, folder: Path, settings: StreamSettings) -> None:
        self.folder, self.settings = folder, settings
        self.frame_bytes = settings.N**2 * np.dtype(settings.dtype).itemsize
        lock = take_lock(folder / "lock")
        if lock is None:
            raise Problem(409, "conflict", "The stream is open elsewhere.", {"field": "stream_id"}, 1)
        self._lock = lock
        self._frames = (folder / "frames").open("ab")
        self._positions = (folder / "positions").open("ab")
        self.count = min(self._frames.tell() // self.frame_bytes, self._positions.tell() // 16)
        self._frames.truncate(self.count * self.frame_bytes)
        self._positions.truncate(self.count * 16)

    @classmethod
    def create(cls, folder: Path, settings: StreamSettings, probe: NDArray[np.complex64] | None = None) -> Spool:
        """Start a stream; ``probe`` are the modes [P, N, N] of the scan, if the sender knows them."""
        folder.mkdir(parents=True, mode=0o700)
        if probe is not None:
            np.save(folder / PROBE_FILE, probe, allow_pickle=False)
        write_json(folder / SETTINGS_FILE, asdict(settings))
        return cls(folder, settings)

    @classmethod
    def open(cls, folder: Path, owner: str) -> Spool:
        """Resume a stream of this owner."""
        path = folder / SETTINGS_FILE
        settings = StreamSettings(**json.loads(path.read_text())) if path.is_file() else None
        if settings is None or settings.owner != owner:
            raise Problem(404, "not-found", "There is no such stream.", {"field": "stream_id"})
        return cls(folder, settings)

    def append(self, positions: NDArray[np.float64], frames: NDArray) -> None:
        """Add patterns; they are safe from a loss of this process when this returns."""
        self._frames.write(np.ascontiguousarray(frames).data)
        self._positions.write(np.ascontiguousarray(positions, dtype="<f8").data)
        self._frames.flush()
        self._positions.flush()
        self.count += len(frames)

    def read(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray]:
        """Positions [k, 2] and frames [k, N, N] of increasing numbers."""
        return read_spooled(self.folder, self.settings, numbers)

    def as_scan(self) -> Path:
        """All patterns as an HDF5 scan, as if it had been uploaded."""
        return write_spooled(self.folder, self.settings, self.count, self.folder / "scan.h5")

    def drop_frames(self) -> None:
        """Delete the patterns, once they are in the scan file."""
        os.truncate(self.folder / "frames", 0)

    def close(self) -> None:
        """Release the stream for another process."""
        self._frames.close()
        self._positions.close()
        self._lock.release()


def read_spooled(
    folder: Path, settings: StreamSettings, numbers: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray]:
    """Positions [k, 2] and frames [k, N, N] of increasing numbers, while the stream is written or afterwards."""
    n, first, last = settings.N, int(numbers[0]), int(numbers[-1])
    dtype = np.dtype(settings.dtype).newbyteorder("<")
    positions = np.fromfile(folder / "positions", "<f8", 2 * (last + 1 - first), offset=16 * first).reshape(-1, 2)
    frame_bytes = n * n * dtype.itemsize
    if last - first + 1 == len(numbers):
        frames = np.fromfile(folder / "frames", dtype, len(numbers) * n * n, offset=first * frame_bytes)
        return positions, frames.reshape(-1, n, n)
    frames = np.empty((len(numbers), n, n), dtype)
    with (folder / "frames").open("rb") as stream:
        for frame, number in zip(frames, numbers, strict=True):
            stream.seek(int(number) * frame_bytes)
            stream.readinto(frame.data.cast("B"))
    return positions[numbers - first], frames


def write_spooled(folder: Path, settings: StreamSettings, count: int, path: Path) -> Path:
    """The first ``count`` patterns of a stream as an HDF5 scan with the probe that its sender gave; written in pieces."""
    named = "diff3d" if settings.domain == "amplitude" else "patterns"
    frame_bytes = settings.N**2 * np.dtype(settings.dtype).itemsize
    with new_hdf5(path) as file:
        positions = np.fromfile(folder / "positions", "<f8", 2 * count).reshape(-1, 2)
        file["ycoords"], file["xcoords"] = positions[:, 0], positions[:, 1]
        if (folder / PROBE_FILE).is_file():
            file["probeGuess"] = np.load(folder / PROBE_FILE, allow_pickle=False)
        for name in ("counts_are_photons", "pixel_size_m", "energy_eV", "detector_distance_m"):
            if (value := getattr(settings, name)) is not None:
                file.attrs[name] = value
        if settings.electrons:
            file.attrs["electrons"] = True
        shape = (count, settings.N, settings.N)
        dataset = file.create_dataset(named, shape, settings.dtype, chunks=(1, settings.N, settings.N))
        for start in range(0, count, BLOCK):
            numbers = np.arange(start, min(start + BLOCK, count))
            check_room(file, len(numbers) * frame_bytes)
            dataset[start : start + len(numbers)] = read_spooled(folder, settings, numbers)[1]
    return path
