"""Callers who wait for an image: for how long, and whether they are still there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any

from fastapi import Request
from fastapi.responses import Response


def patience(prefer: str, longest_s: float) -> float:
    """How long a caller waits for the image before it is content with a job, from its header (RFC 7240). One who says nothing
    may be writing what comes into a picture, and gets nothing but the image."""
    if (named := re.search(r"\bwait\s*=\s*(\d{1,9})", prefer.lower())) is not None:
        return min(float(named[1]), longest_s)
    return 0.0 if "respond-async" in prefer.lower() else longest_s


class CallerGone(Exception):
    """The connection was closed before the answer."""


async def while_connected(request: Request, work: Coroutine[Any, Any, Response]) -> Response:
    """The outcome of ``work``, unless the caller goes first. (Ray's own proxy cancels this task then, HAProxy does not.)"""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    answer, end = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait({answer, end}, return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        raise CallerGone
    finally:
        answer.cancel()
        end.cancel()
