"""A scan while it is measured: from any source, with positions from the same or a second one, as joined pieces in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.config import extensions
from ptycho_ray.errors import InputError
from ptycho_ray.live.frame_encodings import inflated, problem_of
from ptycho_ray.live.growing_files import Clock, Ending, Frames, Names, folder_frames, growing_frames
from ptycho_ray.live.joining import WAITING_BYTES, Joined, Joiner, Tally
from ptycho_ray.live.receiving import BUFFER_BYTES, Received
from ptycho_ray.live.tiled_arrays import WEB, tiled_frames
from ptycho_ray.live.wire_events import Begin, Dropped, End, Event, Frame, Listening, Positions, Unreadable
from ptycho_ray.live.wires import Wire

#: How long positions are waited for once the frames have ended.
POSITIONS_S = 10.0
#: How often what is held is looked at while nothing comes.
PAUSE_S = 0.1


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a scan comes from.

    Attributes:
        frames: a folder, an HDF5 file that grows, or an address (``://``), also of a run in Tiled (``http``, ``https``) or of
            another package's source.
        positions: a file or an address with the positions; None if they come with the frames.
        names: of the arrays in files and in Tiled.
        ending: when the scan is complete; with an address its ``idle_s`` counts from the first frame.
        first_s: how long an address is listened to until the first frame comes; None is for ever.
        crop: side of the square that is cut out of each frame; None leaves frames whole, which must then be square.
        centre_px: row and column of the direct beam, the middle of that square; None is what the source says, or the
            middle of the frame.
        subscribe, channel: see ``Wire``.
        buffer_bytes: of frames that wait to be taken from the receiving process, and again of those that wait for their
            positions.
    """

    frames: str
    positions: str | None = None
    names: Names = field(default_factory=Names)
    ending: Ending = field(default_factory=Ending)
    first_s: float | None = None
    crop: int | None = None
    centre_px: tuple[float, float] | None = None
    subscribe: bool = False
    channel: str | None = None
    buffer_bytes: int = min(BUFFER_BYTES, WAITING_BYTES)


def is_address(word: str) -> bool:
    return "://" in word


