"""Communication with a program that has started ours: one JSON object per line, and cancellation on request.

The events have the names of Ptychodus' own subprocess: ``started``, ``epoch``, ``checkpoint``, ``cancelling``, ``finished``,
``error``. Exit codes are those of ``ptycho_ray.commands.cli``: 0 done, 1 failed, 2 unusable input, 130 cancelled.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ptycho_ray.files import jsonable

#: From a signal to the end of the process, at most, whatever it was doing. Ptychodus kills after 10 s.
GRACE_S = 8.0
CANCELLED = 130


class EventStream:
    """Writes events; any thread may. When their reader has disappeared, the run is cancelled."""

    def __init__(self, file: IO[str]) -> None:
        self.file = file
        self.lock = threading.Lock()
        self.began = time.monotonic()

    def emit(self, event: str, **values: Any) -> None:
        """Write one event with the seconds since the start."""
        entry = {"event": event, **values, "elapsed_s": round(time.monotonic() - self.began, 3)}
        with self.lock:
            try:
                self.file.write(json.dumps(jsonable(entry), allow_nan=False) + "\n")
                self.file.flush()
            except BrokenPipeError:
                self.file = open(os.devnull, "w")  # noqa: SIM115 (for the rest of the process)
                os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def event_stream(target: Path | None) -> Iterator[EventStream]:
    """The events of a run, into a file, or onto standard output, where then nothing else appears.

    Every way in which the block can end is an event, and SIGTERM and Ctrl-C end it: the work is asked to stop, and after
    GRACE_S the process stops.
    """
    with _opened(target) as file:
        stream = EventStream(file)
        with _cancelled_by_signals(stream) as cancelled:
            try:
                yield stream
            except BaseException as error:
                if not (cancelled.is_set() or isinstance(error, KeyboardInterrupt | SystemExit)):
                    stream.emit("error", type=type(error).__name__, message=str(error))
                    raise
                stream.emit("finished", cancelled=True, path=None)
                if isinstance(error, KeyboardInterrupt):
                    raise
                raise KeyboardInterrupt("cancelled") from error  # Ray's own handler leaves by SystemExit


@contextmanager
def _opened(target: Path | None) -> Iterator[IO[str]]:
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("w", encoding="utf-8") as file:
            yield file
        return
    sys.stdout.flush()
    ours = os.dup(1)
    os.dup2(2, 1)  # what libraries print goes to standard error meanwhile
    file = os.fdopen(os.dup(ours), "w", encoding="utf-8")
    try:
        yield file
    finally:
        sys.stdout.flush()
        with contextlib.suppress(BrokenPipeError):
            file.close()
        os.dup2(ours, 1)
        os.close(ours)


@contextmanager
def _cancelled_by_signals(stream: EventStream) -> Iterator[threading.Event]:
    """Turn SIGTERM into Ctrl-C, report either at once, and limit the remaining time; yields whether one was received.

    The training loop and Ray have signal handlers of their own while they run. A wake-up socket is notified of a signal
    whoever handles it, in a thread that does not depend on what the main thread is doing.
    """
    cancelled, ended = threading.Event(), threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield cancelled
        return
    heard, told = socket.socketpair()
    told.setblocking(False)
    handler_before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    told_before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while number := heard.recv(1):
            if number[0] in (signal.SIGTERM, signal.SIGINT):
                cancelled.set()
                stream.emit("cancelling", signal=signal.Signals(number[0]).name)
                if not ended.wait(GRACE_S):
                    stream.emit("finished", cancelled=True, path=None)
                    os._exit(CANCELLED)  # Ray's processes on this machine end with ours, its cluster drops our job
                return

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    try:
        yield cancelled
    finally:
        ended.set()
        signal.set_wakeup_fd(told_before)
        signal.signal(signal.SIGTERM, handler_before)
        told.close()
        watcher.join()
        heard.close()
