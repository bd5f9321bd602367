"""Requests to the service, synchronous and for asyncio.

Both clients share generators that yield requests and pauses, and differ only in how these are carried out.
"""

from __future__ import annotations

import asyncio
import base64
import io
import random
import time
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import numpy as np

from ptycho_ray.client.streams import AsyncStream, Preview, Stream
from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path, require_file

T = TypeVar("T")
#: Told of every new state of a job, as the service describes it.
OnProgress = Callable[[dict[str, Any]], None]

BLOCK = 2**20
POLL_S = 20.0
AGAIN = (429, 502, 503, 504)
#: What helps where no service answers.
HOW_TO_REACH = "'ptycho-ray serve' starts a service on this machine, --url HTTP://HOST:PORT names another"


class ServiceError(RuntimeError):
    """The service answered with a problem. ``document`` is the problem (RFC 9457), ``status`` its HTTP status."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document, self.status = document, int(document.get("status", 0))
        hint = f". {document['hint']}" if document.get("hint") else ""
        super().__init__(f"{document.get('detail') or document.get('title')}{hint}")


@dataclass(frozen=True)
class Image:
    """A finished reconstruction: its job and the content of its file."""

    job_id: str
    content: bytes

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of a result in NPZ format: object, weight, origin_px, probe, ..."""
        with np.load(io.BytesIO(self.content), allow_pickle=False) as result:
            return {name: result[name] for name in result.files}

    def save(self, path: str | Path) -> Path:
        """Write the file atomically."""
        with atomic_path(path) as temporary:
            temporary.write_bytes(self.content)
        return Path(path)


@dataclass(frozen=True)
class _Ask:
    """A request to be made. A file is streamed from disk."""

    method: str
    path: str
    params: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    file: Path | None = None
    json: Any = None


@dataclass(frozen=True)
class _Pause:
    seconds: float


_Steps = Generator[_Ask | _Pause, Any, T]


