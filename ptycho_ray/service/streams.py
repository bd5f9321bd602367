"""Live streams: patterns are received as they are measured, and live images are sent back. ``docs/serve.md`` has the
messages."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import struct
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Literal

import numpy as np
from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path
from ptycho_ray.service.dispatch import ReplicaLost
from ptycho_ray.service.engine import Options
from ptycho_ray.service.guard import SUBPROTOCOL
from ptycho_ray.service.job_results import FORMATS, pack_image
from ptycho_ray.service.jobs import AUTOMATIC, new_id
from ptycho_ray.service.live_image import LiveImage
from ptycho_ray.service.models import Checked, Model
from ptycho_ray.service.problems import Problem, from_error
from ptycho_ray.service.schemas import SOLVER, Reconstruction, problems
from ptycho_ray.service.service import Service
from ptycho_ray.service.spool import SETTINGS_FILE, Spool, StreamSettings
from ptycho_ray.service.tokens import Token
from ptycho_ray.service.uploads import choices_from, invalid_fields
from ptycho_ray.service.without_model import check_choices

log = logging.getLogger(__name__)

MAGIC = b"PTYF"
HEADER = struct.Struct("<4sIQ")  # magic, number of patterns, number of the first
#: Bytes that a sender may have on the way before it waits for an acknowledgement.
WINDOW_BYTES = 16 * 2**20
IDLE_S = 900.0
#: Patterns that wait for the live image; with more it skips some, so that it stays live.
BACKLOG = 256
#: Patterns that are predicted together for the live image: so many as take this time, between these numbers.
TURN_S = 0.4
LEAST_AT_ONCE, AT_ONCE = 8, 64
#: The scales of a scan, and without one of its sender its probe, are measured on so many of its first patterns.
TELLING = (4, 16, 64, 256)
#: Pictures on the way to a receiver that has not said that it saw them.
MOST_UNSEEN = 2
PAUSE_S, LONGEST_PAUSE_S = 0.02, 5.0
PREVIEW = "preview.raw"
RECENT_S = 300.0


class Probe(BaseModel):
    """The modes of a probe: complex64, little-endian, in base64."""

    shape: tuple[int, int, int]
    data: str = Field(max_length=2**24)

    model_config = ConfigDict(extra="forbid")


class Start(BaseModel):
    """The first message of a new stream.

    ``model`` reconstructs the scan at the end; without one that is done automatically, with ``choices`` as a request has them.
    ``preview_model`` draws the live image; by default ``model``, or the first that takes patterns of this side.
    """

    type: Literal["start"]
    model: str | None = Field(None, max_length=210)
    preview_model: str | None = Field(None, max_length=210)
    choices: dict[str, Any] = Field(default_factory=dict)
    probe: Probe | None = None
    N: int = Field(ge=8, le=8192)
    dtype: Literal["float32", "uint8", "uint16", "uint32", "int32"] = "float32"
    domain: Literal["amplitude", "intensity"] = "intensity"
    counts_are_photons: bool | None = None
    pixel_size_m: float | None = Field(None, gt=0)
    energy_eV: float | None = Field(None, gt=0)
    detector_distance_m: float | None = Field(None, gt=0)
    electrons: bool = False
    preview_interval_s: float = Field(0.5, ge=0.05, le=3600)

    model_config = ConfigDict(extra="forbid")


class Resume(BaseModel):
    """The first message after a broken connection."""

    type: Literal["resume"]
    stream_id: str = Field(pattern="^[0-9a-f]{32}$")
    preview_interval_s: float = Field(0.5, ge=0.05, le=3600)

    model_config = ConfigDict(extra="forbid")


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


def _write_preview(folder: Path, packed: bytes) -> None:
    with atomic_path(folder / PREVIEW) as temporary:
        temporary.write_bytes(packed)


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


def _takes(checked: Checked, side: int) -> bool:
    """Whether a model takes patterns of this side: its own, or if its network sees the probe all that its layers divide."""
    if checked.side == side:
        return True
    config = (checked.manifest or {}).get("config", {}).get("model", {})
    return config.get("probe_conditioning", "none") != "none" and side >= 32 and side % 8 == 0


def _probe(sent: Probe, side: int) -> np.ndarray:
    try:
        probe = np.frombuffer(base64.b64decode(sent.data, validate=True), "<c8").reshape(sent.shape)
        if probe.shape[1:] != (side, side) or not np.isfinite(probe).all() or not probe.any():
            raise ValueError("no probe of this side")
    except ValueError:
        more = {"field": "probe", "found": list(sent.shape), "expected": f"complex64 [modes, {side}, {side}] in base64"}
        raise Problem(422, "invalid", "The probe does not fit the patterns.", more) from None
    return probe.astype(np.complex64)


def _telling(count: int) -> int:
    """How many patterns tell the physics of a scan of which ``count`` have come; it changes seldom, since it takes time."""
    return max((number for number in TELLING if number <= count), default=count)


def _tell_log(preview: asyncio.Task[None]) -> None:
    if not preview.cancelled() and (error := preview.exception()) is not None:
        log.error("a stream goes on without its live image", exc_info=error)


class _Session:
    """One connection of one stream."""

    def __init__(self, service: Service, socket: WebSocket, caller: Token) -> None:
        self.service, self.socket, self.caller = service, socket, caller
        self.interval = 0.5
        self.predicted = self.unseen = 0
        self.told = False
        self.pattern_s = TURN_S / LEAST_AT_ONCE  # of the live image, as measured last
        self.news = asyncio.Event()

    async def run(self) -> None:
        """From the first message to the end of the stream or of the connection."""
        spool = await self._begin()
        if spool is None:
            return
        preview = asyncio.create_task(self._show(spool))
        preview.add_done_callback(_tell_log)
        try:
            await self._take(spool)
        except WebSocketDisconnect:
            raise
        else:
            preview.cancel()
            await self._finish(spool)
        finally:
            preview.cancel()
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
        side, most = start.N, settings.max_N
        if side > most:
            more = {"field": "N", "found": side, "expected": f"at most {most}"}
            raise Problem(422, "invalid", f"Patterns of a side up to {most} are accepted.", more)
        choices = choices_from(start.choices | ({} if start.model is None else {"model": start.model}))
        check_choices(choices, with_model=choices.model is not None)
        model, preview = await asyncio.to_thread(self._models, choices.model, start.preview_model, side)
        options = {name: getattr(choices, name) for name in Options.__dataclass_fields__ if name != SOLVER}
        self.interval = start.preview_interval_s
        details = start.model_dump(exclude={"type", "model", "preview_model", "preview_interval_s", "choices", "probe"})
        chosen = StreamSettings(
            owner=self.caller.name,
            model=AUTOMATIC if model is None else model.key,
            preview_model="" if preview is None else preview.key,
            options=options | {SOLVER: choices.solver()},
            **details,
        )
        probe = None if start.probe is None else _probe(start.probe, side)
        stream_id = new_id()
        spool = await asyncio.to_thread(Spool.create, settings.job_folder(stream_id), chosen, probe)
        await self._greet(stream_id, spool)
        return spool

    def _models(self, named: str | None, preview: str | None, side: int) -> tuple[Model | None, Model | None]:
        """The model of the whole scan, and that of the live image; Problem 422 for one that takes no patterns of this side."""
        store = self.service.models
        chosen = [None if name is None else store.choose(name) for name in (named, preview)]
        for model in chosen:
            if model is not None and not _takes(store.check(model), side):
                expected = store.check(model).side
                more = {"field": "N", "found": side, "expected": expected}
                raise Problem(422, "invalid", f"Model {model.name} takes patterns of side {expected}.", more)
        whole, live = chosen
        fitting = (model for model in store.usable() if _takes(store.check(model), side))
        return whole, live or whole or next(fitting, None)

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

    async def _take(self, spool: Spool) -> None:
        """Store patterns until the sender ends the stream."""
        self.news.set()
        while True:
            message = await asyncio.wait_for(self.socket.receive(), IDLE_S)
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1006))
            if (content := message.get("bytes")) is not None:
                await self._take_frames(spool, content)
            elif self._is_end(message.get("text") or ""):
                return
            else:
                self.unseen = 0

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
        if total > settings.max_patterns or total * spool.frame_bytes > settings.max_body_bytes:
            raise Problem(413, "too-large", "The stream has become too long.", {"field": "first", "found": total})
        positions = np.frombuffer(content, "<f8", 2 * count, HEADER.size).reshape(-1, 2)
        dtype = np.dtype(spool.settings.dtype).newbyteorder("<")
        frames = np.frombuffer(content, dtype, count * n * n, HEADER.size + 16 * count).reshape(-1, n, n)
        if not np.isfinite(positions).all() or np.abs(positions).max() > 1e7:
            raise Problem(422, "invalid", "A position is not a number of pixels.", {"field": "positions"})
        if dtype.kind == "f" and not np.isfinite(frames).all():
            raise Problem(422, "invalid", "A pattern is not finite.", {"field": "patterns", "found": f"in {first} ff."})
        await asyncio.to_thread(spool.append, positions, frames)
        self.service.metrics.frames.inc(count)
        self.news.set()
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

    async def _show(self, spool: Spool) -> None:
        """Predict new patterns and send the image: at most as often as requested, and not before the last one was
        acknowledged. A failure is told once and costs some images: the next patterns are tried again."""
        if not spool.settings.preview_model:
            return
        await self._failing(self._prepare(spool))
        image = LiveImage(spool.settings.N, self.service.settings.max_canvas_pixels)
        loop, next_time, sent, pause = asyncio.get_running_loop(), 0.0, 0, PAUSE_S
        while True:
            if self.predicted < spool.count:
                failed = await self._failing(self._predict(spool, image))
                pause = min(2 * pause, LONGEST_PAUSE_S) if failed else PAUSE_S
                if failed:
                    await asyncio.sleep(pause)
                    continue
            elif sent == self.predicted:
                await self.news.wait()
                self.news.clear()
                continue
            else:
                await asyncio.sleep(PAUSE_S)
            if loop.time() >= next_time and self.unseen < MOST_UNSEEN and sent < self.predicted:
                next_time, sent = loop.time() + self.interval, self.predicted
                self.unseen += 1
                picture, origin, step = await asyncio.to_thread(image.picture)
                header = {
                    "type": "preview",
                    "patterns": image.patterns,
                    "next": sent,
                    "origin_px": origin,
                    "step": step,
                    "pixel_size_m": spool.settings.pixel_size_m,
                }
                packed = pack_image(header, picture)
                await asyncio.to_thread(_write_preview, spool.folder, packed)
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
                await self.socket.send_json({"type": "no-preview", "problem": from_error(error).document()})
            return True
        return False

    async def _prepare(self, spool: Spool) -> None:
        nothing = np.zeros((0, 0, 0), np.float32)
        place, settings = np.zeros((0, 2)), spool.settings
        await self.service.replicas.predict(
            settings.preview_model, spool.folder.name, 0, nothing, place, settings.domain
        )

    async def _predict(self, spool: Spool, image: LiveImage) -> None:
        first, last = self.predicted, spool.count
        at_once = int(min(AT_ONCE, max(LEAST_AT_ONCE, TURN_S / self.pattern_s)))
        stop = last if last - first > max(BACKLOG, 4 * at_once) else min(last, first + at_once)
        numbers = np.unique(np.linspace(first, stop - 1, min(at_once, stop - first)).astype(np.int64))
        positions, frames = await asyncio.to_thread(spool.read, numbers)
        begun = time.perf_counter()
        settings, telling = spool.settings, _telling(last)
        predicted = await self.service.replicas.predict(
            settings.preview_model, spool.folder.name, telling, frames, positions, settings.domain
        )
        await asyncio.to_thread(image.add, *predicted)
        self.pattern_s = (time.perf_counter() - begun) / len(numbers)
        self.predicted = stop

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
