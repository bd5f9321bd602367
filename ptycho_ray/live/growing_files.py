"""Files that fill during a measurement: a folder to which files are added, and a growing HDF5 file.

Each source yields :class:`Frames` and returns when the scan is complete: after the announced number of patterns, when
the source says so, or after a time without new patterns. The files themselves are the buffer: nothing is dropped.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError, MissingFileError, to_type

POLL_S = 0.2
#: Patterns that are taken from a growing file at a time.
AT_ONCE = 64
#: Bytes of a compressed file that are looked through for names.
MOST_INFLATED = 2**28
SUFFIXES = (".npz", ".h5", ".hdf5", ".nxs", ".cxi")
#: Types that the service takes; others become the smallest of these that holds them.
WIRE_TYPES = ("uint8", "uint16", "uint32", "int32", "float32")


@dataclass(frozen=True)
class Frames:
    """Patterns [k, rows, columns] and their positions [k, 2] (row, column; unit of the source), None where another source has
    them."""

    positions: NDArray[np.float64] | None
    patterns: NDArray


@dataclass(frozen=True)
class Names:
    """The names of patterns and positions in a file.

    ``positions`` is one array [k, 2] (row, column) or two of [k] with a comma between, row first; None if the files of the
    patterns have none.
    """

    patterns: str = "patterns"
    positions: str | None = "positions"

    @property
    def all(self) -> list[str]:
        """Each array that is read, the patterns first."""
        return [self.patterns, *(self.positions.split(",") if self.positions else [])]


@dataclass(frozen=True)
class Ending:
    """When a scan is complete: after ``patterns`` of them, or ``idle_s`` seconds after the last one (None: never)."""

    patterns: int | None = None
    idle_s: float | None = 30.0


class _OtherNames(InputError):
    """A file has not the arrays that are read, perhaps not yet."""

    def told(self) -> InputError:
        """The same for people, once nothing more is waited for: with the options that name what is there."""
        assert self.file is not None
        hint = _likely_names(Path(self.file))
        return InputError(file=self.file, field=self.field, found=self.found, expected=self.expected, hint=hint)


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
        raise broken.told() if isinstance(broken, _OtherNames) else broken


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

    def state() -> tuple[list[int], bool]:
        complete = bool("complete" in file and _refreshed(file["complete"])[()])
        return [len(_refreshed(stack)) for stack in stacks], complete

    with file:
        try:
            yield from frames_as_they_come(path, state, lambda piece: [stack[piece] for stack in stacks], clock)
        except (OSError, KeyError, RuntimeError) as error:
            raise InputError(file=path, found=f"unreadable data ({error})", expected="a file in SWMR mode") from error


def frames_as_they_come(
    place: Any,
    state: Callable[[], tuple[list[int], bool]],
    read: Callable[[slice], list[NDArray]],
    clock: Clock,
    at_once: int = AT_ONCE,
) -> Iterator[Frames]:
    """Patterns and positions of arrays that grow, as soon as all of them have them, until the scan is complete.

    Args:
        place: of the arrays, for errors.
        state: the lengths of the arrays now, and whether nothing more will be written.
        read: a piece of each array, the patterns first.
        at_once: patterns that are read at a time.
    """
    while not clock.over:
        lengths, complete = state()
        end = min([*lengths, clock.count + at_once, *([] if clock.left is None else [clock.count + clock.left])])
        if end > clock.count:
            frames = _frames(place, *read(slice(clock.count, end)))
            clock.took(len(frames.patterns))
            yield frames
        elif complete:
            return
        else:
            time.sleep(POLL_S)


def wire_type(dtype: np.dtype, source: str) -> str:
    """The type in which patterns of this type are sent to the service."""
    name = dtype.name
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
    wanted = names.all
    if zipfile.is_zipfile(path):
        try:
            with np.load(path, allow_pickle=False) as npz:
                arrays = [npz[name] for name in wanted]
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise _OtherNames(file=path, found=str(error), expected=f"arrays {', '.join(wanted)}") from None
        return _frames(path, *arrays)
    from ptycho_ray.data.hdf5 import open_hdf5

    with open_hdf5(path) as file:
        return _frames(path, *(_dataset(path, file, name)[()] for name in wanted))


def _frames(place: Any, patterns: NDArray, *coordinates: NDArray) -> Frames:
    """Checked patterns and positions; a single pattern [N, N] becomes a stack of one."""
    patterns = patterns[None] if patterns.ndim == 2 else patterns
    if patterns.ndim != 3:
        raise InputError(file=place, field="patterns", found=f"shape {patterns.shape}", expected="(k, N, N)")
    if not coordinates:
        return Frames(None, patterns)
    positions = np.stack([np.atleast_1d(column) for column in coordinates], axis=-1) if len(coordinates) > 1 else None
    positions = np.atleast_2d(coordinates[0]) if positions is None else positions
    if positions.shape != (len(patterns), 2):
        raise InputError(
            file=place,
            field="patterns, positions",
            found=f"shapes {patterns.shape} and {positions.shape}",
            expected="(k, N, N) and (k, 2)",
        )
    return Frames(positions.astype(np.float64), patterns)


def _first(frames: Frames, most: int | None) -> Frames:
    if most is None:
        return frames
    return Frames(None if frames.positions is None else frames.positions[:most], frames.patterns[:most])


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
                return file, [_dataset(path, file, name) for name in names.all]
            except InputError as error:
                file.close()
                problem = error
        if clock.over:
            raise problem.told() if isinstance(problem, _OtherNames) else problem
        time.sleep(POLL_S)


def _dataset(path: Path, file: Any, name: str) -> Any:
    import h5py

    found = file.get(name)
    if not isinstance(found, h5py.Dataset):
        raise _OtherNames(
            file=path, field=name, found=f"only {', '.join(sorted(file)) or 'nothing'}", expected="a dataset"
        )
    return found


def _likely_names(path: Path) -> str | None:
    """The options that name the arrays of a file that could be its patterns and positions."""
    from ptycho_ray.data.likeness import arrays_of, frames_candidates, positions_candidates
    from ptycho_ray.data.opening import opened

    try:
        with opened(path, MOST_INFLATED) as content:
            arrays = arrays_of(content)
    except (InputError, OSError):
        return None  # it is still being written
    frames = [array for array in frames_candidates(arrays) if len(array.shape) == 3]
    if not frames:
        return None
    places = positions_candidates(arrays, frames[0].shape[0])
    words = ["--patterns", frames[0].name]
    words += ["--positions", ",".join(places[0])] if places else ["--positions-from", "FILE"]
    words += ["--domain", "amplitude"] if frames[0].name == "diff3d" else []  # PtychoPINN's name for them
    return to_type(path, *words, program="watch")


def _refreshed(dataset: Any) -> Any:
    dataset.refresh()
    return dataset
