"""What a source tells during a measurement, and how it passes from one process to the next.

A frame keeps the encoding in which it came; ``ptycho_ray.live.frame_encodings`` reads it.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Listening:
    """A wire is listened to from now on."""


@dataclass(frozen=True)
class Begin:
    """What a source announces before its first frame; None is what it does not say.

    Attributes:
        series: its name for the series.
        frames: how many will come.
        shape: rows and columns of a frame.
        energy_eV, detector_distance_m, detector_pixel_m: of the experiment.
        centre_px: row and column of the direct beam on the detector.
        dtype: type that holds every pixel: ``uint16``.
    """

    series: str = ""
    frames: int | None = None
    shape: tuple[int, int] | None = None
    energy_eV: float | None = None
    detector_distance_m: float | None = None
    detector_pixel_m: float | None = None
    centre_px: tuple[float, float] | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Frame:
    """One frame as it came.

    Attributes:
        number: its place in the series, from 0.
        shape: rows and columns.
        dtype: type of its pixels, with byte order: ``<u2``.
        encoding: none, bslz4 or lz4, the last two as HDF5's filters frame them.
        series: the series that it belongs to, if the source says.
    """

    number: int
    shape: tuple[int, int]
    dtype: str
    encoding: str
    content: bytes
    series: str = ""


@dataclass(frozen=True)
class Positions:
    """Positions [k, 2] (row, column) of the frames with these numbers [k], in the unit of the source."""

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]


@dataclass(frozen=True)
class Unreadable:
    """A message that is no frame, and why; ``number`` is the frame's, if it could be read."""

    number: int | None
    reason: str


@dataclass(frozen=True)
class Dropped:
    """Frames that found the buffer full."""

    numbers: tuple[int, ...]


@dataclass(frozen=True)
class End:
    """The series is over; ``reason`` is empty where the source said so itself."""

    reason: str = ""


Event: TypeAlias = Listening | Begin | Frame | Positions | Unreadable | Dropped | End
_KINDS: dict[str, Callable[..., Event]] = {
    kind.__name__: kind for kind in (Listening, Begin, Frame, Unreadable, Dropped, End)
}
_LENGTH = struct.Struct("<I")


def pack(events: Iterable[Event]) -> bytes:
    """Events in one message: the length of a JSON list, the list, and the contents one after the other."""
    facts: list[dict[str, Any]] = []
    contents: list[bytes] = []
    for event in events:
        if isinstance(event, Positions):
            raw = event.numbers.astype("<i8").tobytes() + event.positions.astype("<f8").tobytes()
            facts.append({"kind": "Positions", "bytes": len(raw)})
            contents.append(raw)
            continue
        told = {
            field.name: getattr(event, field.name) for field in dataclasses.fields(event) if field.name != "content"
        }
        facts.append({"kind": type(event).__name__, **told})
        if isinstance(event, Frame):
            facts[-1]["bytes"] = len(event.content)
            contents.append(event.content)
    header = json.dumps(facts).encode()
    return b"".join([_LENGTH.pack(len(header)), header, *contents])


def unpack(message: bytes) -> Iterator[Event]:
    """The inverse of ``pack``."""
    (length,) = _LENGTH.unpack_from(message)
    at = _LENGTH.size + length
    for fact in json.loads(message[_LENGTH.size : at]):
        kind, size = fact.pop("kind"), fact.pop("bytes", 0)
        content, at = message[at : at + size], at + size
        if kind == "Positions":
            count = size // 24
            positions = np.frombuffer(content, "<f8", offset=8 * count).reshape(count, 2)
            yield Positions(np.frombuffer(content, "<i8", count), positions)
            continue
        if kind == "Frame":
            fact["content"] = content
        yield _KINDS[kind](**{name: tuple(value) if isinstance(value, list) else value for name, value in fact.items()})


def ranges(numbers: Sequence[int] | NDArray[np.int64]) -> str:
    """Numbers for people: 3-7, 12."""
    ordered = np.unique(np.asarray(numbers, dtype=np.int64))
    if not len(ordered):
        return ""
    runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
