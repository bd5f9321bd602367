"""Sources of patterns during a measurement: a folder to which files are added, a growing HDF5 file, messages over ZeroMQ.

Each source yields :class:`Frames` and returns when the scan is complete: after the announced number of patterns, when
the source says so, or after a time without new patterns.
"""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError, MissingFileError

POLL_S = 0.2
#: Patterns that are taken from a growing file at a time.
AT_ONCE = 64
SUFFIXES = (".npz", ".h5", ".hdf5", ".nxs", ".cxi")
#: Types that the service takes; others become the smallest of these that holds them.
WIRE_TYPES = ("uint8", "uint16", "uint32", "int32", "float32")


@dataclass(frozen=True)
class Frames:
    """Patterns [k, N, N] and their positions [k, 2] (row, column), in the unit of the source."""

    positions: NDArray[np.float64]
    patterns: NDArray


@dataclass(frozen=True)
class Names:
    """The names of patterns and positions in a file.

    ``positions`` is one array [k, 2] (row, column) or two of [k] with a comma between, row first.
    """

    patterns: str = "patterns"
    positions: str = "positions"


@dataclass(frozen=True)
class Ending:
    """When a scan is complete: after ``patterns`` of them, or ``idle_s`` seconds after the last one (None: never)."""

    patterns: int | None = None
    idle_s: float | None = 30.0


class Clock:
    """Counts the patterns received and decides when a scan is complete."""

    def __init__(self, ending: Ending) -> None:
        self.ending, self.count, self.last = ending, 0, time.monotonic()

    def took(self, number: int) -> None:
        self.count, self.last = self.count + number, time.monotonic()

    @property
    def left(self) -> int | None:
        return None if self.ending.patterns is None else self.ending.patterns - self.count

    @property
    def over(self) -> bool:
        """Whether the scan is complete."""
        if self.left is not None and self.left <= 0:
            return True
        idle = self.ending.idle_s
        return idle is not None and time.monotonic() - self.last > idle


def folder_frames(folder: Path, names: Names, ending: Ending) -> Iterator[Frames]:
    """Files (NPZ or HDF5) that appear in a folder, in the order of their names; existing ones come first. A file is
    read once its size has stopped changing. One that cannot be read then is retried until the scan is over, since it
    may still be being written, and raises an error in the end.
    """
    if not folder.is_dir():
        raise MissingFileError(file=folder, field="source", found="no folder", expected="a folder that fills")
    clock, done, sizes = Clock(ending), set[str](), dict[str, int]()
    broken: InputError | None = None
    while not clock.over:
        time.sleep(POLL_S)
        broken = None
        for path in sorted(folder.iterdir()):
            if path.name in done or path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
                continue
            size = path.stat().st_size
            settled = sizes.get(path.name) == size
            sizes[path.name] = size
            if not settled:
                break  # those behind it wait for their turn
            try:
                frames = _read_file(path, names)
            except InputError as error:
                broken = error
                break
            done.add(path.name)
            frames = _first(frames, clock.left)
            clock.took(len(frames.patterns))
            yield frames
            if clock.over:
                return
    if broken is not None:
        raise broken


def growing_frames(path: Path, names: Names, ending: Ending) -> Iterator[Frames]:
    """An HDF5 file that another program writes in SWMR mode: patterns are read as they appear in both datasets.

    A dataset ``complete`` that becomes 1 ends the scan. The file may appear after the call.
    """
    import hdf5plugin  # noqa: F401  (importing it registers the filters)

    clock = Clock(ending)
    while not path.is_file():
        if clock.over:
            raise MissingFileError(file=path, field="source", found="nothing", expected="a file that grows")
        time.sleep(POLL_S)
    file, stacks = _open_growing(path, names, clock)
    with file:
        try:
            while not clock.over:
                complete = "complete" in file and _refreshed(file["complete"])[()]
                lengths = [len(_refreshed(stack)) for stack in stacks]
                end = min(
                    [*lengths, clock.count + AT_ONCE, *([] if clock.left is None else [clock.count + clock.left])]
                )
                if end > clock.count:
                    piece = slice(clock.count, end)
                    frames = _frames(path, stacks[0][piece], *(stack[piece] for stack in stacks[1:]))
                    clock.took(end - piece.start)
                    yield frames
                elif complete:
                    return
                else:
                    time.sleep(POLL_S)
        except (OSError, KeyError, RuntimeError) as error:
            raise InputError(file=path, found=f"unreadable data ({error})", expected="a file in SWMR mode") from error


