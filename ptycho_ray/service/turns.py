"""One job after the other, those of the highest priority first; and all of them after those who receive."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

#: Of threads that compute. On a machine where all want to run they get a third of what a program gets that receives frames.
NICENESS = 5


def give_way() -> None:
    """Let the calling thread (on Linux; elsewhere its process) give way to the programs that receive."""
    os.setpriority(os.PRIO_PROCESS, 0, max(NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


class Turns:
    """A queue for one place. Of the same priority, who came first is first."""

    def __init__(self) -> None:
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()
        self._taken = False

    @asynccontextmanager
    async def turn(self, priority: int) -> AsyncIterator[None]:
        """Hold the place inside the block."""
        if self._taken:
            called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (-priority, next(self._numbers), called))
            try:
                await called
            except asyncio.CancelledError:
                if called.done() and not called.cancelled():  # it was called and left at the same moment
                    self._next()
                raise
        self._taken = True
        try:
            yield
        finally:
            self._next()

    def _next(self) -> None:
        self._taken = False
        while self._waiting:
            *_, called = heapq.heappop(self._waiting)
            if not called.done():
                self._taken = True  # for the one that is called, before anybody else asks
                called.set_result(None)
                return