class Measurement:
    """The pieces of a scan, while it is measured.

    Attributes:
        begin: what the source has announced so far.
        tally: what happened to the frames, complete after the last piece.
        ended: why the scan is over; empty while it is not, and where the source said so itself.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.begin = Begin()
        self.ended = ""
        self._joiner = Joiner(source.ending.patterns, source.buffer_bytes)
        self._shape: tuple[int, int] | None = None
        self._dtype: np.dtype | None = None
        self._over = [False, False]  # the frames, and the positions of a second source
        self._clock = Clock(source.ending)

    @property
    def tally(self) -> Tally:
        return self._joiner.tally

    def pieces(self, on_begin: Callable[[Begin], None] = lambda begin: None) -> Iterator[Joined]:
        """Patterns [k, N, N] with positions, in the order of their numbers, as they come.

        Args:
            on_begin: told what a source announces before its first frame.

        Raises:
            InputError: the source cannot be read, or does not fit what was asked for.
        """
        from ptycho_ray.live.position_files import positions_in  # the reader of all formats takes a second to import

        other = self.source.positions
        if other is not None and not is_address(other):
            found = positions_in(
                Path(other), self.source.names.positions or "positions", self.source.ending.idle_s or 0
            )
            self._joiner.add_positions(found.numbers, found.positions)
            other = None
        self._over[1] = other is None
        wired = is_address(self.source.frames) and not (self._is_added or self.source.frames.startswith(WEB))
        pieces = self._of_wires(other, on_begin) if wired else self._of_files(other)
        for joined in pieces:
            if joined is not None:
                yield joined
        if (last := self._joiner.finish()) is not None:
            yield last

    @property
    def _is_added(self) -> bool:
        """Whether the source is one of another package (``ptycho_ray.register_source``)."""
        return is_address(self.source.frames) and self.source.frames.partition("://")[0] in extensions.names("source")

    def _frames(self) -> Iterator[Frames]:
        source, path = self.source, Path(self.source.frames)
        if self._is_added:
            return iter(extensions.find("source", source.frames.partition("://")[0])(source.frames, source.ending))
        names = source.names if source.positions is None else replace(source.names, positions=None)
        if source.frames.startswith(WEB):
            return tiled_frames(source.frames, names, source.ending)
        return (
            folder_frames(path, names, source.ending) if path.is_dir() else growing_frames(path, names, source.ending)
        )

    def _of_files(self, other: str | None) -> Iterator[Joined | None]:
        source = self.source
        with Received([Wire(other)] if other else [], source.buffer_bytes) as received:
            seconds = received.events(PAUSE_S)
            first = 0
            for frames in self._frames():
                numbers = np.arange(first, first + len(frames.patterns))
                first += len(numbers)
                self._fit(frames.patterns.shape[1:], frames.patterns.dtype)
                self._joiner.add_frames(numbers, self._cropped(frames.patterns))
                if frames.positions is not None:
                    self._joiner.add_positions(numbers, frames.positions)
                for _, events in received.waiting():
                    self._take_positions(events)
                yield self._joiner.take()
            self._over[0] = True
            yield from self._last_positions(seconds)

    def _of_wires(self, other: str | None, on_begin: Callable[[Begin], None]) -> Iterator[Joined | None]:
        source = self.source
        wires = [Wire(source.frames, source.subscribe, source.channel), *([Wire(other)] if other else [])]
        with Received(wires, source.buffer_bytes) as received:
            arriving, listening = received.events(PAUSE_S), False
            for number, events in arriving:
                if number == 1:
                    self._take_positions(events)
                elif number == 0:
                    for event in events:
                        if isinstance(event, Begin):
                            self._start(event)
                            on_begin(event)
                    self._take_frames(events)
                yield self._joiner.take()
                listening = listening or number == 0
                if listening and not self._over[0] and (silent := self._silent()) is not None:
                    self._over[0] = True
                    self.ended = silent
                if self._over[0]:
                    break
            yield from self._last_positions(arriving)

    def _silent(self) -> str | None:
        """Why no frame is waited for any more, empty if all have come; None while some are."""
        if self._clock.count:
            idle = f"no frame for {self.source.ending.idle_s:g} s"
            return ("" if self._clock.left == 0 else idle) if self._clock.over else None
        first = self.source.first_s
        late = first is not None and time.monotonic() - self._clock.last > first
        return f"no frame in {first:g} s" if late else None

    def _last_positions(self, arriving: Iterator[tuple[int, list[Event]]]) -> Iterator[Joined | None]:
        """Positions that come after the last frame."""
        clock = Clock(Ending(idle_s=POSITIONS_S))
        nothing: tuple[int, list[Event]] = (-1, [End()])
        while not self._over[1] and self._joiner.waiting and not clock.over:
            _, events = next(arriving, nothing)
            self._take_positions(events)
            if events:
                clock.took(0)
            yield self._joiner.take()

    def _start(self, begin: Begin) -> None:
        self.begin = begin
        if self.tally.expected is None:
            self.tally.expected = begin.frames
        if begin.shape is not None:
            self._fit(begin.shape, None)

    def _take_positions(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Positions):
                self._joiner.add_positions(event.numbers, event.positions)
            elif isinstance(event, Unreadable):
                self._joiner.unreadable(event.reason)
            elif isinstance(event, End):
                self._over[1] = True
                if event.reason:
                    self._joiner.unreadable(f"no further positions: {event.reason}")

    def _take_frames(self, events: list[Event]) -> None:
        good = []
        for event in events:
            if isinstance(event, Positions):
                self._joiner.add_positions(event.numbers, event.positions)
            elif isinstance(event, Listening | Begin):
                self._clock.took(0)
            elif isinstance(event, Dropped):
                self.tally.dropped_by_receiver += event.numbers
                self._clock.took(len(event.numbers))
            elif isinstance(event, Unreadable):
                self._joiner.unreadable(event.reason)
            elif isinstance(event, End):
                self._over[0] = True
                self.ended = event.reason
            elif isinstance(event, Frame):
                if self._shape is None or self._dtype is None:
                    self._fit(event.shape, np.dtype(event.dtype))
                if (problem := self._misfit(event)) is None:
                    good.append(event)
                else:
                    self._joiner.unreadable(problem)
        left = self._clock.left
        good = good if left is None else good[: max(0, left)]
        for _, alike in groupby(good, key=lambda frame: (frame.dtype, frame.encoding)):
            self._add(list(alike))
        self._clock.took(len(good))

    def _add(self, frames: list[Frame]) -> None:
        try:
            patterns = inflated(frames)
        except OSError as error:
            if len(frames) == 1:
                self._joiner.unreadable(f"a damaged frame ({str(error)[:80]})")
                return
            for frame in frames:  # the others of its message are good
                self._add([frame])
            return
        self._joiner.add_frames(np.array([frame.number for frame in frames], np.int64), self._cropped(patterns))

    def _misfit(self, frame: Frame) -> str | None:
        if frame.shape != self._shape or np.dtype(frame.dtype).newbyteorder("=") != self._dtype:
            assert self._shape is not None
            return (
                f"a frame of {frame.shape[0]} x {frame.shape[1]} {np.dtype(frame.dtype).name}; the series has "
                f"{self._shape[0]} x {self._shape[1]} {self._dtype}"
            )
        return problem_of(frame) or None

    def _fit(self, shape: tuple[int, ...], dtype: np.dtype | None) -> None:
        """Hold the first shape and type that are said, and refuse what cannot be reconstructed."""
        rows, columns = (int(side) for side in shape)
        if self._shape is not None and self._shape != (rows, columns):
            raise InputError(
                file=self.source.frames,
                field="shape",
                found=f"frames of {rows} x {columns} pixels",
                expected=f"{self._shape[0]} x {self._shape[1]} as the source announced",
            )
        if self.source.crop is None and rows != columns:
            raise InputError(
                file=self.source.frames,
                field="shape",
                found=f"frames of {rows} x {columns} pixels",
                expected="square ones",
                hint=f"Cut a square about the beam: --crop {2 ** int(np.log2(min(rows, columns)))}",
            )
        self._shape = (rows, columns)
        if dtype is not None:
            self._dtype = np.dtype(dtype).newbyteorder("=")
        if self.source.crop is not None:
            self._window(self.source.crop)

    def _window(self, side: int) -> tuple[slice, slice]:
        assert self._shape is not None
        centre = self.source.centre_px or self.begin.centre_px or (self._shape[0] // 2, self._shape[1] // 2)
        corner = [round(middle) - side // 2 for middle in centre]
        if min(corner) < 0 or any(low + side > most for low, most in zip(corner, self._shape, strict=True)):
            raise InputError(
                file=self.source.frames,
                field="crop",
                found=f"{side} pixels about row {centre[0]:g}, column {centre[1]:g}",
                expected=f"a square inside {self._shape[0]} x {self._shape[1]} pixels",
                hint="Say where the direct beam is with --centre ROW COLUMN",
            )
        return slice(corner[0], corner[0] + side), slice(corner[1], corner[1] + side)

    def _cropped(self, patterns: NDArray) -> NDArray:
        if self.source.crop is None:
            return patterns
        rows, columns = self._window(self.source.crop)
        return np.ascontiguousarray(patterns[:, rows, columns])