def zmq_frames(address: str, ending: Ending, *, kind: Literal["pull", "subscribe"] = "pull") -> Iterator[Frames]:
    """Messages of two parts, a JSON header and the bytes of the patterns, little-endian, [k, N, N].

    Header: ``{"type": "frames", "shape": [k, N, N], "dtype": "uint16", "positions": [[row, column], ...]}``, and at the end a
    message of one part, ``{"type": "end"}``. With ``pull`` no message is lost, and several receivers share them;
    ``subscribe`` receives a copy of all messages sent after it has connected.

    Raises:
        InputError: pyzmq is not installed, the address is invalid, or a message is not as above.
    """
    try:
        import zmq
    except ImportError:
        raise InputError(
            field="source", found=f"{address}, but pyzmq is not installed", expected="pip install 'ptycho-ray[live]'"
        ) from None
    clock = Clock(ending)
    with zmq.Context() as context, context.socket(zmq.PULL if kind == "pull" else zmq.SUB) as socket:
        socket.linger = 0
        if kind == "subscribe":
            socket.subscribe(b"")
        try:
            socket.connect(address)
        except zmq.ZMQError as error:
            raise InputError(field="source", found=f"{address} ({error})", expected="tcp://HOST:PORT") from None
        while not clock.over:
            if not socket.poll(int(1000 * POLL_S)):
                continue
            parts = socket.recv_multipart()
            header = _header(parts[0], address)
            if header["type"] == "end":
                return
            frames = _first(_message(header, parts, address), clock.left)
            clock.took(len(frames.patterns))
            yield frames


def wire_type(patterns: NDArray, source: str) -> str:
    """The type in which patterns of this type are sent to the service."""
    name = patterns.dtype.name
    if name in WIRE_TYPES:
        return name
    replaced = {"int8": "int32", "int16": "int32", "float16": "float32", "float64": "float32", "bool": "uint8"}
    replaced |= {"int64": "int32", "uint64": "uint32"}
    if name not in replaced:
        raise InputError(
            file=source, field="patterns", found=f"type {name}", expected=f"one of {', '.join(WIRE_TYPES)}"
        )
    return replaced[name]


def _read_file(path: Path, names: Names) -> Frames:
    wanted = (names.patterns, *names.positions.split(","))
    if zipfile.is_zipfile(path):
        try:
            with np.load(path, allow_pickle=False) as npz:
                arrays = [npz[name] for name in wanted]
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(file=path, found=str(error), expected=f"arrays {', '.join(wanted)}") from None
        return _frames(path, *arrays)
    from ptycho_ray.data.hdf5 import open_hdf5

    with open_hdf5(path) as file:
        return _frames(path, *(_dataset(path, file, name)[()] for name in wanted))


def _frames(place: Any, patterns: NDArray, *coordinates: NDArray) -> Frames:
    """Checked patterns and positions; a single pattern [N, N] becomes a stack of one."""
    patterns = patterns[None] if patterns.ndim == 2 else patterns
    positions = np.stack([np.atleast_1d(column) for column in coordinates], axis=-1) if len(coordinates) > 1 else None
    positions = np.atleast_2d(coordinates[0]) if positions is None else positions
    expected = (len(patterns), 2)
    if patterns.ndim != 3 or patterns.shape[1] != patterns.shape[2] or positions.shape != expected:
        raise InputError(
            file=place,
            field="patterns, positions",
            found=f"shapes {patterns.shape} and {positions.shape}",
            expected="(k, N, N) and (k, 2)",
        )
    return Frames(positions.astype(np.float64), patterns)


def _first(frames: Frames, most: int | None) -> Frames:
    return frames if most is None else Frames(frames.positions[:most], frames.patterns[:most])


def _open_growing(path: Path, names: Names, clock: Clock) -> tuple[Any, list[Any]]:
    """The file in SWMR mode and its datasets, as soon as its writer has created them."""
    import h5py

    while True:
        problem: InputError
        try:
            file = h5py.File(path, "r", libver="latest", swmr=True)
        except OSError as error:
            problem = InputError(file=path, found=str(error), expected="an HDF5 file in SWMR mode")
        else:
            try:
                return file, [_dataset(path, file, name) for name in (names.patterns, *names.positions.split(","))]
            except InputError as error:
                file.close()
                problem = error
        if clock.over:
            raise problem
        time.sleep(POLL_S)


def _dataset(path: Path, file: Any, name: str) -> Any:
    import h5py

    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise InputError(
            file=path, field=name, found=f"only {', '.join(sorted(file)) or 'nothing'}", expected="a dataset"
        )
    return found


def _refreshed(dataset: Any) -> Any:
    dataset.refresh()
    return dataset


def _header(part: bytes, address: str) -> dict[str, Any]:
    try:
        header = json.loads(part)
    except (json.JSONDecodeError, UnicodeDecodeError):
        header = None
    if not isinstance(header, dict) or header.get("type") not in ("frames", "end"):
        raise InputError(
            file=address, field="header", found=repr(part[:80]), expected='JSON with "type": "frames" or "end"'
        )
    return header


def _message(header: dict[str, Any], parts: list[bytes], address: str) -> Frames:
    try:
        dtype = np.dtype(str(header["dtype"])).newbyteorder("<")
        patterns = np.frombuffer(parts[1], dtype).reshape([int(side) for side in header["shape"]])
        positions = np.asarray(header["positions"], dtype=np.float64)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            file=address,
            field="message",
            found=f"{error!r}",
            expected="dtype, shape and positions that fit the bytes of the second part",
        ) from None
    return _frames(address, patterns, positions)
