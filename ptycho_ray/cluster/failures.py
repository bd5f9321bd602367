"""How work on a cluster ends early, and how that is told: lost workers, signals, marks of what has not ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

#: A file beside the checkpoints of an ensemble that has started and not ended.
BEGUN = "begun.json"


class TrainingLost(RuntimeError):
    """Workers were lost more often than the settings allow."""


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM end the block like Ctrl-C, for which Ray Train has a handler, and put back what was there before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(error: BaseException) -> str:
    """What happened, without the traceback of the worker that is part of the text."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