class _Plan:
    """The logic of both clients, as generators of steps. A lost connection is sent in as None."""

    def __init__(self, url: str, token: str | None, timeout_s: float, patience_s: float) -> None:
        self.url, self.patience_s = url.rstrip("/"), patience_s
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.timeout = httpx.Timeout(timeout_s, read=max(timeout_s, 2 * POLL_S))

    def ask(self, ask: _Ask) -> _Steps[httpx.Response]:
        """Repeat a request until there is a final answer, for at most ``patience_s``."""
        until, wait = time.monotonic() + self.patience_s, 0.25
        while True:
            answer: httpx.Response | None = yield ask
            status = 0 if answer is None else answer.status_code
            # A proxy whose replica died answers 500 in plain text; the service itself explains its errors.
            explained = answer is not None and "problem+json" in answer.headers.get("content-type", "")
            # A proxy that has just been restarted knows no route yet, and says so with 404.
            unrouted = status == 404 and not explained and answer is not None and "/-/routes" in answer.text
            lost = answer is None or status in AGAIN or unrouted or (status >= 500 and not explained)
            if not lost and answer is not None:
                if status >= 400:
                    raise ServiceError(answer.json() if explained else {"status": status, "detail": answer.text[:200]})
                return answer
            named = "" if answer is None else answer.headers.get("retry-after", "")
            pause = float(named) if named.isdigit() else wait * random.uniform(0.5, 1.5)
            if time.monotonic() + pause > until:
                if answer is None:
                    raise ServiceError({"status": 0, "detail": f"{self.url} cannot be reached", "hint": HOW_TO_REACH})
                raise ServiceError(answer.json() if explained else {"status": status, "detail": answer.text[:200]})
            yield _Pause(pause)
            wait = min(2 * wait, 5.0)

    def stream(self, n: int, on_preview: Callable[[Preview], None] | None, start: dict[str, Any]) -> AsyncStream:
        """A stream that begins with ``start``."""
        first = {"type": "start", "N": n} | {name: value for name, value in start.items() if value is not None}
        if "probe" in first:
            probe = np.ascontiguousarray(first["probe"], dtype="<c8").reshape(-1, n, n)
            first["probe"] = {"shape": probe.shape, "data": base64.b64encode(probe.tobytes()).decode()}
        return AsyncStream(self.url, self.headers, first, on_preview, self.patience_s)

    def get(self, path: str, **params: Any) -> _Steps[Any]:
        """A JSON document."""
        answer = yield from self.ask(_Ask("GET", path, params))
        return answer.json()

    def submit(
        self, scan: str | Path | None, reference: dict[str, Any], wait: bool, choices: dict[str, Any]
    ) -> _Steps[httpx.Response]:
        """Send a scan, or refer to one that the service can read or has."""
        headers = {"Idempotency-Key": uuid.uuid4().hex} | {"Prefer": f"wait={POLL_S:.0f}" if wait else "respond-async"}
        params = {name: value for name, value in choices.items() if value is not None and name != "refinement"}
        for name, value in (choices.get("refinement") or {}).items():
            params[f"refinement.{name}"] = "none" if value is None else value
        reference = {name: value for name, value in reference.items() if value}
        if reference if scan is not None else len(reference.keys() - {"refined"}) != 1:
            raise InputError(field="scan", found="none or several", expected="exactly one of scan, path, demo and job")
        if scan is None:
            if "again" in reference and "model" in choices:
                reference["model"] = choices["model"]  # None is a change, too
            return (yield from self.ask(_Ask("POST", "/v1/reconstructions", params, headers, json=reference)))
        file = require_file(scan)
        name = file.name.encode("ascii", "replace").decode()
        headers |= {"Content-Type": "application/octet-stream", "X-File-Name": name}
        headers |= {"Content-Length": str(file.stat().st_size)}
        return (yield from self.ask(_Ask("POST", "/v1/reconstructions", params, headers, file)))

    def wait(self, job_id: str, on_progress: OnProgress | None) -> _Steps[dict[str, Any]]:
        """Wait for the end of a job."""
        while True:
            job = yield from self.get(f"/v1/reconstructions/{job_id}", wait_s=0.5 if on_progress else POLL_S)
            if on_progress is not None:
                on_progress(job)
            if job["state"] not in ("queued", "running"):
                if job["state"] != "done":
                    raise ServiceError(job.get("problem") or {"status": 409, "detail": f"the job was {job['state']}"})
                return job

    def result(self, job_id: str, output: str) -> _Steps[Image]:
        """The file of a finished job."""
        answer = yield from self.ask(_Ask("GET", f"/v1/reconstructions/{job_id}/result", {"output": output}))
        return Image(job_id, answer.content)

    def submitted(
        self, scan: str | Path | None, reference: dict[str, Any], choices: dict[str, Any]
    ) -> _Steps[dict[str, Any]]:
        """The job of a scan, without waiting for it."""
        answer = yield from self.submit(scan, reference, False, choices)
        document: dict[str, Any] = answer.json()
        return document

    def reconstruct(
        self,
        scan: str | Path | None,
        reference: dict[str, Any],
        output: str,
        on_progress: OnProgress | None,
        choices: dict[str, Any],
    ) -> _Steps[Image]:
        """Submit, wait, fetch; a single request if the service answers at once and progress is not watched."""
        answer = yield from self.submit(scan, reference, on_progress is None, choices | {"output": output})
        if answer.status_code == 200 and "X-Reconstruction" in answer.headers:
            return Image(answer.headers["X-Reconstruction"], answer.content)
        job_id = answer.json()["id"]
        yield from self.wait(job_id, on_progress)
        return (yield from self.result(job_id, output))


