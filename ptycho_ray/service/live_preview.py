"""The live image of a stream: patterns that were stored are predicted, and the image is sent to who sends them.

It never holds the patterns up. When it falls behind it skips some, and a failure costs it some images only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect

from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path
from ptycho_ray.service.dispatch import ReplicaLost
from ptycho_ray.service.job_results import pack_image
from ptycho_ray.service.live_image import LiveImage
from ptycho_ray.service.problems import Problem, from_error
from ptycho_ray.service.service import Service
from ptycho_ray.service.spool import Spool

log = logging.getLogger(__name__)

PREVIEW = "preview.raw"
#: Patterns that wait for the live image; with more it skips some, so that it stays live.
BACKLOG = 256
#: Patterns that are predicted together: so many as take this time, between these numbers.
TURN_S = 0.4
LEAST_AT_ONCE, AT_ONCE = 8, 64
#: The scales of a scan, and without one of its sender its probe, are measured on so many of its first patterns.
TELLING = (4, 16, 64, 256)
#: Pictures on the way to a receiver that has not said that it saw them.
MOST_UNSEEN = 2
PAUSE_S, LONGEST_PAUSE_S = 0.02, 5.0


def _telling(count: int) -> int:
    """How many patterns tell the physics of a scan of which ``count`` have come; it changes seldom, since it takes time."""
    return max((number for number in TELLING if number <= count), default=count)


class LivePreview:
    """The live image of one connection.

    Attributes:
        news: set when patterns were stored.
        predicted, shown: patterns before this number have been considered, and are in a picture that was sent.
        unseen: pictures that were sent and that nobody has said to have seen.
    """

    def __init__(self, service: Service, socket: WebSocket, spool: Spool, interval_s: float) -> None:
        self.service, self.socket, self.spool, self.interval = service, socket, spool, interval_s
        self.image = LiveImage(spool.settings.N, service.settings.max_canvas_pixels)
        self.predicted = self.shown = self.unseen = 0
        self.news = asyncio.Event()
        self.told = False
        self.pattern_s = TURN_S / LEAST_AT_ONCE  # as measured last

    async def show(self) -> None:
        """Predict new patterns and send the image: at most as often as requested, and not before the last one was
        acknowledged. A failure is told once and costs some images: the next patterns are tried again."""
        if not self.spool.settings.preview_model:
            return
        await self._failing(self._prepare())
        loop, next_time, pause = asyncio.get_running_loop(), 0.0, PAUSE_S
        while True:
            failed = False
            if self.predicted < self.spool.count >= TELLING[0]:
                failed = await self._failing(self._predict())
            elif self.shown == self.predicted:
                await self.news.wait()
                self.news.clear()
                continue
            else:
                await asyncio.sleep(PAUSE_S)
            if loop.time() >= next_time and self.unseen < MOST_UNSEEN and self.shown < self.predicted:
                next_time = loop.time() + self.interval
                failed = await self._failing(self._send()) or failed
            pause = min(2 * pause, LONGEST_PAUSE_S) if failed else PAUSE_S
            if failed:
                await asyncio.sleep(pause)

    async def _send(self) -> None:
        shown = self.predicted
        picture, origin, step = await asyncio.to_thread(self.image.picture)
        header = {
            "type": "preview",
            "patterns": self.image.patterns,
            "next": shown,
            "origin_px": origin,
            "step": step,
            "pixel_size_m": self.spool.settings.pixel_size_m,
        }
        packed = pack_image(header, picture)
        await asyncio.to_thread(_write_preview, self.spool.folder, packed)
        self.shown = shown
        self.unseen += 1
        await self.socket.send_bytes(packed)

    async def _failing(self, work: Coroutine[Any, Any, None]) -> bool:
        """Whether a part of the live image failed. The sender is told of the first failure, the log of each."""
        try:
            await work
        except (ReplicaLost, WebSocketDisconnect):
            return True
        except Exception as error:
            if not isinstance(error, Problem | InputError):
                log.exception("a live image failed")
            if not self.told:
                self.told = True
                with contextlib.suppress(RuntimeError, WebSocketDisconnect):  # the sender may have gone
                    await self.socket.send_json({"type": "no-preview", "problem": from_error(error).document()})
            return True
        return False

    async def _prepare(self) -> None:
        nothing = np.zeros((0, 0, 0), np.float32)
        place, settings = np.zeros((0, 2)), self.spool.settings
        await self.service.replicas.predict(
            settings.preview_model, self.spool.folder.name, 0, nothing, place, settings.domain
        )

    async def _predict(self) -> None:
        first, last = self.predicted, self.spool.count
        at_once = int(min(AT_ONCE, max(LEAST_AT_ONCE, TURN_S / self.pattern_s)))
        stop = last if last - first > max(BACKLOG, 4 * at_once) else min(last, first + at_once)
        numbers = np.unique(np.linspace(first, stop - 1, min(at_once, stop - first)).astype(np.int64))
        positions, frames = await asyncio.to_thread(self.spool.read, numbers)
        begun = time.perf_counter()
        settings, telling = self.spool.settings, _telling(last)
        predicted = await self.service.replicas.predict(
            settings.preview_model, self.spool.folder.name, telling, frames, positions, settings.domain
        )
        await asyncio.to_thread(self.image.add, *predicted)
        self.pattern_s = (time.perf_counter() - begun) / len(numbers)
        self.predicted = stop


def _write_preview(folder: Path, packed: bytes) -> None:
    with atomic_path(folder / PREVIEW) as temporary:
        temporary.write_bytes(packed)
