"""A scan file sent as its detector would send it, for trying the live path without one."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError
from ptycho_ray.live import dectris_cbor, dectris_json, own_messages
from ptycho_ray.live.frame_encodings import deflated
from ptycho_ray.live.wire_events import Begin
from ptycho_ray.live.wires import zeromq

Protocol = Literal["dectris2", "dectris1", "zmq", "pva", "hdf5"]
Compression = Literal["bslz4", "lz4", "none"]
#: Where each protocol is offered, if nothing else is said.
PLACES = {
    "dectris2": f"tcp://127.0.0.1:{dectris_cbor.PORT}",
    "dectris1": f"tcp://127.0.0.1:{dectris_json.PORT}",
    "zmq": "tcp://127.0.0.1:5555",
    "pva": "ptycho:image",
    "hdf5": "replay.h5",
}
#: Messages that wait for the receiver; a detector drops frames beyond its own buffer.
MESSAGES_HELD = 10_000
#: A sender that is ahead of its rate by less than this does not sleep.
NAP_S = 0.005
#: How long a channel of PVAccess stays after its last frame.
STAY_S = 1.0
#: How long what was sent last may take to leave.
LINGER_MS = 10_000
POSITIONS_AT_ONCE = 100


def counts_of(intensity: NDArray[np.float32]) -> NDArray:
    """Intensities [n, N, N] in the smallest unsigned type that holds them if they are counts, to a thousandth; else float32."""
    counts = np.rint(intensity)
    if intensity.min() < 0 or np.abs(counts - intensity).max() > 1e-3 * max(1.0, float(intensity.max()) ** 0.5):
        return intensity.astype(np.float32)
    return counts.astype("u2" if counts.max() < 2**16 - 1 else "u4")


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What is sent.

    Attributes:
        patterns: [n, N, N], of an integer type or float32.
        positions: [n, 2] (row, column).
        begin: what the header says beside number and shape of the frames.
        frames: so many, the scan over and over; None is the scan once.
        rate: frames a second; None as fast as they are taken.
        compression: of the frames of a DECTRIS stream.
        lost: numbers of frames that are not sent.
        shuffled: frames change places within groups of so many.
        wait_s: how long a receiver is waited for.
        arm_s: time between the header and the first frame.
    """

    patterns: NDArray
    positions: NDArray[np.float64]
    begin: Begin = Begin()  # noqa: RUF009 (it is frozen)
    frames: int | None = None
    rate: float | None = None
    compression: Compression = "bslz4"
    lost: frozenset[int] = frozenset()
    shuffled: int = 1
    wait_s: float = 60.0
    arm_s: float = 0.0

    @property
    def count(self) -> int:
        """Frames of the series."""
        return len(self.patterns) if self.frames is None else self.frames

    def announced(self) -> Begin:
        """The header."""
        told = self.begin
        return Begin(
            told.series or "replay",
            self.count,
            (int(self.patterns.shape[1]), int(self.patterns.shape[2])),
            told.energy_eV,
            told.detector_distance_m,
            told.detector_pixel_m,
            told.centre_px,
        )

    def order(self) -> Iterator[int]:
        """The places of the frames in the order in which they are sent."""
        rng = np.random.default_rng(0)
        for first in range(0, self.count, self.shuffled):
            group = np.arange(first, min(first + self.shuffled, self.count))
            for number in (rng.permutation(group) if self.shuffled > 1 else group).tolist():
                if number not in self.lost:
                    yield number


