"""Routes that share a job by a link, and end that."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from fastapi.responses import Response

from ptycho_ray.service.dependencies import Here, Submitter
from ptycho_ray.service.schemas import problems
from ptycho_ray.service.sharing import share, unshare
from ptycho_ray.service.submissions import own_job

router = APIRouter(tags=["reconstructions"])


@router.post("/v1/reconstructions/{id}/share", responses=problems(404, 422))
async def share_job(id: str, service: Here, caller: Submitter) -> dict[str, str]:
    """A key with which other callers may look at this job and fetch its result: they send it as `X-Share-Key`."""
    job = await own_job(service, caller, id)
    return {"key": await asyncio.to_thread(share, service.settings.job_folder(job.id))}


@router.delete("/v1/reconstructions/{id}/share", status_code=204, responses=problems(404, 422))
async def unshare_job(id: str, service: Here, caller: Submitter) -> Response:
    """The key of this job is no longer accepted."""
    job = await own_job(service, caller, id)
    await asyncio.to_thread(unshare, service.settings.job_folder(job.id))
    return Response(status_code=204)
