"""Frames and positions of one scan, joined by their number and brought into order; what is missing, late or twice is told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.live.wire_events import ranges

#: How long frames wait for one with a smaller number, and how many wait at most.
HOLD_S, HOLD_FRAMES = 0.5, 4096
#: Bytes of the frames that wait for their positions, at most.
WAITING_BYTES = 512 * 2**20
#: Numbers of frames are below this; a larger one is an error of the message.
MOST_FRAMES = 10**8


@dataclass(frozen=True)
class Joined:
    """Patterns [k, N, N], their positions [k, 2] (row, column; unit of the source) and their numbers [k]."""

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    patterns: NDArray


class Numbers:
    """A set of numbers from 0, one byte each."""

    def __init__(self) -> None:
        self._seen = bytearray()
        self.count = 0

    def add(self, number: int) -> bool:
        """Whether it is new."""
        if number >= len(self._seen):
            self._seen.extend(bytes(max(number + 1 - len(self._seen), 1024)))
        new = not self._seen[number]
        self._seen[number] = 1
        self.count += new
        return new

    def missing(self, end: int | None = None) -> NDArray[np.int64]:
        """Those below ``end`` (by default below the largest) that are not in the set."""
        seen = np.frombuffer(self._seen, np.uint8)
        held = np.flatnonzero(seen)
        end = (int(held[-1]) + 1 if len(held) else 0) if end is None else end
        there = np.zeros(end, bool)
        there[held[held < end]] = True
        return np.flatnonzero(~there)


@dataclass
class Tally:
    """What happened to the frames of a scan; lists hold their numbers."""

    expected: int | None = None
    received: int = 0
    joined: int = 0
    duplicates: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    dropped_by_receiver: list[int] = field(default_factory=list)
    dropped_without_position: list[int] = field(default_factory=list)
    unreadable: dict[str, int] = field(default_factory=dict)
    missing: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    positions_without_frame: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def facts(self) -> dict[str, Any]:
        """For a JSON document; numbers as ranges, and what did not occur left out."""
        facts: dict[str, Any] = {"expected": self.expected, "received": self.received, "joined": self.joined}
        for name in (
            "duplicates", "late", "dropped_by_receiver", "dropped_without_position", "missing", "positions_without_frame",
        ):  # fmt: skip
            facts[name] = ranges(getattr(self, name))
        facts["unreadable"] = self.unreadable
        return {name: value for name, value in facts.items() if value or name in ("received", "joined")}

    def lines(self) -> list[str]:
        """Sentences about what was lost or odd."""
        told = []
        for numbers, what in (
            (self.missing, "did not come"),
            (self.dropped_by_receiver, "were dropped: the receiver's buffer was full"),
            (self.dropped_without_position, "were dropped: they have no position"),
            (self.duplicates, "came more than once; the first was taken"),
            (self.late, "came late, and stand behind those that follow them"),
        ):
            if len(numbers):
                told.append(f"{len(numbers)} frames {what}: {ranges(numbers)}")
        if len(self.positions_without_frame):
            told.append(f"positions without a frame: {ranges(self.positions_without_frame)}")
        told += [f"{count} messages were no frames: {reason}" for reason, count in self.unreadable.items()]
        return told


class Joiner:
    """Joins frames and positions that come in any order.

    Joined frames leave in the order of their numbers. One that is missing holds back those behind it for ``HOLD_S``, or until
    ``HOLD_FRAMES`` or ``waiting_bytes`` wait; if it comes after that, it leaves at once and is told as late.

    Args:
        waiting_bytes: of frames that wait for their positions, at most; the oldest is dropped then.
        clock: seconds, for the time that frames are held.
    """

    def __init__(
        self,
        expected: int | None = None,
        waiting_bytes: int = WAITING_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tally = Tally(expected)
        self.waiting_bytes, self.clock = waiting_bytes, clock
        self._frames: dict[int, NDArray] = {}
        self._frames_bytes = 0
        self._positions: dict[int, NDArray[np.float64]] = {}
        self._seen, self._placed = Numbers(), Numbers()
        self._ready: dict[int, tuple[NDArray[np.float64], NDArray]] = {}
        self._late: list[int] = []
        self._next = 0
        self._held: tuple[float, int] | None = None  # since when frames wait, and the largest number that did then

    def add_frames(self, numbers: NDArray[np.int64], patterns: NDArray) -> None:
        """Patterns [k, N, N] with these numbers [k]."""
        for number, pattern in zip(numbers.tolist(), patterns, strict=True):
            self.tally.received += 1
            if not 0 <= number < MOST_FRAMES:
                self.unreadable(f"a frame with a number outside 0 to {MOST_FRAMES}")
            elif not self._seen.add(number):
                self.tally.duplicates.append(number)
            elif (position := self._positions.pop(number, None)) is not None:
                self._join(number, position, pattern)
            else:
                self._frames[number] = pattern
                self._frames_bytes += pattern.nbytes
                while self._frames_bytes > self.waiting_bytes:
                    oldest = next(iter(self._frames))
                    self._frames_bytes -= self._frames.pop(oldest).nbytes
                    self.tally.dropped_without_position.append(oldest)

    def unreadable(self, reason: str) -> None:
        """Count a message that is no frame."""
        self.tally.unreadable[reason] = self.tally.unreadable.get(reason, 0) + 1

    def add_positions(self, numbers: NDArray[np.int64], positions: NDArray[np.float64]) -> None:
        """Positions [k, 2] of the frames with these numbers [k]; of two for one frame the first counts."""
        for number, position in zip(numbers.tolist(), positions, strict=True):
            if not 0 <= number < MOST_FRAMES or not self._placed.add(number):
                continue
            pattern = self._frames.pop(number, None)
            if pattern is None:
                self._positions[number] = position
            else:
                self._frames_bytes -= pattern.nbytes
                self._join(number, position, pattern)

    @property
    def waiting(self) -> int:
        """Frames that wait for their positions."""
        return len(self._frames)

    def _join(self, number: int, position: NDArray[np.float64], pattern: NDArray) -> None:
        self._ready[number] = (position, pattern)
        self.tally.joined += 1
        if number < self._next:
            self._late.append(number)
            self.tally.late.append(number)

    def take(self, everything: bool = False) -> Joined | None:
        """What may leave now, or None; ``everything`` at the end of the scan."""
        leaving, self._late = self._late, []
        leaving += self._in_order()
        waiting = sorted(number for number in self._ready if number >= self._next)
        if not waiting:
            self._held = None
        elif everything or len(waiting) > HOLD_FRAMES or self._too_large(waiting):
            leaving += self._jump(waiting)
        elif self._held is None:
            self._held = (self.clock(), waiting[-1])
        elif self.clock() - self._held[0] > HOLD_S:
            leaving += self._jump([number for number in waiting if number <= self._held[1]])
        if not leaving:
            return None
        taken = [self._ready.pop(number) for number in leaving]
        positions, patterns = (np.stack(parts) for parts in zip(*taken, strict=True))
        return Joined(np.array(leaving, dtype=np.int64), positions, patterns)

    def _too_large(self, waiting: list[int]) -> bool:
        return len(waiting) * self._ready[waiting[0]][1].nbytes > self.waiting_bytes

    def _jump(self, waiting: list[int]) -> list[int]:
        """These leave, and what is missing among them is waited for no longer."""
        self._next = waiting[-1] + 1 if waiting else self._next
        self._held = None
        return waiting

    def _in_order(self) -> list[int]:
        first = self._next
        while self._next in self._ready:
            self._next += 1
        return list(range(first, self._next))

    def finish(self) -> Joined | None:
        """What is left, and the end of the tally."""
        last = self.take(everything=True)
        self.tally.dropped_without_position += list(self._frames)
        self._frames.clear()
        dropped = self.tally.dropped_by_receiver
        missing = self._seen.missing(self.tally.expected)
        self.tally.missing = np.setdiff1d(missing, dropped)
        lost = np.union1d(missing, dropped)
        self.tally.positions_without_frame = np.setdiff1d(np.array(sorted(self._positions), np.int64), lost)
        return last