def replay(
    what: Replay, protocol: Protocol, place: str, positions_place: str | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Send a scan; how many frames were sent, how many were dropped because nobody took them, when it began (seconds since
    1970) and how long it took.

    Args:
        place: address to bind, name of the channel, or file.
        positions_place: address at which the positions are offered as ptycho_ray's messages; None sends none, except with
            protocol zmq, whose frames then hold them.

    Raises:
        InputError: nobody listens within ``wait_s``, the place is none, or a library is missing.
    """
    positions = _Positions(what, positions_place) if positions_place is not None else None
    if positions is not None:
        positions.start()
    try:
        if protocol == "pva":
            sent, dropped, pace = _over_pvaccess(what, place)
        elif protocol == "hdf5":
            sent, dropped, pace = _into_a_file(what, Path(place))
        else:
            sent, dropped, pace = _over_zeromq(what, protocol, place, positions is None, tell)
    finally:
        if positions is not None:
            positions.stop()
    rate = round(sent / max(pace.seconds, 1e-9), 1)
    return {"sent": sent, "dropped": dropped, "began": pace.began_at, "seconds": round(pace.seconds, 3), "rate": rate}


class _Pace:
    """Lets frames pass at a rate."""

    def __init__(self, rate: float | None) -> None:
        self.rate, self.passed, self.seconds = rate, 0, 0.0
        self.began, self.began_at = time.perf_counter(), time.time()

    def end(self) -> _Pace:
        """All frames have passed."""
        self.seconds = time.perf_counter() - self.began
        return self

    def wait(self) -> None:
        if self.rate is not None:
            ahead = self.began + self.passed / self.rate - time.perf_counter()
            if ahead > NAP_S:
                time.sleep(ahead)
        self.passed += 1


def _offered(address: str, field: str, wait_s: float) -> tuple[Any, Any]:
    """A context and a PUSH socket at an address."""
    zmq = zeromq(address)
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    socket.sndhwm = MESSAGES_HELD
    socket.sndtimeo = int(1000 * wait_s)
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        context.destroy(linger=0)
        raise InputError(field=field, found=f"{address} ({error})", expected="a free tcp://HOST:PORT") from None
    return context, socket


def _bound(address: str, wait_s: float) -> tuple[Any, Any]:
    """The same, once somebody listens."""
    context, socket = _offered(address, "bind", wait_s)
    if not socket.poll(int(1000 * wait_s), zeromq(address).POLLOUT):
        context.destroy(linger=0)
        raise InputError(
            field="bind",
            found=f"nobody who listens at {address} in {wait_s:g} s",
            expected="a receiver",
            hint=f"In another terminal type: ptycho-ray watch {address}",
        )
    socket.linger = LINGER_MS
    return context, socket


def _over_zeromq(
    what: Replay, protocol: Protocol, address: str, with_positions: bool, tell: Callable[[str], None]
) -> tuple[int, int, _Pace]:
    begin = what.announced()
    dtype = what.patterns.dtype.newbyteorder("<").str
    compression = "none" if protocol == "zmq" else what.compression
    scan = deflated(what.patterns, compression)
    contents = itertools.islice(itertools.cycle(scan), what.count)
    if protocol == "zmq":
        messages = own_messages.encoded(begin, contents, dtype, what.positions if with_positions else None)
    else:
        encoder = dectris_cbor if protocol == "dectris2" else dectris_json
        messages = encoder.encoded(begin, contents, dtype, compression)
    context, socket = _bound(address, what.wait_s)
    sent, dropped, again = 0, 0, zeromq(address).Again
    patience = 0 if what.rate is None else zeromq(address).NOBLOCK  # a detector does not wait
    with context, socket:
        if protocol != "zmq":
            socket.send_multipart(next(messages))
        tell(f"a receiver listens at {address}")
        time.sleep(what.arm_s)
        pace = _Pace(what.rate)
        for message in _reordered(messages, what):
            pace.wait()
            try:
                socket.send_multipart(message, flags=patience)
                sent += 1
            except again:
                dropped += 1
        pace.end()
        with contextlib.suppress(again):  # whoever listened may have gone
            socket.send_multipart(next(messages))
    return sent, dropped, pace


def _reordered(messages: Iterator[list[bytes]], what: Replay) -> Iterator[list[bytes]]:
    """Messages of all frames in the order in which they are sent; ``messages`` then stands at the end of the series."""
    order = what.order()
    for first in range(0, what.count, what.shuffled):
        last = min(first + what.shuffled, what.count)
        group = dict(zip(range(first, last), itertools.islice(messages, last - first), strict=True))
        kept = sum(number not in what.lost for number in group)
        yield from (group[number] for number in itertools.islice(order, kept))


def _over_pvaccess(what: Replay, channel: str) -> tuple[int, int, _Pace]:
    from ptycho_ray.live.pvaccess import Channel

    with Channel(channel) as shown:
        time.sleep(what.arm_s)
        pace = _Pace(what.rate)
        for number in what.order():
            pace.wait()
            shown.post(number, what.patterns[number % len(what.patterns)])
        pace.end()
        time.sleep(STAY_S)
    return pace.passed, 0, pace


def _into_a_file(what: Replay, path: Path) -> tuple[int, int, _Pace]:
    """A file in SWMR mode with patterns and positions, and ``complete`` at the end."""
    import h5py

    n, shape, dtype = what.count, what.patterns.shape[1:], what.patterns.dtype
    with h5py.File(path, "w", libver="latest") as file:
        frames = file.create_dataset("patterns", (0, *shape), dtype, maxshape=(None, *shape), chunks=(1, *shape))
        positions = file.create_dataset("positions", (0, 2), float, maxshape=(None, 2), chunks=(64, 2))
        complete = file.create_dataset("complete", data=0)
        file.swmr_mode = True
        pace = _Pace(what.rate)
        for number in range(n):
            pace.wait()
            for dataset, values in ((frames, what.patterns), (positions, what.positions)):
                dataset.resize(number + 1, axis=0)
                dataset[number] = values[number % len(values)]
                dataset.flush()
        complete[()] = 1
        complete.flush()
    return n, 0, pace.end()


class _Positions:
    """The positions, sent beside the frames at their rate."""

    def __init__(self, what: Replay, address: str) -> None:
        self._what = what
        self._context, self._socket = _offered(address, "positions-bind", what.wait_s)
        self._thread = threading.Thread(target=self._try, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._thread.join(self._what.wait_s)
        self._context.destroy(linger=LINGER_MS if not self._thread.is_alive() else 0)

    def _send(self) -> None:
        what, places = self._what, self._what.positions
        pace = _Pace(None if what.rate is None else what.rate / POSITIONS_AT_ONCE)
        for first in range(0, what.count, POSITIONS_AT_ONCE):
            pace.wait()
            numbers = np.arange(first, min(first + POSITIONS_AT_ONCE, what.count))
            self._socket.send_multipart(own_messages.positions_message(first, places[numbers % len(places)]))
        self._socket.send_multipart(own_messages.END)

    def _try(self) -> None:
        with contextlib.suppress(zeromq("positions-bind").Again):  # nobody wants them
            self._send()