class Client:
    """The service, for synchronous programs.

    Args:
        url: its address, for instance ``http://127.0.0.1:8000``.
        token: bearer token, if it requires one.
        timeout_s: longest silence of a connection.
        patience_s: how long a request is retried before ServiceError.
    """

    def __init__(
        self, url: str, token: str | None = None, *, timeout_s: float = 60.0, patience_s: float = 60.0
    ) -> None:
        self._plan = _Plan(url, token, timeout_s, patience_s)
        self._http = httpx.Client(base_url=self._plan.url, headers=self._plan.headers, timeout=self._plan.timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> list[dict[str, Any]]:
        """Every version of every model."""
        return self._do(self._plan.get("/v1/models"))

    def estimate(self, *, patterns: int, side: int, model: str | None = None) -> dict[str, Any]:
        """What a scan of so many patterns of this side is likely to cost: cpu_s, gpu_s, bytes, and from how many jobs."""
        params = {"patterns": patterns, "side": side} | ({} if model is None else {"model": model})
        return self._do(self._plan.get("/v1/estimate", **params))

    def model(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Description of a model: architecture, training, metrics."""
        params = {} if version is None else {"version": version}
        return self._do(self._plan.get(f"/v1/models/{name}", **params))

    def reconstruct(
        self,
        scan: str | Path | None = None,
        *,
        path: str | None = None,
        demo: str | None = None,
        job: str | None = None,
        refined: bool = False,
        output: str = "npz",
        on_progress: OnProgress | None = None,
        **choices: Any,
    ) -> Image:
        """The image of a scan: a file that is sent, a path that the service can read, a demo, or the scan of an earlier job.

        Args:
            refined: of an earlier job without a model: begin with the probe and the positions that it found.
            output: "npz", "hdf5" (Ptychodus), "png" or "raw".
            choices: model, stitch, n_subsample, evaluate, ...: the fields of the interface. Without a model the scan is
                reconstructed automatically; ``refinement={"probe_modes": 2}`` are settings of the solver that are given.

        Raises:
            ServiceError: the service refused, failed, or could not be reached for ``patience_s``.
            MissingFileError: the file to send does not exist.
        """
        return self._do(
            self._plan.reconstruct(scan, _reference(path, demo, job, refined), output, on_progress, choices)
        )

    def submit(
        self,
        scan: str | Path | None = None,
        *,
        path: str | None = None,
        demo: str | None = None,
        job: str | None = None,
        refined: bool = False,
        **choices: Any,
    ) -> dict[str, Any]:
        """Submit a scan and return its job without waiting."""
        return self._do(self._plan.submitted(scan, _reference(path, demo, job, refined), choices))

    def again(self, job_id: str, *, refined: bool = False, **changes: Any) -> dict[str, Any]:
        """Submit the scan of an earlier job once more, with its settings but for these changes, and return the new job.

        Args:
            refined: begin with the probe and the positions that it found, if it had no model.
            changes: the fields of the interface; ``model=None`` is the automatic way.
        """
        return self._do(self._plan.submitted(None, {"again": job_id, "refined": refined}, changes))

    def job(self, job_id: str) -> dict[str, Any]:
        """State, progress and links of a job."""
        return self._do(self._plan.get(f"/v1/reconstructions/{job_id}"))

    def wait(self, job_id: str, on_progress: OnProgress | None = None) -> dict[str, Any]:
        """The job once it is done; ServiceError if it failed or was cancelled."""
        return self._do(self._plan.wait(job_id, on_progress))

    def result(self, job_id: str, output: str = "npz") -> Image:
        """The file of a finished job."""
        return self._do(self._plan.result(job_id, output))

    def cancel(self, job_id: str) -> None:
        """Cancel a job, or delete the files of one that has ended."""
        self._do(self._plan.ask(_Ask("DELETE", f"/v1/reconstructions/{job_id}")))

    def stream(self, *, N: int, on_preview: Callable[[Preview], None] | None = None, **start: Any) -> Stream:
        """A stream of patterns of side N; see ``AsyncClient.stream``."""
        return Stream(lambda: self._plan.stream(N, on_preview, start))

    def _do(self, steps: _Steps[T]) -> T:
        answer: httpx.Response | None = None
        try:
            step = next(steps)
            while True:
                if isinstance(step, _Pause):
                    time.sleep(step.seconds)
                else:
                    content = None if step.file is None else _pieces(step.file)
                    try:
                        answer = self._http.request(
                            step.method,
                            step.path,
                            params=step.params,
                            headers=step.headers,
                            content=content,
                            json=step.json,
                        )
                    except httpx.TransportError:
                        answer = None
                step = steps.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value


class AsyncClient:
    """The same for asyncio; see ``Client``."""

    def __init__(
        self, url: str, token: str | None = None, *, timeout_s: float = 60.0, patience_s: float = 60.0
    ) -> None:
        self._plan = _Plan(url, token, timeout_s, patience_s)
        self._http = httpx.AsyncClient(base_url=self._plan.url, headers=self._plan.headers, timeout=self._plan.timeout)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def models(self) -> list[dict[str, Any]]:
        """Every version of every model."""
        return await self._do(self._plan.get("/v1/models"))

    async def estimate(self, *, patterns: int, side: int, model: str | None = None) -> dict[str, Any]:
        """What a scan of so many patterns of this side is likely to cost: cpu_s, gpu_s, bytes, and from how many jobs."""
        params = {"patterns": patterns, "side": side} | ({} if model is None else {"model": model})
        return await self._do(self._plan.get("/v1/estimate", **params))

    async def model(self, name: str, version: str | None = None) -> dict[str, Any]:
        """Description of a model."""
        params = {} if version is None else {"version": version}
        return await self._do(self._plan.get(f"/v1/models/{name}", **params))

    async def reconstruct(
        self,
        scan: str | Path | None = None,
        *,
        path: str | None = None,
        demo: str | None = None,
        job: str | None = None,
        refined: bool = False,
        output: str = "npz",
        on_progress: OnProgress | None = None,
        **choices: Any,
    ) -> Image:
        """The image of a scan; see ``Client.reconstruct``."""
        return await self._do(
            self._plan.reconstruct(scan, _reference(path, demo, job, refined), output, on_progress, choices)
        )

    async def submit(
        self,
        scan: str | Path | None = None,
        *,
        path: str | None = None,
        demo: str | None = None,
        job: str | None = None,
        refined: bool = False,
        **choices: Any,
    ) -> dict[str, Any]:
        """Submit a scan and return its job without waiting."""
        return await self._do(self._plan.submitted(scan, _reference(path, demo, job, refined), choices))

    async def again(self, job_id: str, *, refined: bool = False, **changes: Any) -> dict[str, Any]:
        """Submit the scan of an earlier job once more; see ``Client.again``."""
        return await self._do(self._plan.submitted(None, {"again": job_id, "refined": refined}, changes))

    async def job(self, job_id: str) -> dict[str, Any]:
        """State, progress and links of a job."""
        return await self._do(self._plan.get(f"/v1/reconstructions/{job_id}"))

    async def wait(self, job_id: str, on_progress: OnProgress | None = None) -> dict[str, Any]:
        """The job once it is done."""
        return await self._do(self._plan.wait(job_id, on_progress))

    async def result(self, job_id: str, output: str = "npz") -> Image:
        """The file of a finished job."""
        return await self._do(self._plan.result(job_id, output))

    async def cancel(self, job_id: str) -> None:
        """Cancel a job, or delete the files of one that has ended."""
        await self._do(self._plan.ask(_Ask("DELETE", f"/v1/reconstructions/{job_id}")))

    def stream(self, *, N: int, on_preview: Callable[[Preview], None] | None = None, **start: Any) -> AsyncStream:
        """A stream of patterns of side N, to be used in a ``with`` block; the end of the block ends the scan.

        Args:
            on_preview: called with every live image.
            start: model (without one the scan is reconstructed automatically), preview_model, choices (the settings of a
                request), probe (complex [N, N] or [P, N, N]), dtype, domain, counts_are_photons, pixel_size_m,
                preview_interval_s: fields of the interface.
        """
        return self._plan.stream(N, on_preview, start)

    async def _do(self, steps: _Steps[T]) -> T:
        answer: httpx.Response | None = None
        try:
            step = next(steps)
            while True:
                if isinstance(step, _Pause):
                    await asyncio.sleep(step.seconds)
                else:
                    content = None if step.file is None else _pieces_async(step.file)
                    try:
                        answer = await self._http.request(
                            step.method,
                            step.path,
                            params=step.params,
                            headers=step.headers,
                            content=content,
                            json=step.json,
                        )
                    except httpx.TransportError:
                        answer = None
                step = steps.send(answer)
        except StopIteration as end:
            value: T = end.value
            return value


def _reference(path: str | None, demo: str | None, job: str | None, refined: bool) -> dict[str, Any]:
    return {"path": path, "demo": demo, "job": job, "refined": refined}


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(BLOCK):
            yield piece


async def _pieces_async(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as stream:
        while piece := await asyncio.to_thread(stream.read, BLOCK):
            yield piece
