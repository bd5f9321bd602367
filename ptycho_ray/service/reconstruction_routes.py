"""Routes of reconstructions: submitted, looked at, fetched, cancelled."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response

from ptycho_ray.errors import InputError
from ptycho_ray.service import schemas
from ptycho_ray.service.callers import CallerGone, patience, while_connected
from ptycho_ray.service.dependencies import Here, Reader, Submitter
from ptycho_ray.service.engine import Options
from ptycho_ray.service.job_results import FILES, FORMATS, result_file
from ptycho_ray.service.jobs import AUTOMATIC, DONE, FAILED, LOOK, QUEUED, RUNNING, Job, new_id
from ptycho_ray.service.metering import bytes_in, cost_of, estimate
from ptycho_ray.service.models import Model
from ptycho_ray.service.problems import Problem, from_error
from ptycho_ray.service.schemas import SOLVER, Choices, Reconstruction, problems
from ptycho_ray.service.service import Service
from ptycho_ray.service.submissions import cancel_recorded, own_job, readable_job, record, take
from ptycho_ray.service.without_model import check_choices

router = APIRouter(tags=["reconstructions"])


@router.post(
    "/v1/reconstructions",
    responses={
        200: {"content": {media: {} for _, media in FORMATS.values()}, "description": "The image."},
        202: {"model": Reconstruction, "description": "A job; poll it at its link."},
        **problems(400, 408, 409, 410, 413, 415, 422, 500, 503, 507),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A scan (NPZ, HDF5 or CXI), as it is or in a form, or a reference to one.",
            "content": {
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": ["file"],
                        "properties": {"file": {"type": "string", "format": "binary"}, "model": {"type": "string"}},
                    }
                },
                "application/json": {"schema": schemas.Reference.model_json_schema()},
            },
        }
    },
)
async def reconstruct(
    request: Request,
    service: Here,
    caller: Submitter,
    query: Annotated[Choices, Query()],
    prefer: Annotated[str, Header(max_length=200)] = "",
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
    x_file_name: Annotated[str, Header(max_length=200)] = "scan",
) -> Response:
    """Reconstruct a scan: with the model that is named, or automatically.

    Without a model, what is unknown about the scan is decided by its patterns; the job's facts tell what was decided,
    while it runs, and the verdict. Settings of the solver (`refinement.*`) that are given are kept and not decided.

    The answer is the image, however long that takes. `Prefer: respond-async` gives 202 and a job at once,
    `Prefer: wait=20` after so many seconds. Choices are query parameters, fields of the form, or members of the
    JSON document. Send the same `Idempotency-Key` with a retry, and the work is done only once.
    """
    wait_s = patience(prefer, service.settings.max_deadline_s)
    base = request.scope.get("root_path", "")
    if idempotency_key is not None:
        known = await asyncio.to_thread(service.jobs.with_key, caller.name, idempotency_key)
        if known is not None:
            return await while_connected(request, _answer(service, known, wait_s, query.output, base))
    settings = service.settings
    service.check_space()
    await asyncio.to_thread(service.jobs.check_capacity, caller.name, settings.max_jobs, settings.max_jobs_per_token)
    job_id = new_id()
    folder = settings.job_folder(job_id)
    folder.mkdir(parents=True, mode=0o700)
    try:
        choices, source, name = await take(request, service, caller, folder / "scan", query, x_file_name)
        check_choices(choices, service.settings.job_workers, with_model=choices.model is not None)
        model_key = LOOK if choices.until == "look" else AUTOMATIC
        if choices.model is not None:
            model = await asyncio.to_thread(service.models.choose, choices.model)
            _check_gridsize(service, choices, model)
            model_key = model.key
        options = {name: getattr(choices, name) for name in Options.__dataclass_fields__ if name != SOLVER}
        options |= {SOLVER: choices.solver(), "network": choices.network}
        create = functools.partial(
            service.jobs.create,
            owner=caller.name,
            model=model_key,
            options=options,
            source=source,
            source_name=name,
            deadline_s=min(choices.deadline_s or settings.max_deadline_s, settings.max_deadline_s),
            max_jobs=settings.max_jobs,
            max_jobs_of_owner=settings.max_jobs_per_token,
            job_id=job_id,
            idempotency_key=idempotency_key,
            size=await asyncio.to_thread(bytes_in, folder),
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    recording = asyncio.create_task(record(service, create, folder))  # goes on if the caller does not
    try:
        job, _ = await asyncio.shield(recording)
        return await while_connected(request, _answer(service, job, wait_s, choices.output, base))
    except (asyncio.CancelledError, CallerGone):
        if idempotency_key is None:  # nobody can ask for the image any more; with a key the caller may come back
            await asyncio.shield(cancel_recorded(service, recording))
        raise


@router.get("/v1/reconstructions", responses=problems(422))
async def list_reconstructions(
    request: Request, service: Here, caller: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 50
) -> list[Reconstruction]:
    """The newest reconstructions of this token's name; of all users for an admin."""
    owner = None if caller.may("admin") else caller.name
    found = await asyncio.to_thread(service.jobs.recent, owner, limit)
    return [Reconstruction.of(job, request.scope.get("root_path", "")) for job in found]


