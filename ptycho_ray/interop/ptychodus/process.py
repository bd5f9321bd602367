"""Running ``ptycho-ray`` in a supervised process next to a host that must not crash, hang or use a GPU.

Ptychodus' own wrapper waits forever when its child is killed (out of memory, for example). Here the end of the process
is always noticed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import IO, Any

#: The program gives up its work within events.GRACE_S of SIGTERM; after this time it is killed.
STOP_S = 10.0
TAIL_LINES = 20


class ProgramFailed(RuntimeError):
    """``ptycho-ray`` ended without a result; the text is its last output."""


def run_program(
    words: Sequence[str], *, command: Sequence[str] = (), heartbeat_s: float = 1.0, log: logging.Logger
) -> Iterator[dict[str, Any] | None]:
    """Run ``ptycho-ray`` with ``words`` and yield its events; None whenever ``heartbeat_s`` pass without one.

    Closing the iterator stops the program and everything that it started. ``command`` replaces this Python's ptycho-ray.

    Raises:
        ProgramFailed: it ended with an error, or without a ``finished`` event.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        try:
            program = subprocess.Popen(
                [*(command or (sys.executable, "-m", "ptycho_ray")), *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            raise ProgramFailed(f"{' '.join(command)} cannot be run: {error}") from error
        finished = False
        try:
            for event in _events(program, heartbeat_s):
                if event is not None:
                    finished = finished or (event.get("event") == "finished" and not event.get("cancelled"))
                    log.debug("%s", event)
                yield event
            code = program.wait()
        finally:
            _stop(program)
        if code != 0 or not finished:
            output.seek(0)
            raise ProgramFailed(f"ptycho-ray {_ending(code)}: {_last_lines(output)}")


def _events(program: subprocess.Popen[str], heartbeat_s: float) -> Iterator[dict[str, Any] | None]:
    """The events until the process has ended; the process itself is polled, since others may hold the pipe open."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert program.stdout is not None
        with program.stdout:
            for line in program.stdout:
                lines.put(line)
        lines.put(None)

    threading.Thread(target=read, name="ptycho-ray events", daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=heartbeat_s)
        except queue.Empty:
            if program.poll() is not None:
                return
            yield None
            continue
        if line is None:
            return
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict):
            yield event


def _stop(program: subprocess.Popen[str]) -> None:
    """End the process if it runs, and whatever is left of its group."""
    if program.poll() is None:
        program.terminate()
        try:
            program.wait(STOP_S)
        except subprocess.TimeoutExpired:
            program.kill()
    if os.name == "posix":  # elsewhere a process has no group
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody is left
            os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _last_lines(said: IO[str]) -> str:
    lines = [line.rstrip() for line in said.readlines() if line.strip()]
    return "\n".join(lines[-TAIL_LINES:]) or "it printed nothing"
