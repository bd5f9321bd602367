"""Live streams: patterns are received as they are measured, and live images are sent back. ``docs/serve.md`` has the
messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import struct
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, Response
from pydantic import ValidationError

from ptycho_ray.errors import InputError
from ptycho_ray.service.guard import SUBPROTOCOL
from ptycho_ray.service.job_results import FORMATS
from ptycho_ray.service.jobs import new_id
from ptycho_ray.service.live_preview import PREVIEW, LivePreview
from ptycho_ray.service.problems import Problem, from_error, storage_full
from ptycho_ray.service.schemas import Reconstruction, problems
from ptycho_ray.service.service import Service
from ptycho_ray.service.spool import SETTINGS_FILE, Spool, StreamSettings
from ptycho_ray.service.stream_start import Resume, Start, settings_of
from ptycho_ray.service.tokens import Token
from ptycho_ray.service.uploads import invalid_fields

log = logging.getLogger(__name__)

MAGIC = b"PTYF"
HEADER = struct.Struct("<4sIQ")  # magic, number of patterns, number of the first
#: Bytes that a sender may have on the way before it waits for an acknowledgement.
WINDOW_BYTES = 16 * 2**20
IDLE_S = 900.0
RECENT_S = 300.0


def add_streams(app: FastAPI) -> None:
    """Add the websocket to the interface."""

    @app.websocket("/v1/streams")
    async def stream(socket: WebSocket) -> None:
        service: Service = socket.app.state.service
        caller: Token | None = socket.state.caller
        if caller is None or not caller.may("submit"):
            raise Problem(403, "forbidden", "This needs the role 'submit'.", {"field": "Authorization"})
        await socket.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in socket.scope.get("subprotocols", []) else None)
        try:
            async with _place(service):
                await _Session(service, socket, caller).run()
        except WebSocketDisconnect:
            pass
        except Exception as error:
            if not isinstance(error, Problem | InputError):
                log.exception("a stream failed")
            await _end(socket, from_error(error))

    @app.get("/v1/streams", tags=["streams"], responses=problems())
    async def list_streams(request: Request) -> list[dict[str, Any]]:
        """Streams of this token's name that are open or were open some minutes ago; of all users for an admin."""
        service: Service = request.app.state.service
        return await asyncio.to_thread(_open_streams, service, _reader(request.state.caller))

    @app.get(
        "/v1/streams/{id}/preview",
        tags=["streams"],
        response_class=Response,
        responses={200: {"content": {FORMATS["raw"][1]: {}}}, **problems(404, 422)},
    )
    async def preview(request: Request, id: str) -> Response:
        """The last live image, as it is sent to the sender of the stream."""
        service: Service = request.app.state.service
        known = [one["id"] for one in await asyncio.to_thread(_open_streams, service, _reader(request.state.caller))]
        path = service.settings.job_folder(id) / PREVIEW
        if id not in known or not path.is_file():
            raise Problem(404, "not-found", "There is no live image.", {"field": "id"})
        return FileResponse(path, media_type=FORMATS["raw"][1])


def _reader(caller: Token | None) -> Token:
    if caller is None:
        raise Problem(401, "unauthorized", "Send 'Authorization: Bearer TOKEN'.", {"field": "Authorization"})
    return caller


