"""Routes of what can be seen: the layers of a job, the image while it grows, two results beside each other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from ptycho_ray.errors import InputError
from ptycho_ray.service.comparisons import compared_file
from ptycho_ray.service.dependencies import Here, Reader
from ptycho_ray.service.job_results import FORMATS
from ptycho_ray.service.jobs import DONE
from ptycho_ray.service.layers import PREVIEW, Layer, layer_names, layer_of, read_facts, read_layer
from ptycho_ray.service.problems import Problem, from_error
from ptycho_ray.service.schemas import problems
from ptycho_ray.service.service import Service
from ptycho_ray.service.submissions import readable_job
from ptycho_ray.service.tokens import Token

router = APIRouter(tags=["pictures"])
MEDIA = FORMATS["raw"][1]
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"content": {MEDIA: {}}, "description": "Length of the header (uint32), header (JSON), pixels."}
}
T = TypeVar("T")


@router.get("/v1/reconstructions/{id}/layers", responses=problems(404, 409, 410, 422))
async def list_layers(request: Request, id: str, service: Here, caller: Reader) -> list[dict[str, str]]:
    """What can be shown of a finished job: name and group of each layer."""
    folder = await _finished(request, service, caller, id)
    return await _computed(service, layer_names, folder)


@router.get(
    "/v1/reconstructions/{id}/layers/{name}",
    response_class=Response,
    responses=PICTURE | problems(404, 409, 410, 422),
)
async def layer(
    request: Request, id: str, name: str, service: Here, caller: Reader, ramp: bool = True, unwrap: bool = False
) -> Response:
    """One layer: complex64, or float32 of what is real. Of a complex one without its phase ramp (`ramp=false`), or the
    unwrapped phase alone (`unwrap=true`)."""
    folder = await _finished(request, service, caller, id)
    return Response(await _computed(service, _packed, folder, name, ramp, unwrap), media_type=MEDIA)


@router.get(
    "/v1/reconstructions/{id}/preview",
    response_class=Response,
    responses=PICTURE | {204: {"description": "There is no image yet, or none in the making."}} | problems(404, 422),
)
async def preview(request: Request, id: str, service: Here, caller: Reader) -> Response:
    """The image of a running job as it is now."""
    job = await readable_job(request, service, caller, id)
    path = service.settings.job_folder(job.id) / PREVIEW
    if not job.active or not path.exists():
        return Response(status_code=204)
    return FileResponse(path, media_type=MEDIA)


@router.get("/v1/reconstructions/{id}/comparison/{other}", responses=problems(404, 409, 410, 422))
async def comparison(request: Request, id: str, other: str, service: Here, caller: Reader) -> dict[str, Any]:
    """Figures of the image `other` against the image `id`, after factor, ramp and shift are fitted, and the Fourier ring
    correlation of the two."""
    path = await _compared(request, service, caller, id, other)
    return await _computed(service, read_facts, path)


@router.get(
    "/v1/reconstructions/{id}/comparison/{other}/{name}",
    response_class=Response,
    responses=PICTURE | problems(404, 409, 410, 422),
)
async def compared_layer(request: Request, id: str, other: str, name: str, service: Here, caller: Reader) -> Response:
    """The two images as they are compared (`first`, `second`), `amplitude difference` or `phase difference`."""
    path = await _compared(request, service, caller, id, other)
    made = await _computed(service, lambda: read_layer(path, name).packed())
    return Response(made, media_type=MEDIA)


def _packed(folder: Path, name: str, ramp: bool, unwrap: bool) -> bytes:
    found: Layer = layer_of(folder, name)
    if found.facts()["complex"]:
        found = found if ramp else found.without_ramp()
        found = found.unwrapped() if unwrap else found
    return found.packed()


async def _compared(request: Request, service: Service, caller: Token, first: str, second: str) -> Path:
    folders = [await _finished(request, service, caller, each) for each in (first, second)]
    return await _computed(service, compared_file, *folders)


async def _finished(request: Request, service: Service, caller: Token, job_id: str) -> Path:
    job = await readable_job(request, service, caller, job_id)
    if job.state != DONE:
        more = {"field": "state", "found": job.state, "expected": DONE}
        raise Problem(409, "conflict", f"The reconstruction is {job.state}.", more, 1 if job.active else None)
    return service.settings.job_folder(job.id)


async def _computed(service: Service, function: Callable[..., T], *args: Any) -> T:
    """Outside the event loop, few at a time; what went wrong as a problem."""
    try:
        async with service.computing:
            return await asyncio.to_thread(function, *args)
    except FileNotFoundError:
        raise Problem(410, "gone", "The result is no longer kept.", {"field": "id"}) from None
    except KeyError as error:
        raise Problem(404, "not-found", "There is no such layer.", {"field": "name", "found": error.args[0]}) from None
    except InputError as error:
        raise from_error(error) from None