@router.get("/v1/estimate", responses=problems(422, 503))
async def likely_cost(
    service: Here,
    caller: Reader,
    patterns: Annotated[int, Query(ge=1, le=10**9)],
    side: Annotated[int, Query(ge=1, le=10**5, description="Of a pattern, in pixels.")],
    model: Annotated[str | None, Query(max_length=210)] = None,
) -> schemas.Estimate:
    """What a scan of this size is likely to cost, by the newest reconstructions with the same model, or without any."""
    key = AUTOMATIC if model is None else (await asyncio.to_thread(service.models.choose, model)).key
    counts = await asyncio.to_thread(service.jobs.counts)
    likely = await asyncio.to_thread(estimate, service.jobs, key, patterns, side)
    return schemas.Estimate(waiting=counts[QUEUED] + counts[RUNNING], **likely)


@router.get("/v1/reconstructions/{id}", responses=problems(404, 422))
async def show(
    request: Request, id: str, service: Here, caller: Reader, wait_s: Annotated[float, Query(ge=0, le=60)] = 0
) -> Reconstruction:
    """State, progress and links; with `wait_s` the answer is delayed until the job ends or this time has passed."""
    job = await readable_job(request, service, caller, id)
    if wait_s:
        job = await service.dispatcher.ended(job.id, wait_s)
    return Reconstruction.of(job, request.scope.get("root_path", ""))


@router.get(
    "/v1/reconstructions/{id}/result",
    response_class=Response,
    responses={
        200: {"content": {media: {} for _, media in (FORMATS | FILES).values()}, "description": "The image."},
        **problems(404, 408, 409, 410, 422, 500, 503, 507),
    },
)
async def result(
    request: Request,
    id: str,
    service: Here,
    caller: Reader,
    output: Literal["npz", "hdf5", "cxi", "tiff", "png", "raw", "probe", "report", "scan"] = "npz",
) -> Response:
    """The image: NPZ, HDF5 (a Ptychodus product), CXI, TIFF (amplitude and phase, 32 bit), PNG, or raw pixels (also of the
    probe) for programs. Of a reconstruction
    without a model also the report (HTML) and the scan with the probe and the positions that were found (NPZ)."""
    job = await readable_job(request, service, caller, id)
    if job.state == FAILED and job.problem is not None:
        raise Problem.from_document(job.problem)
    if job.state != DONE:
        more = {"field": "state", "found": job.state, "expected": DONE}
        raise Problem(409, "conflict", f"The reconstruction is {job.state}.", more, 1 if job.active else None)
    return await _file(service, job, output)


@router.delete("/v1/reconstructions/{id}", status_code=204, responses=problems(404, 422))
async def cancel(id: str, service: Here, caller: Submitter) -> Response:
    """Cancel a job, or delete the files of one that has ended."""
    job = await own_job(service, caller, id)
    if not await service.dispatcher.cancel(job.id):
        await asyncio.to_thread(shutil.rmtree, service.settings.job_folder(job.id), True)
        await asyncio.to_thread(service.jobs.delete, job.id)
    return Response(status_code=204)


def _check_gridsize(service: Service, choices: Choices, model: Model) -> None:
    manifest = service.models.check(model).manifest
    gridsize = None if manifest is None else manifest["config"]["model"]["gridsize"]
    if choices.gridsize not in (None, gridsize):
        raise Problem(
            422,
            "invalid",
            f"Model {model.name} works with groups of gridsize {gridsize}.",
            {"field": "gridsize", "found": choices.gridsize, "expected": gridsize, "hint": "Choose another model."},
        )


async def _answer(service: Service, job: Job, wait_s: float, output: str, base: str) -> Response:
    """The image if it is there in time, the job as 202 otherwise; Problem if it failed."""
    if wait_s:
        job = await service.dispatcher.ended(job.id, wait_s)
        if job.state == DONE and output != "json":
            return await _file(service, job, output)
        if job.state == FAILED and job.problem is not None:
            raise Problem.from_document(job.problem)
        if job.state not in (DONE, FAILED) and not job.active:
            raise Problem(409, "conflict", f"The reconstruction was {job.state}.", {"field": "state"})
    document = Reconstruction.of(job, base)
    return JSONResponse(
        document.model_dump(mode="json", exclude_none=True),
        status_code=202 if job.active or not wait_s else 200,
        headers={"Location": document.links["self"]} | ({"Retry-After": "1"} if job.active else {}),
    )


async def _file(service: Service, job: Job, output: str) -> Response:
    try:
        path = await asyncio.to_thread(result_file, service.settings.job_folder(job.id), output)
    except FileNotFoundError:
        raise Problem(404, "not-found", "The result is no longer kept.", {"field": "id"}) from None
    except InputError as error:
        raise from_error(error) from None
    name, media = (FORMATS | FILES)[output]
    headers = {"X-Reconstruction": job.id, "X-Cost": json.dumps(cost_of(job))}
    return FileResponse(path, media_type=media, filename=name, headers=headers)
