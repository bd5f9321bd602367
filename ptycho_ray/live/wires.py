"""Sources on the network: what comes over ZeroMQ, in whichever of the known protocols, and over PVAccess."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ptycho_ray.errors import InputError
from ptycho_ray.live import dectris_cbor, dectris_json
from ptycho_ray.live.libraries import library
from ptycho_ray.live.own_messages import Decoder
from ptycho_ray.live.wire_events import Begin, End, Event, Frame, Unreadable

POLL_S = 0.2
#: Messages that ZeroMQ itself holds for a receiver.
MESSAGES_HELD = 1000
PVACCESS = "pva://"


@dataclass(frozen=True)
class Wire:
    """Where a source is and how it is listened to.

    Attributes:
        address: tcp://HOST:PORT, ipc://PATH or pva://CHANNEL.
        subscribe: ZeroMQ: SUB, which leaves the messages to other receivers as well, instead of PULL.
        channel: of a detector with several thresholds, the one that is taken; by default the first.
    """

    address: str
    subscribe: bool = False
    channel: str | None = None


def zeromq(address: str) -> Any:
    """pyzmq; InputError says how to get it."""
    return library("zmq", f"{address}, but pyzmq is not installed", "live")


def listen(wire: Wire, ended: Callable[[], bool]) -> Iterator[Event | None]:
    """Events as they come, None in each pause of ``POLL_S``; returns after the end of the series, or once ``ended`` says so.

    Raises:
        InputError: the library is missing, the address is none, or the first message has none of the known forms.
    """
    if wire.address.startswith(PVACCESS):
        from ptycho_ray.live.pvaccess import monitored

        yield from monitored(wire.address.removeprefix(PVACCESS), ended, POLL_S)
        return
    zmq = zeromq(wire.address)
    with zmq.Context() as context, context.socket(zmq.SUB if wire.subscribe else zmq.PULL) as socket:
        socket.linger = 0
        socket.rcvhwm = MESSAGES_HELD
        if wire.subscribe:
            socket.subscribe(b"")
        try:
            socket.connect(wire.address)
        except zmq.ZMQError as error:
            raise InputError(field="source", found=f"{wire.address} ({error})", expected="tcp://HOST:PORT") from None
        decode: Callable[[Sequence[bytes]], Iterator[Event]] | None = None
        while not ended():
            if not socket.poll(int(1000 * POLL_S)):
                yield None
                continue
            parts = socket.recv_multipart()
            decode = decode or _decoder(wire, parts)
            for event in decode(parts):
                yield event
                if isinstance(event, End):
                    return


def _decoder(wire: Wire, parts: Sequence[bytes]) -> Callable[[Sequence[bytes]], Iterator[Event]]:
    """What reads the messages of this source, by the form of its first one."""
    first = parts[0]
    if first[:1] == b"{":
        try:
            header = json.loads(first)
        except ValueError:
            header = {}
        if "htype" in header:
            return _one_series(dectris_json.decode)
        if "type" in header:
            return Decoder().decode
    elif first and first[0] >> 5 == 5:  # a map of CBOR
        return _one_series(lambda message: dectris_cbor.decode(message[0], wire.channel))
    raise InputError(
        file=wire.address,
        field="first message",
        found=repr(first[:60]),
        expected="the DECTRIS stream (CBOR, or JSON with htype), or JSON with a type",
        hint="docs/live.md has the messages",
    )


def _one_series(decode: Callable[[Sequence[bytes]], Event]) -> Callable[[Sequence[bytes]], Iterator[Event]]:
    """Frames of the series that was announced last; those of another are left over from it. A second announcement ends the
    first series: its end was lost.
    """
    series: str | None = None
    begun = False

    def of_this_series(parts: Sequence[bytes]) -> Iterator[Event]:
        nonlocal series, begun
        event = decode(parts)
        if isinstance(event, Begin):
            if begun:
                yield End("another series began")
                return
            series = event.series
        elif isinstance(event, Frame):
            if series is not None and event.series != series:
                yield Unreadable(None, f"a frame of another series ({event.series[:40]})")
                return
            series, begun = event.series, True
        elif isinstance(event, End) and not begun:
            return  # of a series before this one
        yield event

    return of_this_series
