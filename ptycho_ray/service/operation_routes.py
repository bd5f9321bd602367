"""Routes for administrators and monitoring: whether the service is well, its metrics, its tokens."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response

from ptycho_ray.service import schemas
from ptycho_ray.service.dependencies import Admin, Here, Reader
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.quotas import Quota
from ptycho_ray.service.schemas import problems
from ptycho_ray.service.service import Service
from ptycho_ray.service.tokens import Token

router = APIRouter(tags=["operations"])


@router.get("/healthz")
async def healthy() -> dict[str, bool]:
    """This replica answers."""
    return {"ok": True}


@router.get("/readyz", responses=problems(503, 507))
async def ready(service: Here) -> dict[str, Any]:
    """The job database is reachable, the disk has space and, if there are models, one can be loaded."""
    service.check_space()
    await asyncio.to_thread(service.jobs.counts)
    usable = await asyncio.to_thread(service.models.usable)
    named = bool(service.settings.models) or bool(await asyncio.to_thread(service.models.all))
    if not usable and named:
        raise Problem(503, "busy", "No model can be loaded.", {"field": "models"}, 30)
    return {"ok": True, "models": [f"{model.name}@{model.version}" for model in usable]}


@router.get("/metrics", response_class=Response, responses=problems())
async def metrics(service: Here, caller: Reader) -> Response:
    """Metrics for Prometheus."""
    service.metrics.streams.set(service.open_streams)
    text = await asyncio.to_thread(lambda: service.metrics.text(service.jobs.counts(), service.shared_metrics()))
    return Response(text, media_type="text/plain; version=0.0.4")


@router.get("/v1/tokens", responses=problems())
async def list_tokens(service: Here, caller: Admin) -> list[schemas.TokenView]:
    """Who may call."""
    return [_token_view(token) for token in await asyncio.to_thread(service.tokens.all)]


@router.post("/v1/tokens", status_code=201, responses=problems(400, 422))
async def add_token(wish: schemas.NewToken, service: Here, caller: Admin) -> schemas.TokenView:
    """A new token. Its text appears only in this answer."""
    return _token_view(*await asyncio.to_thread(service.tokens.add, wish.name, wish.role, wish.days))


@router.delete("/v1/tokens/{id}", status_code=204, responses=problems(404, 422))
async def remove_token(id: str, service: Here, caller: Admin) -> Response:
    """Revoke a token at once."""
    if not await asyncio.to_thread(service.tokens.remove, id):
        raise Problem(404, "not-found", "There is no such token.", {"field": "id"})
    return Response(status_code=204)


@router.get("/v1/usage", responses=problems(403, 422))
async def usage(
    service: Here, caller: Reader, name: Annotated[str | None, Query(max_length=100)] = None
) -> schemas.UsageView:
    """The quota of this token's name and what is used of it; for an admin those of any ``name``."""
    if name not in (None, caller.name) and not caller.may("admin"):
        raise Problem(403, "forbidden", "This needs the role 'admin'.", {"field": "name"})
    return await asyncio.to_thread(_usage, service, name or caller.name)


@router.put("/v1/quotas/{name}", responses=problems(400, 422))
async def settle_quota(
    name: Annotated[str, Path(max_length=100)], wish: schemas.QuotaView, service: Here, caller: Admin
) -> schemas.UsageView:
    """Settle the quota of a name; ``*`` is that of all names without one of their own."""
    await asyncio.to_thread(service.quotas.settle, name, Quota(**wish.model_dump()))
    return await asyncio.to_thread(_usage, service, name)


@router.delete("/v1/quotas/{name}", status_code=204, responses=problems(404, 422))
async def remove_quota(name: Annotated[str, Path(max_length=100)], service: Here, caller: Admin) -> Response:
    """Let a name have the quota of everybody again."""
    if not await asyncio.to_thread(service.quotas.remove, name):
        raise Problem(404, "not-found", "This name has no quota of its own.", {"field": "name"})
    return Response(status_code=204)


def _usage(service: Service, name: str) -> schemas.UsageView:
    quota, used = service.quotas.of(name), service.quotas.usage(name)
    return schemas.UsageView(name=name, quota=schemas.QuotaView(**vars(quota)), used=used)


def _token_view(token: Token, text: str | None = None) -> schemas.TokenView:
    return schemas.TokenView(
        id=token.id,
        name=token.name,
        role=token.role,
        created=schemas.format_time(token.created) or "",
        expires=schemas.format_time(token.expires),
        token=text,
    )
