"""Sending a scan during its measurement, and receiving live images."""

from __future__ import annotations

import asyncio
import json
import struct
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

T = TypeVar("T")

HEADER = struct.Struct("<4sIQ")
MAGIC = b"PTYF"
#: Patterns of one message, at most; the service reads messages of up to 16 MiB.
MESSAGE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Preview:
    """The live image.

    Attributes:
        image: complex64 [H, W]; zero where nothing is covered yet.
        patterns: how many patterns it contains.
        next: all patterns before this number have been considered (some are skipped when it falls behind).
        origin_px: position of its first pixel; ``step`` is the spacing of its pixels.
        seconds: what the service took for each step since the picture before.
    """

    image: NDArray[np.complex64]
    patterns: int
    next: int
    origin_px: tuple[float, float]
    step: int
    seconds: dict[str, float]

    @classmethod
    def unpack(cls, content: bytes) -> Preview:
        """From a binary message of the service."""
        length = int.from_bytes(content[:4], "little")
        header = json.loads(content[4 : 4 + length])
        image = np.frombuffer(content, "<c8", offset=4 + length).reshape(header["shape"])
        seconds = header.get("seconds", {})
        return cls(image, header["patterns"], header["next"], tuple(header["origin_px"]), header["step"], seconds)


class StreamError(RuntimeError):
    """The service ended the stream; ``document`` says why (RFC 9457)."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        super().__init__(document.get("detail", "the stream ended"))


class StreamFull(StreamError):
    """The scan has become too long for the service, which reconstructs what it has stored; ``finish`` waits for that."""


class AsyncStream:
    """A stream for asyncio; made by ``AsyncClient.stream`` and used with ``async with``.

    Patterns that were not acknowledged are kept, and sent again after a broken connection. ``push`` waits while more
    patterns are in flight than the service accepts.
    """

    def __init__(
        self,
        url: str,
        headers: dict[str, str],
        start: dict[str, Any],
        on_preview: Callable[[Preview], None] | None,
        patience_s: float,
    ) -> None:
        self.url = "ws" + url.removeprefix("http") + "/v1/streams"
        self.headers, self.start, self.on_preview, self.patience_s = headers, start, on_preview, patience_s
        self.dtype = np.dtype(start.get("dtype", "float32")).newbyteorder("<")
        self.stream_id: str | None = None
        self.job: dict[str, Any] | None = None
        #: Why there is no live image, or was none for a time.
        self.no_preview: dict[str, Any] | None = None
        self.full: dict[str, Any] | None = None
        self.pushed = self.acknowledged = 0
        self.window = 1
        self.connections = 0
        self.socket: ClientConnection | None = None
        self._waiting: deque[tuple[int, NDArray, NDArray]] = deque()  # number of the first, positions, frames
        self._sent = 0
        self._ending = self._abandoned = False
        self._changed = asyncio.Event()
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> AsyncStream:
        self._task = asyncio.create_task(self._keep_connected())
        while self.stream_id is None:
            await self._change()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self.job is None and not self._abandoned:
                await self.finish()
        finally:
            if self._task is not None:
                self._task.cancel()
                await asyncio.gather(self._task, return_exceptions=True)  # it closes the connection

    async def push(self, positions: ArrayLike, frames: ArrayLike) -> None:
        """Send patterns [n, N, N] at positions [n, 2] (row, column; object pixels); StreamFull once no more are taken."""
        frames_nNN = np.ascontiguousarray(frames, dtype=self.dtype)
        positions_n2 = np.ascontiguousarray(positions, dtype="<f8")
        most = max(1, min(MESSAGE_BYTES // max(1, frames_nNN[0].nbytes), self.window))
        for start in range(0, len(frames_nNN), most):
            rows = slice(start, start + most)
            count = len(frames_nNN[rows])
            while self.pushed + count - self.acknowledged > self.window and self.full is None:
                await self._change()
            if self.full is not None:
                raise StreamFull(self.full)
            self._waiting.append((self.pushed, positions_n2[rows], frames_nNN[rows]))
            self.pushed += count
            self._changed.set()

    async def finish(self) -> dict[str, Any]:
        """End the scan and wait for its final reconstruction; returns the job."""
        self._ending = True
        self._changed.set()
        while self.job is None:
            await self._change()
        if self.job["state"] != "done":
            raise StreamError(self.job.get("problem") or {"detail": f"the job was {self.job['state']}"})
        return self.job

    def abandon(self) -> None:
        """Abandon the stream: nothing is reconstructed, and what was sent is deleted after some time."""
        if self._task is not None:
            self._task.cancel()
        self._abandoned = True

    async def _change(self) -> None:
        """Wait until something has changed since the last call."""
        if self._error is not None:
            raise self._error
        self._changed.clear()
        await self._changed.wait()
        if self._error is not None:
            raise self._error

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        last, wait = loop.time(), 0.25
        while self.job is None:
            try:
                # Deflating counts costs more processor time than the rest of the way to the disk.
                options: dict[str, Any] = {"additional_headers": self.headers, "max_size": 2**26, "compression": None}
                async with connect(self.url, **options) as socket:
                    self.connections, self.socket = self.connections + 1, socket
                    await self._talk(socket)
                    last, wait = loop.time(), 0.25
            except StreamError as error:
                if error.document.get("status") in (409, 503) and loop.time() - last < self.patience_s:
                    await asyncio.sleep(wait)
                    wait = min(2 * wait, 5.0)
                    continue
                self._fail(error)
                return
            except (ConnectionClosed, OSError, InvalidStatus, TimeoutError) as error:
                permanent = isinstance(error, InvalidStatus) and 400 <= error.response.status_code < 500
                if permanent or loop.time() - last > self.patience_s:
                    self._fail(StreamError({"detail": f"no connection: {error}"}))
                    return
                await asyncio.sleep(wait)
                wait = min(2 * wait, 5.0)

    def _fail(self, error: BaseException) -> None:
        self._error = error
        self._changed.set()

    async def _talk(self, socket: ClientConnection) -> None:
        first = self.start if self.stream_id is None else {"type": "resume", "stream_id": self.stream_id}
        await socket.send(json.dumps(first))
        ready = self._read(await socket.recv())
        if ready.get("type") == "ready":
            self.stream_id, self.window = ready["stream_id"], ready["window"]
            self._acknowledge(ready["next"])
            self._sent = self.acknowledged
            self._changed.set()
        sender = asyncio.create_task(self._send(socket))
        try:
            while self.job is None:
                message = await socket.recv()
                if isinstance(message, bytes):
                    if self.on_preview is not None:
                        self.on_preview(Preview.unpack(message))
                    await socket.send('{"type": "seen"}')
                else:
                    self._read(message)
        finally:
            sender.cancel()

    async def _send(self, socket: ClientConnection) -> None:
        while True:
            for first, positions, frames in list(self._waiting):
                done = self._sent - first  # more than 0 where a connection broke in the middle of a message
                if 0 <= done < len(frames):
                    header = HEADER.pack(MAGIC, len(frames) - done, self._sent)
                    await socket.send(header + positions[done:].tobytes() + frames[done:].tobytes())
                    self._sent += len(frames) - done
            if self.full is not None:
                return
            if self._ending and self._sent == self.pushed:
                await socket.send('{"type": "end"}')
                return
            self._changed.clear()
            if self._sent == self.pushed and not self._ending:
                await self._changed.wait()

    def _read(self, message: str | bytes) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(message)
        kind = document.get("type")
        if kind == "ack":
            self._acknowledge(document["next"])
        elif kind == "full":
            self.full = document["problem"]
        elif kind == "no-preview":
            self.no_preview = document["problem"]
        elif kind == "done":
            self.job = document["job"]
        elif kind == "problem":
            raise StreamError(document["problem"])
        self._changed.set()
        return document

    def _acknowledge(self, number: int) -> None:
        self.acknowledged = number
        while self._waiting and self._waiting[0][0] + len(self._waiting[0][1]) <= number:
            self._waiting.popleft()


class Stream:
    """The same for synchronous programs: an asyncio loop in a separate thread handles the connection."""

    def __init__(self, make: Callable[[], AsyncStream]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ptycho-ray-stream", daemon=True)
        self._make = make
        self._inner: AsyncStream | None = None

    def __enter__(self) -> Stream:
        self._thread.start()

        async def enter() -> AsyncStream:
            return await self._make().__aenter__()

        try:
            self._inner = self._run(enter())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self._run(self.inner.__aexit__(kind, *rest))
        finally:
            self._stop()

    @property
    def inner(self) -> AsyncStream:
        """The stream itself."""
        assert self._inner is not None
        return self._inner

    @property
    def job(self) -> dict[str, Any] | None:
        """The finished job, after ``finish`` or the end of the block."""
        return self.inner.job

    def push(self, positions: ArrayLike, frames: ArrayLike) -> None:
        """Send patterns [n, N, N] at positions [n, 2] (row, column; object pixels); waits if too many are in flight."""
        self._run(self.inner.push(positions, frames))

    def finish(self) -> dict[str, Any]:
        """End the scan and wait for its final reconstruction; returns the job."""
        return self._run(self.inner.finish())

    def abandon(self) -> None:
        """Abandon the stream: nothing is reconstructed, and what was sent is deleted after some time."""
        self._loop.call_soon_threadsafe(self.inner.abandon)

    def _run(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result()

    def _stop(self) -> None:
        async def settle() -> None:
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

        self._run(settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
