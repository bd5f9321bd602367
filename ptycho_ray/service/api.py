"""The HTTP interface, version 1."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ptycho_ray import __version__
from ptycho_ray.service import (
    model_routes,
    operation_routes,
    overview,
    picture_routes,
    reconstruction_routes,
    sharing_routes,
    uploads,
)
from ptycho_ray.service.callers import CallerGone
from ptycho_ray.service.guard import App, Guard, problem_response
from ptycho_ray.service.page import add_page
from ptycho_ray.service.problems import Problem, from_error
from ptycho_ray.service.service import Service
from ptycho_ray.service.streams import add_streams

KINDS = {400: "bad-request", 404: "not-found", 405: "method-not-allowed"}


def make_app(service: Service, numbered: bool = False) -> App:
    """The whole interface of a service: routes, websocket, page, behind the guard (where ``numbered`` is explained)."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await service.dispatcher.start()
        yield
        await service.dispatcher.stop()

    app = FastAPI(
        title="ptycho_ray",
        version=__version__,
        summary="Ptychographic scans in, images out.",
        description="See docs/serve.md. Errors are problem details (RFC 9457).",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
    )
    app.state.service = service
    _describe_security(app)
    _answer_errors(app)
    for routes in (reconstruction_routes, picture_routes, sharing_routes, model_routes, operation_routes, overview):
        app.include_router(routes.router)
    add_streams(app)
    add_page(app)
    return Guard(app, service.settings, service.tokens, service.metrics, numbered)


def _answer_errors(app: FastAPI) -> None:
    """Problem details for whatever goes wrong, also where FastAPI has an answer of its own."""

    def answer(request: Request, problem: Problem) -> Response:
        return problem_response(problem, request.state.request_id)

    @app.exception_handler(Problem)
    async def refused(request: Request, problem: Problem) -> Response:
        return answer(request, problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, uploads.invalid_fields(error.errors()))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        kind = KINDS.get(error.status_code, "bad-request")
        return answer(request, Problem(error.status_code, kind, str(error.detail)))

    @app.exception_handler(CallerGone)
    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it, except the audit log

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return answer(request, from_error(error))  # and Starlette raises it again, for the log


def _describe_security(app: FastAPI) -> None:
    """Add the bearer token to the OpenAPI document."""
    generate = app.openapi

    def described() -> dict[str, Any]:
        document = generate()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["token"] = {"type": "http", "scheme": "bearer"}
        document["security"] = [{"token": []}]
        return document

    app.openapi = described  # type: ignore[method-assign] # FastAPI's own way of changing the document
