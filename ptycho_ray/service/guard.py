"""Checks before every request: authentication, rate and size limits; and the headers of every answer.

Plain ASGI, so that bodies stream through it and websockets pass it too.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

from ptycho_ray.service.audit import AuditLog
from ptycho_ray.service.jobs import new_id
from ptycho_ray.service.metrics import Metrics
from ptycho_ray.service.problems import MEDIA_TYPE, Problem, from_error
from ptycho_ray.service.settings import ServiceSettings
from ptycho_ray.service.tokens import LOCAL, Token, TokenStore

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")
OPEN_PREFIX = "/static/"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
MOST_REQUESTS = 256
MOST_CALLERS = 10_000
GUESSES_PER_MINUTE = 30
#: A number of a request that may be kept as it was given.
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
SUBPROTOCOL = "ptycho-ray.v1"
SUBPROTOCOL_TOKEN = "ptycho-ray.token."

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def problem_response(problem: Problem, request_id: str) -> JSONResponse:
    """The HTTP response of a problem."""
    document = problem.document(f"urn:request:{request_id}")
    return JSONResponse(document, problem.status, problem.headers(), MEDIA_TYPE)


class Guard:
    """The outermost layer of the interface. With ``numbered`` a server around it numbers requests and adds X-Request-Id to the
    answers, as Ray Serve does."""

    def __init__(
        self, app: App, settings: ServiceSettings, tokens: TokenStore, metrics: Metrics, numbered: bool = False
    ) -> None:
        self.app, self.settings, self.tokens, self.metrics = app, settings, tokens, metrics
        self.numbered = numbered
        self.audit = AuditLog(settings.data_dir)
        self.open_requests = 0
        self.rates: OrderedDict[str, _Bucket] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        request = _Request(scope, self.settings, self.numbered)
        self.open_requests += 1
        try:
            await self._pass(request, receive, send)
        finally:
            self.open_requests -= 1
            self.metrics.request(scope, request.status, time.perf_counter() - request.started)
            self._audit(request)

    async def _pass(self, request: _Request, receive: Receive, send: Send) -> None:
        scope = request.scope
        scope.setdefault("state", {})["request_id"] = request.id
        answer = request.answers(send)
        try:
            if self.open_requests > MOST_REQUESTS:
                raise Problem(503, "busy", f"{MOST_REQUESTS} requests are being answered.", retry_after_s=1)
            request.check_origin()
            caller = await self._caller(request)
            request.caller = scope["state"]["caller"] = caller
            if not request.is_open:
                who = f"address {request.address}" if caller is None or caller is LOCAL else f"token {caller.id}"
                self._check_rate(who, self.settings.requests_per_minute)
            await self.app(scope, request.receives(receive), answer)
        except Problem as problem:
            await self._refuse(request, problem, receive, answer)
        except Exception as error:
            if not isinstance(error, ConnectionError):
                log.exception("request %s failed", request.id)
            await self._refuse(request, from_error(error), receive, answer)

    async def _caller(self, request: _Request) -> Token | None:
        text = request.token()
        if not self.settings.require_token:
            if request.host not in LOOPBACK:  # a page of another site whose name was made to mean this machine
                raise Problem(
                    403,
                    "forbidden",
                    "This service accepts requests for the host name localhost only.",
                    {"field": "Host"},
                )
            return LOCAL
        if text is None:
            if request.is_open:
                return None
            raise Problem(401, "unauthorized", "Send 'Authorization: Bearer TOKEN'.", {"field": "Authorization"})
        found = await asyncio.to_thread(self.tokens.find, text)
        if found is None:  # only who guesses is held up: behind a proxy everybody has one address
            self._check_rate(f"guesses {request.address}", GUESSES_PER_MINUTE)
            raise Problem(401, "unauthorized", "The token is not known or has expired.", {"field": "Authorization"})
        return found

    def _check_rate(self, key: str, per_minute: int) -> None:
        bucket = self.rates.setdefault(key, _Bucket(per_minute))
        self.rates.move_to_end(key)
        while len(self.rates) > MOST_CALLERS:
            self.rates.popitem(last=False)
        if (wait := bucket.take()) > 0:
            more = {"expected": f"at most {per_minute} per minute"}
            raise Problem(429, "too-many-requests", "Too many requests.", more, retry_after_s=max(1, round(wait)))

    async def _refuse(self, request: _Request, problem: Problem, receive: Receive, answer: Send) -> None:
        if request.status is not None:
            return  # the answer has begun; the connection ends early, which the caller notices
        if request.scope["type"] == "websocket":
            await answer({"type": "websocket.close", "code": 1008 if problem.status < 500 else 1011,
                          "reason": problem.detail[:120]})  # fmt: skip
            return
        await problem_response(problem, request.id)(request.scope, receive, answer)

    def _audit(self, request: _Request) -> None:
        """One line for every request but those for the page itself and for whether the service is well."""
        scope, status, caller = request.scope, request.status, request.caller
        if request.is_open and status is not None and status < 400 and scope.get("method") in ("GET", "HEAD"):
            return
        self.audit.write(
            {
                "request": request.id,
                "address": request.address,
                "who": None if caller is None else caller.name,
                "token": None if caller is None else caller.id,
                "method": scope.get("method", "WS"),
                "path": request.path,
                "job": request.job,
                "status": status,
                "bytes_in": request.bytes_in,
                "bytes_out": request.bytes_out,
                "seconds": round(time.perf_counter() - request.started, 3),
            }
        )


class _Request:
    """The state of the guard for one request."""

    def __init__(self, scope: Scope, settings: ServiceSettings, numbered: bool) -> None:
        self.scope, self.settings, self.numbered = scope, settings, numbered
        self.started = time.perf_counter()
        self.status: int | None = None
        self.bytes_in = self.bytes_out = 0
        self.job: str | None = None
        self.caller: Token | None = None
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        given = self.headers.get("x-request-id", "")
        self.id = given if REQUEST_ID.fullmatch(given) else new_id()
        self.address = (scope.get("client") or ("unknown",))[0]
        self.host = urlsplit(f"//{self.headers.get('host', '')}").hostname or ""
        self.path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        self.is_open = self.path in OPEN_PATHS or self.path.startswith(OPEN_PREFIX)

    def check_origin(self) -> None:
        """Refuse cross-site requests."""
        origin = self.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != self.headers.get("host", "").lower():
            raise Problem(403, "forbidden", "Pages of other sites may not use this service.", {"field": "Origin"})

    def token(self) -> str | None:
        """The bearer token: from the header, or for websockets of browsers from the offered subprotocols."""
        scheme, _, text = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and text:
            return text.strip()
        if self.scope["type"] == "websocket":
            for offered in self.scope.get("subprotocols", []):
                if offered.startswith(SUBPROTOCOL_TOKEN):
                    return str(offered).removeprefix(SUBPROTOCOL_TOKEN)
        return None

    def receives(self, receive: Receive) -> Receive:
        """``receive`` that gives up on bodies that are too large or stop coming."""
        if self.scope["type"] != "http":
            return self._counted(receive)
        limit, body_over = self.settings.max_body_bytes, False
        declared = self.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            raise _too_large(limit)

        async def limited() -> Message:
            nonlocal body_over
            if body_over:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), self.settings.body_timeout_s)
            except TimeoutError:
                raise Problem(408, "timeout", f"Nothing came for {self.settings.body_timeout_s:g} s.") from None
            if message["type"] == "http.request":
                self.bytes_in += len(message.get("body", b""))
                body_over = not message.get("more_body", False)
                if self.bytes_in > limit:
                    raise _too_large(limit)
            return message

        return limited

    def _counted(self, receive: Receive) -> Receive:
        async def counted() -> Message:
            message = await receive()
            self.bytes_in += len(message.get("bytes") or b"") + len(message.get("text") or "")
            return message

        return counted

    def answers(self, send: Send) -> Send:
        """``send`` that adds the headers every answer has and notes the status."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.status = message["status"]
                named = {name.lower(): value.decode("latin-1") for name, value in message.get("headers", [])}
                self.job = named.get(b"x-reconstruction") or named.get(b"location", "").rpartition("/")[2] or None
                headers = SECURITY_HEADERS | ({} if self.numbered else {"X-Request-Id": self.id})
                if not self.path.startswith(OPEN_PREFIX):
                    headers["Cache-Control"] = "no-store"
                message["headers"] = [
                    *message.get("headers", []),
                    *((name.lower().encode(), value.encode()) for name, value in headers.items()),
                ]
            elif message["type"] == "http.response.body":
                self.bytes_out += len(message.get("body", b""))
            elif message["type"] == "websocket.accept":
                self.status = 101
            elif message["type"] == "websocket.close" and self.status is None:
                self.status = 403
            elif message["type"] == "websocket.send":
                self.bytes_out += len(message.get("bytes") or b"") + len(message.get("text") or "")
            await send(message)

        return answer


class _Bucket:
    """A budget of requests that refills steadily and holds one minute's worth."""

    def __init__(self, per_minute: int) -> None:
        self.per_minute, self.left, self.at = per_minute, float(per_minute), time.monotonic()

    def take(self) -> float:
        """Take one if there is one; the seconds to wait if there is none."""
        now = time.monotonic()
        self.left = min(self.per_minute, self.left + (now - self.at) * self.per_minute / 60)
        self.at = now
        if self.left < 1:
            return (1 - self.left) * 60 / self.per_minute
        self.left -= 1
        return 0.0


def _too_large(limit: int) -> Problem:
    return Problem(
        413,
        "too-large",
        f"At most {limit} bytes are accepted.",
        {"field": "body", "expected": f"at most {limit} bytes"},
    )
