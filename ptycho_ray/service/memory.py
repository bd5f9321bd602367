"""Memory of the jobs of one replica: each reserves what its scan declares before it is read, and waits while others have it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Condition
from typing import Any

import h5py

from ptycho_ray.data.contents import free_memory_bytes
from ptycho_ray.data.hdf5 import open_hdf5
from ptycho_ray.data.opening import inflated
from ptycho_ray.service.settings import ServiceSettings

#: A job holds its patterns as read, as amplitudes, and in batches.
TIMES = 3
ASK_S = 0.5
SHARE = 0.5


class MemoryBudget:
    """A number of bytes that jobs share. One that declares more than all of it runs alone."""

    def __init__(self, total: int) -> None:
        self.total = self.free = total
        self._change = Condition()

    @classmethod
    def of(cls, settings: ServiceSettings) -> MemoryBudget:
        """``max_memory_bytes``, or half of what is free now."""
        return cls(settings.max_memory_bytes or int(SHARE * free_memory_bytes()))

    @contextmanager
    def reserved(self, wanted: int, go_on: Callable[[], None]) -> Iterator[None]:
        """Hold ``wanted`` bytes, once there are so many. ``go_on`` is called every half second; it raises to give up."""
        share = min(wanted, self.total)
        with self._change:
            while self.free < share:
                go_on()
                self._change.wait(ASK_S)
            self.free -= share
        try:
            yield
        finally:
            with self._change:
                self.free += share
                self._change.notify_all()


def unpacked(source: Path, folder: Path, settings: ServiceSettings, go_on: Callable[[], None]) -> Path:
    """``source``, or its content in ``folder`` if it is compressed as a whole: on disk, and not in memory. ``go_on`` is called
    for each MiB; it raises to give up.

    Raises:
        InputError: it is damaged, no scan, or inflates to more than ``max_inflated_bytes``.
    """
    if (pieces := inflated(source, settings.max_inflated_bytes)) is None:
        return source
    path = folder / "unpacked"
    try:
        with path.open("wb") as stream:
            for piece in pieces:
                go_on()
                stream.write(piece)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def needed_bytes(path: Path, settings: ServiceSettings) -> int:
    """The memory that a job with this scan may take, from the sizes that the file declares. Of a damaged file its size: the
    reader will say what is wrong with it."""
    declared = path.stat().st_size
    with suppress(zipfile.BadZipFile, OSError, RuntimeError, ValueError, KeyError):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                declared = sum(member.file_size for member in archive.infolist())
        elif h5py.is_hdf5(path):
            sizes: list[int] = [0]
            with open_hdf5(path) as file:
                file.visititems(lambda _, item: sizes.append(_size(item)))
            declared = max(sizes)  # the patterns; of several stacks one is read
    return TIMES * min(declared, settings.max_inflated_bytes)


def _size(item: Any) -> int:
    return int(item.size) * max(4, item.dtype.itemsize) if isinstance(item, h5py.Dataset) and item.ndim > 2 else 0
