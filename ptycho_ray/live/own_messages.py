"""ptycho_ray's own ZeroMQ messages: a JSON header, and the bytes of the patterns, little-endian.

| header | second part |
| --- | --- |
| ``{"type": "frames", "shape": [k, N, N], "dtype": "uint16", "first": 0, "positions": [[row, column], ...]}`` | the patterns |
| ``{"type": "positions", "first": 0, "positions": [[row, column], ...]}`` or with ``"numbers": [...]`` | none |
| ``{"type": "end"}`` | none |

``first`` (or ``numbers``) are the frames' places in the series; without them frames are counted as they come. Frames may come
without positions, which another source then has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.live.wire_events import Begin, End, Event, Frame, Positions, Unreadable

TYPES = (
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    "bool",
)


class Decoder:
    """Reads the messages of one source; it counts where they have no numbers."""

    def __init__(self) -> None:
        self.counted = 0

    def decode(self, parts: Sequence[bytes]) -> Iterator[Event]:
        """The events of one message."""
        try:
            header = json.loads(parts[0])
            kind = header["type"]
            if kind == "end":
                yield End()
                return
            if kind not in ("frames", "positions"):
                raise ValueError(f"type {str(kind)[:40]!r}")
            events = list(self._read(header, kind, parts))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            yield Unreadable(None, f"expected dtype, shape and positions that fit the bytes ({error!r})")
            return
        yield from events

    def _read(self, header: dict[str, Any], kind: str, parts: Sequence[bytes]) -> Iterator[Event]:
        positions = header.get("positions")
        found = None if positions is None else np.asarray(positions, dtype=np.float64)
        frames: list[Frame] = []
        if kind == "frames":
            if header["dtype"] not in TYPES:
                raise ValueError(f"dtype {str(header['dtype'])[:40]!r}")
            dtype = np.dtype(header["dtype"]).newbyteorder("<")
            count, rows, columns = (int(side) for side in header["shape"])
            stack = np.frombuffer(parts[1], dtype).reshape(count, rows, columns)
            numbers = self._numbers(header, count)
            frames = [
                Frame(number, (rows, columns), dtype.str, "none", frame.tobytes())
                for number, frame in zip(numbers.tolist(), stack, strict=True)
            ]
        elif found is None:
            raise KeyError("positions")
        else:
            numbers = self._numbers(header, len(found))
        if found is not None:
            if found.shape != (len(numbers), 2):
                raise ValueError(f"positions of shape {found.shape}")
            yield Positions(numbers, found)
        yield from frames

    def _numbers(self, header: dict[str, Any], count: int) -> NDArray[np.int64]:
        if "numbers" in header:
            numbers = np.asarray(header["numbers"], dtype=np.int64)
            if numbers.shape != (count,):
                raise ValueError(f"numbers of shape {numbers.shape}")
        else:
            first = int(header.get("first", self.counted))
            numbers = np.arange(first, first + count)
        self.counted = int(numbers[-1]) + 1 if count else self.counted
        return numbers


def frames_message(first: int, patterns: NDArray, positions: NDArray[np.float64] | None) -> list[bytes]:
    """Frames [k, N, N] from number ``first`` on, with their positions [k, 2] or without."""
    little = np.ascontiguousarray(patterns, dtype=patterns.dtype.newbyteorder("<"))
    header: dict[str, Any] = {"type": "frames", "shape": little.shape, "dtype": little.dtype.name, "first": first}
    if positions is not None:
        header["positions"] = positions.tolist()
    return [json.dumps(header).encode(), little.tobytes()]


def positions_message(first: int, positions: NDArray[np.float64]) -> list[bytes]:
    """Positions [k, 2] of the frames from number ``first`` on."""
    return [json.dumps({"type": "positions", "first": first, "positions": positions.tolist()}).encode()]


END = [b'{"type": "end"}']


def encoded(
    begin: Begin, contents: Iterable[bytes], dtype: str, positions: NDArray[np.float64] | None
) -> Iterator[list[bytes]]:
    """The messages of a series, for a replay, one frame in each; ``positions`` [n, 2] begin anew after their last."""
    shape = begin.shape or (0, 0)
    for number, content in enumerate(contents):
        own = None if positions is None else positions[number % len(positions)][None]
        yield frames_message(number, np.frombuffer(content, dtype).reshape(1, *shape), own)
    yield END