def _open_streams(service: Service, caller: Token) -> list[dict[str, Any]]:
    found = []
    for path in (service.settings.data_dir / "jobs").glob(f"*/{SETTINGS_FILE}"):
        with contextlib.suppress(OSError, ValueError, TypeError):  # it may end, or be deleted, meanwhile
            changed = max(file.stat().st_mtime for file in path.parent.iterdir())
            settings = StreamSettings(**json.loads(path.read_text()))
            if (settings.owner == caller.name or caller.may("admin")) and time.time() - changed < RECENT_S:
                size = (path.parent / "positions").stat().st_size
                model = settings.model.rpartition("@")[0]
                found.append({"id": path.parent.name, "model": model, "patterns": size // 16, "changed": changed})
    return sorted(found, key=lambda one: one["changed"], reverse=True)


@contextlib.asynccontextmanager
async def _place(service: Service) -> AsyncIterator[None]:
    if service.open_streams >= service.settings.max_streams:
        raise Problem(503, "busy", f"{service.settings.max_streams} streams are open.", retry_after_s=10)
    service.open_streams += 1
    try:
        yield
    finally:
        service.open_streams -= 1


async def _end(socket: WebSocket, problem: Problem) -> None:
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await socket.send_json({"type": "problem", "problem": problem.document()})
        await socket.close(1008 if problem.status < 500 else 1011, problem.detail[:120])


class _Session:
    """One connection of one stream."""

    def __init__(self, service: Service, socket: WebSocket, caller: Token) -> None:
        self.service, self.socket, self.caller = service, socket, caller
        self.interval = 0.5

    async def run(self) -> None:
        """From the first message to the end of the stream or of the connection."""
        spool = await self._begin()
        if spool is None:
            return
        preview = LivePreview(self.service, self.socket, spool, self.interval)
        showing = asyncio.create_task(preview.show())
        try:
            await self._take(spool, preview)
            showing.cancel()
            await self._finish(spool)
        finally:
            showing.cancel()
            spool.close()

    async def _begin(self) -> Spool | None:
        """The spool of a new or an old stream; None if that stream had ended already."""
        settings = self.service.settings
        message = await asyncio.wait_for(self.socket.receive_text(), settings.body_timeout_s)
        try:
            kind = json.loads(message).get("type")
            if kind == "resume":
                resume = Resume.model_validate_json(message)
                return await self._resume(resume)
            start = Start.model_validate_json(message)
        except ValidationError as error:
            raise invalid_fields(error.errors(include_url=False)) from None
        except (json.JSONDecodeError, AttributeError):
            raise Problem(400, "bad-request", "The first message is a JSON object.", {"field": "type"}) from None
        self.service.check_space()
        limits = (
            settings.max_jobs,
            settings.max_jobs_per_token,
        )  # what is refused at the end is refused before a frame is sent
        await asyncio.to_thread(self.service.jobs.check_capacity, self.caller.name, *limits)
        self.interval = start.preview_interval_s
        chosen, probe = await asyncio.to_thread(settings_of, start, self.service, self.caller.name)
        stream_id = new_id()
        spool = await asyncio.to_thread(Spool.create, settings.job_folder(stream_id), chosen, probe)
        await self._greet(stream_id, spool)
        return spool

    async def _resume(self, resume: Resume) -> Spool | None:
        self.interval = resume.preview_interval_s
        with contextlib.suppress(Problem):
            job = await asyncio.to_thread(self.service.jobs.get, resume.stream_id)
            if job.owner == self.caller.name:
                await self._follow(job.id)
                return None
        folder = self.service.settings.job_folder(resume.stream_id)
        spool = await asyncio.to_thread(Spool.open, folder, self.caller.name)
        await self._greet(resume.stream_id, spool)
        return spool

    async def _greet(self, stream_id: str, spool: Spool) -> None:
        window = max(1, WINDOW_BYTES // spool.frame_bytes)
        await self.socket.send_json({"type": "ready", "stream_id": stream_id, "next": spool.count, "window": window})

    async def _take(self, spool: Spool, preview: LivePreview) -> None:
        """Store patterns until the sender ends the stream."""
        preview.news.set()
        while True:
            message = await asyncio.wait_for(self.socket.receive(), IDLE_S)
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1006))
            if (content := message.get("bytes")) is not None:
                try:
                    await self._take_frames(spool, content)
                except Problem as problem:
                    if problem.status != 413 or spool.count < 2:
                        raise
                    await self.socket.send_json({"type": "full", "problem": problem.document()})
                    return  # what is stored is reconstructed
                preview.news.set()
            elif self._is_end(message.get("text") or ""):
                return
            else:
                preview.unseen = 0

    async def _take_frames(self, spool: Spool, content: bytes) -> None:
        settings, n = self.service.settings, spool.settings.N
        if len(content) < HEADER.size or content[:4] != MAGIC:
            raise Problem(400, "bad-request", "A binary message begins with PTYF.", {"field": "message"})
        _, count, first = HEADER.unpack_from(content)
        expected = HEADER.size + count * (16 + spool.frame_bytes)
        if count == 0 or len(content) != expected:
            more = {"field": "message", "found": f"{len(content)} bytes", "expected": f"{expected} bytes"}
            raise Problem(400, "bad-request", f"{count} patterns have another size.", more)
        if first != spool.count:
            order: dict[str, Any] = {"field": "first", "found": first, "expected": spool.count}
            raise Problem(409, "conflict", "Patterns come in order, each once.", order)
        total = first + count
        if total > settings.max_patterns or total * spool.frame_bytes > settings.max_stream_bytes:
            more = {"field": "first", "found": total, "expected": f"at most {settings.max_patterns} patterns, "}
            more["expected"] += f"{settings.max_stream_bytes / 2**20:.4g} MiB"
            raise Problem(413, "too-large", "The stream has become too long.", more)
        if shutil.disk_usage(spool.folder).free < settings.min_free_bytes:
            raise storage_full()
        positions = np.frombuffer(content, "<f8", 2 * count, HEADER.size).reshape(-1, 2)
        dtype = np.dtype(spool.settings.dtype).newbyteorder("<")
        frames = np.frombuffer(content, dtype, count * n * n, HEADER.size + 16 * count).reshape(-1, n, n)
        if not np.isfinite(positions).all() or np.abs(positions).max() > 1e7:
            raise Problem(422, "invalid", "A position is not a number of pixels.", {"field": "positions"})
        if dtype.kind == "f" and not np.isfinite(frames).all():
            raise Problem(422, "invalid", "A pattern is not finite.", {"field": "patterns", "found": f"in {first} ff."})
        await asyncio.to_thread(spool.append, positions, frames)
        self.service.metrics.frames.inc(count)
        await self.socket.send_json({"type": "ack", "next": spool.count})

    def _is_end(self, text: str) -> bool:
        """Whether a text message says "end" and not "seen"; Problem if it says anything else."""
        try:
            kind = json.loads(text)["type"]
        except (json.JSONDecodeError, KeyError, TypeError):
            kind = None
        if kind not in ("end", "seen"):
            more = {"field": "type", "found": text[:50], "expected": "a binary message, or the type 'seen' or 'end'"}
            raise Problem(400, "bad-request", "Unknown message.", more)
        return bool(kind == "end")

    async def _finish(self, spool: Spool) -> None:
        """Submit the complete scan as a job, and report its progress."""
        settings, job_id = self.service.settings, spool.folder.name
        if spool.count < 2:
            raise Problem(
                422, "invalid", "A scan has at least two patterns.", {"field": "patterns", "found": spool.count}
            )
        path = await asyncio.to_thread(spool.as_scan)
        job, _ = await asyncio.to_thread(
            lambda: self.service.jobs.create(
                owner=self.caller.name,
                model=spool.settings.model,
                options=spool.settings.options,
                source=str(path),
                source_name="stream",
                deadline_s=settings.max_deadline_s,
                max_jobs=settings.max_jobs,
                max_jobs_of_owner=settings.max_jobs_per_token,
                job_id=job_id,
            )
        )
        spool.drop_frames()
        self.service.dispatcher.dispatch(job.id, job.model)
        await self._follow(job.id)

    async def _follow(self, job_id: str) -> None:
        """Send the state of the job until it has ended, then close."""
        base = self.socket.scope.get("root_path", "")
        while True:
            job = await self.service.dispatcher.ended(job_id, 0.5)
            document = Reconstruction.of(job, base).model_dump(mode="json", exclude_none=True)
            await self.socket.send_json({"type": "progress" if job.active else "done", "job": document})
            if not job.active:
                await self.socket.close()
                return
