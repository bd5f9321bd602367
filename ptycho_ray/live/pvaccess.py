"""A channel of PVAccess that holds NTNDArray, as areaDetector's plugin makes them; ``uniqueId`` numbers the frames."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.live.frame_encodings import framed_bslz4, framed_lz4
from ptycho_ray.live.libraries import library
from ptycho_ray.live.wire_events import End, Event, Frame, Unreadable

#: Frames that the client of PVAccess holds for this program; with more it merges updates, and numbers are missing.
FRAMES_HELD = 1000
#: The types of the union ``value``, by the number that ``codec.parameters`` has of a compressed array.
SCALARS = {0: "bool", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "uint8", 6: "uint16", 7: "uint32",
           8: "uint64", 9: "float32", 10: "float64"}  # fmt: skip


def p4p_client() -> Any:
    """The client of PVAccess; InputError says how to get it."""
    return library("p4p.client.thread", "pva://, but p4p is not installed", "pva").Context


def decode(value: Any) -> Frame | Unreadable:
    """A frame of an NTNDArray."""
    number = int(value.uniqueId)
    try:
        sides = [int(dimension.size) for dimension in value.dimension]
        columns, rows = sides
        pixels = np.asarray(value.value)
        codec = str(value.codec.name)
        if not codec:
            dtype = pixels.dtype.newbyteorder("<")
            return Frame(number, (rows, columns), dtype.str, "none", pixels.astype(dtype).tobytes())
        if codec not in ("lz4", "bslz4"):
            raise ValueError(f"codec {codec}")
        dtype = np.dtype(SCALARS[int(value.codec.parameters)]).newbyteorder("<")
        framed = framed_lz4 if codec == "lz4" else framed_bslz4
        content = framed(pixels.tobytes(), int(value.uncompressedSize))
        return Frame(number, (rows, columns), dtype.str, codec, content)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Unreadable(number, f"no NTNDArray of rows and columns ({error})")


def monitored(channel: str, ended: Callable[[], bool], poll_s: float) -> Iterator[Event | None]:
    """Events of a channel; numbers count from the first frame. The value that stands there before the first change is none
    of the scan, unless it is number 0. A channel that closes after frames came ends the series.
    """
    values: queue.Queue[Any] = queue.Queue(FRAMES_HELD)
    with p4p_client()("pva", nt=False) as context:
        request = f"field()record[queueSize={FRAMES_HELD},pipeline=true]"
        subscription = context.monitor(channel, values.put, request, notify_disconnect=True)
        try:
            first: int | None = None
            standing = True
            while not ended():
                try:
                    value = values.get(timeout=poll_s)
                except queue.Empty:
                    yield None
                    continue
                if isinstance(value, Exception):
                    if first is not None:
                        yield End(f"{channel} was closed")
                        return
                    continue
                event = decode(value)
                if standing:
                    standing = False
                    if event.number != 0 or not isinstance(event, Frame):
                        continue
                if isinstance(event, Frame):
                    first = event.number if first is None else first
                    event = Frame(event.number - first, event.shape, event.dtype, event.encoding, event.content)
                yield event
        finally:
            subscription.close()


class Channel:
    """A channel that serves frames, for a replay. Use it in a ``with`` block."""

    def __init__(self, name: str) -> None:
        p4p_client()
        from p4p.nt import NTNDArray
        from p4p.server import Server
        from p4p.server.thread import SharedPV

        self._form = NTNDArray()
        self._variable = SharedPV(initial=self._form.type())
        self._server = Server(providers=[{name: self._variable}])

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()

    def post(self, number: int, pattern: NDArray) -> None:
        """Show a frame [rows, columns] to all who monitor the channel."""
        value = self._form.wrap(pattern)
        value["uniqueId"] = number
        self._variable.post(value)
