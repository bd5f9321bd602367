"""The live image of a stream: patterns that were stored are predicted, and the image is sent to who sends them.

It never holds the patterns up. When it falls behind it skips some, which are drawn when nothing new comes, and a failure costs
it some images only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import WebSocket, WebSocketDisconnect
from numpy.typing import NDArray

from ptycho_ray.data.patterns import evenly_spread
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
#: Patterns that are predicted together: so many as take this time, between these numbers.
TURN_S = 0.25
LEAST_AT_ONCE, AT_ONCE = 8, 64
#: Skipped patterns that are remembered, the newest ones.
MOST_SKIPPED = 4096
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
        predicted: patterns before this number have been considered.
        skipped: numbers of those that were not drawn yet [k].
        fresh: something was drawn since the last picture.
        unseen: pictures that were sent and that nobody has said to have seen.
        seconds: what each step took since the last picture.
    """

    def __init__(self, service: Service, socket: WebSocket, spool: Spool, interval_s: float) -> None:
        self.service, self.socket, self.spool, self.interval = service, socket, spool, interval_s
        self.image = LiveImage(spool.settings.N, service.settings.max_canvas_pixels)
        self.predicted = self.unseen = 0
        self.skipped = np.zeros(0, np.int64)
        self.fresh = False
        self.seconds: dict[str, float] = {}
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
                failed = await self._failing(self._draw_new())
            elif len(self.skipped):
                failed = await self._failing(self._draw_skipped())
            elif not self.fresh:
                await self.news.wait()
                self.news.clear()
                continue
            else:
                await asyncio.sleep(PAUSE_S)
            if loop.time() >= next_time and self.unseen < MOST_UNSEEN and self.fresh:
                next_time = loop.time() + self.interval
                failed = await self._failing(self._send()) or failed
            pause = min(2 * pause, LONGEST_PAUSE_S) if failed else PAUSE_S
            if failed:
                await asyncio.sleep(pause)

    async def _send(self) -> None:
        considered, self.fresh = self.predicted, False
        with self._counting("picture"):
            picture, origin, step = await asyncio.to_thread(self.image.picture)
        header = {
            "type": "preview",
            "patterns": self.image.patterns,
            "next": considered,
            "origin_px": origin,
            "step": step,
            "pixel_size_m": self.spool.settings.pixel_size_m,
            "seconds": {name: round(seconds, 4) for name, seconds in self.seconds.items()},
        }
        self.seconds.clear()
        packed = pack_image(header, picture)
        self.unseen += 1
        with self._counting("send"):
            await self.socket.send_bytes(packed)
        with self._counting("keep"):  # for those who look on; the disk may be busy with the patterns
            await asyncio.to_thread(_write_preview, self.spool.folder, packed)

    @contextlib.contextmanager
    def _counting(self, step: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - begun

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

    @property
    def _at_once(self) -> int:
        return int(min(AT_ONCE, max(LEAST_AT_ONCE, TURN_S / self.pattern_s)))

    async def _draw_new(self) -> None:
        """Draw what waits, or of more than can be drawn in a turn some that are spread over all of it."""
        waiting = np.arange(self.predicted, self.spool.count)
        numbers = waiting[evenly_spread(len(waiting), self._at_once)]
        await self._draw(numbers)
        self.predicted += len(waiting)
        self.skipped = np.concatenate([self.skipped, np.setdiff1d(waiting, numbers)])[-MOST_SKIPPED:]

    async def _draw_skipped(self) -> None:
        numbers, self.skipped = self.skipped[-self._at_once :], self.skipped[: -self._at_once]
        await self._draw(numbers)

    async def _draw(self, numbers: NDArray[np.int64]) -> None:
        with self._counting("read"):
            positions, frames = await asyncio.to_thread(self.spool.read, numbers)
        begun = time.perf_counter()
        settings, telling = self.spool.settings, _telling(self.spool.count)
        with self._counting("predict"):
            predicted = await self.service.replicas.predict(
                settings.preview_model, self.spool.folder.name, telling, frames, positions, settings.domain
            )
        with self._counting("draw"):
            await asyncio.to_thread(self.image.add, *predicted)
        self.pattern_s = (time.perf_counter() - begun) / len(numbers)
        self.fresh = True


def _write_preview(folder: Path, packed: bytes) -> None:
    with atomic_path(folder / PREVIEW) as temporary:
        temporary.write_bytes(packed)
