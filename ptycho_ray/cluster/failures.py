"""How work on a cluster ends early, and how that is told: lost workers, signals, marks of what has not ended."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

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

    def as_ctrl_c(_: int, frame: FrameType | None) -> None:
        # Ray Train sets a handler of its own while it trains, which ends the run on the cluster too.
        handler = signal.getsignal(signal.SIGINT)
        (handler if callable(handler) else signal.default_int_handler)(signal.SIGINT, frame)

    signal.signal(signal.SIGTERM, as_ctrl_c)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def last_line(error: BaseException) -> str:
    """What happened, without the traceback of the worker that is part of the text."""
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
