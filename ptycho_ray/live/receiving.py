"""A source in a process of its own, which does nothing but receive: what comes after it may be slow, the detector never waits.

Between the two processes lies a buffer of so many bytes. A frame that finds it full is dropped, and its number is told.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait

from ptycho_ray.errors import InputError
from ptycho_ray.live.wire_events import Dropped, End, Event, Frame, Listening, pack, unpack
from ptycho_ray.live.wires import Wire, listen

#: Bytes that are handed over at a time.
AT_ONCE_BYTES = 4 * 2**20
#: Frames are gathered for so long before they are handed over: the next stage then inflates some at a time.
GATHER_S = 0.03
#: What an event takes in the buffer beside its content.
EVENT_BYTES = 256
BUFFER_BYTES = 512 * 2**20
#: Begins a message that holds the fields of an error instead of events.
NO_EVENTS = b"\0\0\0\0"


class Buffer:
    """Events that wait to be handed over, up to ``most_bytes``; frames beyond are dropped and their numbers kept."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._waiting: deque[Event] = deque()
        self._dropped: list[int] = []
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, event: Event) -> None:
        """Add an event, or drop a frame for which there is no room. Everything else is small and always kept."""
        size = _bytes_of(event)
        with self._changed:
            if isinstance(event, Frame) and self._bytes + size > self.most_bytes:
                self._dropped.append(event.number)
                return
            self._waiting.append(event)
            self._bytes += size
            self._changed.notify()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits; it need not be true any more when this returns."""
        return not self._waiting

    def close(self) -> None:
        """Nothing follows."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def take(self) -> list[Event]:
        """What waits, up to ``AT_ONCE_BYTES``; waits for something, and is empty at the end."""
        with self._changed:
            while not self._waiting and not self._dropped and not self._closed:
                self._changed.wait()
            taken: list[Event] = []
            size = 0
            while self._waiting and size < AT_ONCE_BYTES:
                event = self._waiting.popleft()
                size += _bytes_of(event)
                taken.append(event)
            self._bytes -= size
            if self._dropped:
                taken.insert(0, Dropped(tuple(self._dropped)))
                self._dropped.clear()
            return taken


def _bytes_of(event: Event) -> int:
    return EVENT_BYTES + (len(event.content) if isinstance(event, Frame) else 0)


def receive(wire: Wire, connection: Connection, most_bytes: int) -> None:
    """The receiving process: from the wire into the buffer, and from the buffer into the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the program that started this one, which then ends it
    buffer, gone = Buffer(most_bytes), threading.Event()

    def hand_over() -> None:
        try:
            while events := buffer.take():
                connection.send_bytes(pack(events))
                if buffer.is_empty:
                    time.sleep(GATHER_S)
        except OSError:  # the program that started this process has ended
            gone.set()

    thread = threading.Thread(target=hand_over)
    thread.start()
    buffer.put(Listening())
    try:
        for event in listen(wire, gone.is_set):
            if event is not None:
                buffer.put(event)
    except InputError as error:
        fields = {name: None if value is None else str(value) for name, value in vars(error).items()}
        buffer.close()
        thread.join()
        with contextlib.suppress(OSError):
            connection.send_bytes(NO_EVENTS + json.dumps(fields).encode())
    finally:
        buffer.close()
        thread.join()


class Received:
    """Wires that are listened to, each by a process of its own. Use it in a ``with`` block.

    Attributes:
        processes: by the number of their wire.
    """

    def __init__(self, wires: list[Wire], most_bytes: int = BUFFER_BYTES) -> None:
        context = multiprocessing.get_context("spawn")
        self.processes = []
        self._connections: list[Connection] = []
        self._open: dict[Connection, int] = {}
        for number, wire in enumerate(wires):
            own, its = context.Pipe(duplex=False)
            process = context.Process(target=receive, args=(wire, its, most_bytes), name=f"receive {wire.address}")
            process.daemon = True
            self.processes.append(process)
            self._connections.append(own)
            self._open[own] = number
            process.start()
            its.close()

    def __enter__(self) -> Received:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()
        for process in self.processes:
            process.terminate()
            process.join()

    def events(self, pause_s: float) -> Iterator[tuple[int, list[Event]]]:
        """What came, with the number of its wire, as long as one of them has not ended; (-1, []) after each pause."""
        while self._open:
            found = self.waiting(pause_s)
            yield from found or [(-1, [])]

    def waiting(self, pause_s: float = 0.0) -> list[tuple[int, list[Event]]]:
        """What has come, with the number of its wire. A process that ends without a word ends its wire too, with the reason.

        Raises:
            InputError: a wire cannot be listened to.
        """
        found = []
        for connection in wait(list(self._open), pause_s):
            assert isinstance(connection, Connection)
            number = self._open[connection]
            try:
                message = connection.recv_bytes()
            except (EOFError, OSError):
                self.processes[number].join()
                code = self.processes[number].exitcode
                message = pack([End("" if code == 0 else f"the receiving process ended with code {code}")])
            if message[: len(NO_EVENTS)] == NO_EVENTS:
                raise InputError(**json.loads(message[len(NO_EVENTS) :]))
            events = list(unpack(message))
            if isinstance(events[-1], End):
                del self._open[connection]
            found.append((number, events))
        return found
