"""The HTTP interface, version 1."""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Header, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ptycho_ray import __version__
from ptycho_ray.service import schemas, uploads
from ptycho_ray.service.callers import CallerGone, patience, while_connected
from ptycho_ray.service.demos import DEMOS
from ptycho_ray.service.engine import Options
from ptycho_ray.service.guard import App, Guard, problem_response
from ptycho_ray.service.job_results import FILES, FORMATS, result_file
from ptycho_ray.service.jobs import AUTOMATIC, DONE, FAILED, Job, new_id
from ptycho_ray.service.models import Model
from ptycho_ray.service.page import add_page
from ptycho_ray.service.problems import Problem, from_error
from ptycho_ray.service.schemas import SOLVER, Choices, ModelDetails, ModelSummary, Reconstruction, problems
from ptycho_ray.service.service import Service
from ptycho_ray.service.streams import add_streams
from ptycho_ray.service.tokens import Token
from ptycho_ray.service.without_model import check_choices
from ptycho_ray.service.work import DEMO

KINDS = {400: "bad-request", 404: "not-found", 405: "method-not-allowed"}


def _service(request: Request) -> Service:
    found: Service = request.app.state.service
    return found


def _caller(role: str) -> Any:
    def check(request: Request) -> Token:
        caller: Token | None = request.state.caller
        if caller is None or not caller.may(role):
            raise Problem(403, "forbidden", f"This needs the role {role!r}.", {"field": "Authorization"})
        return caller

    return Depends(check)


Here = Annotated[Service, Depends(_service)]
Reader = Annotated[Token, _caller("read")]
Submitter = Annotated[Token, _caller("submit")]
Admin = Annotated[Token, _caller("admin")]


def make_app(service: Service) -> App:
    """The whole interface of a service: routes, websocket, page, behind the guard."""

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
    _add_reconstructions(app)
    _add_models(app)
    _add_tokens(app)
    _add_operations(app)
    add_streams(app)
    add_page(app)
    return Guard(app, service.settings, service.tokens, service.metrics)


def _add_reconstructions(app: FastAPI) -> None:
    @app.post(
        "/v1/reconstructions",
        tags=["reconstructions"],
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
        await asyncio.to_thread(
            service.jobs.check_capacity, caller.name, settings.max_jobs, settings.max_jobs_per_token
        )
        job_id = new_id()
        folder = settings.job_folder(job_id)
        folder.mkdir(parents=True, mode=0o700)
        try:
            choices, source, name = await _take(request, service, folder / "scan", query, x_file_name)
            check_choices(choices, settings.job_workers, with_model=choices.model is not None)
            model_key = AUTOMATIC
            if choices.model is not None:
                model = await asyncio.to_thread(service.models.choose, choices.model)
                _check_gridsize(service, choices, model)
                model_key = model.key
            options = {name: getattr(choices, name) for name in Options.__dataclass_fields__ if name != SOLVER}
            options[SOLVER] = choices.solver()
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
            )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        recording = asyncio.create_task(_record(service, create, folder))  # goes on if the caller does not
        try:
            job, _ = await asyncio.shield(recording)
            return await while_connected(request, _answer(service, job, wait_s, choices.output, base))
        except (asyncio.CancelledError, CallerGone):
            if idempotency_key is None:  # nobody can ask for the image any more; with a key the caller may come back
                await asyncio.shield(_cancel(service, recording))
            raise

    @app.get("/v1/reconstructions", tags=["reconstructions"], responses=problems(422))
    async def list_reconstructions(
        request: Request, service: Here, caller: Reader, limit: Annotated[int, Query(ge=1, le=200)] = 50
    ) -> list[Reconstruction]:
        """The newest reconstructions of this token's name; of all users for an admin."""
        owner = None if caller.may("admin") else caller.name
        found = await asyncio.to_thread(service.jobs.recent, owner, limit)
        return [Reconstruction.of(job, request.scope.get("root_path", "")) for job in found]

    @app.get("/v1/reconstructions/{id}", tags=["reconstructions"], responses=problems(404, 422))
    async def show(
        request: Request, id: str, service: Here, caller: Reader, wait_s: Annotated[float, Query(ge=0, le=60)] = 0
    ) -> Reconstruction:
        """State, progress and links; with `wait_s` the answer is delayed until the job ends or this time has passed."""
        job = await _own_job(service, caller, id)
        if wait_s:
            job = await service.dispatcher.ended(job.id, wait_s)
        return Reconstruction.of(job, request.scope.get("root_path", ""))

    @app.get(
        "/v1/reconstructions/{id}/result",
        tags=["reconstructions"],
        response_class=Response,
        responses={
            200: {"content": {media: {} for _, media in (FORMATS | FILES).values()}, "description": "The image."},
            **problems(404, 408, 409, 410, 422, 500, 503, 507),
        },
    )
    async def result(
        id: str,
        service: Here,
        caller: Reader,
        output: Literal["npz", "hdf5", "png", "raw", "probe", "report", "scan"] = "npz",
    ) -> Response:
        """The image: NPZ, HDF5 (a Ptychodus product), PNG, or raw pixels (also of the probe) for programs. Of a reconstruction
        without a model also the report (HTML) and the scan with the probe and the positions that were found (NPZ)."""
        job = await _own_job(service, caller, id)
        if job.state == FAILED and job.problem is not None:
            raise Problem.from_document(job.problem)
        if job.state != DONE:
            more = {"field": "state", "found": job.state, "expected": DONE}
            raise Problem(409, "conflict", f"The reconstruction is {job.state}.", more, 1 if job.active else None)
        return await _file(service, job, output)

    @app.delete("/v1/reconstructions/{id}", tags=["reconstructions"], status_code=204, responses=problems(404, 422))
    async def cancel(id: str, service: Here, caller: Submitter) -> Response:
        """Cancel a job, or delete the files of one that has ended."""
        job = await _own_job(service, caller, id)
        if not await service.dispatcher.cancel(job.id):
            await asyncio.to_thread(shutil.rmtree, service.settings.job_folder(job.id), True)
            await asyncio.to_thread(service.jobs.delete, job.id)
        return Response(status_code=204)


def _add_models(app: FastAPI) -> None:
    @app.get("/v1/models", tags=["models"], responses=problems())
    async def list_models(service: Here, caller: Reader) -> list[ModelSummary]:
        """Every version of every model, the newest first; broken ones with the reason."""
        return await asyncio.to_thread(lambda: [_summary(service, model) for model in service.models.all()])

    @app.get("/v1/models/{name}", tags=["models"], responses=problems(404, 422))
    async def show_model(
        name: str, service: Here, caller: Reader, version: Annotated[str | None, Query(max_length=100)] = None
    ) -> ModelDetails:
        """Architecture, training data and figures of a model: of its newest good version if none is named."""
        return await asyncio.to_thread(_details, service, name, version)

    @app.get("/v1/demos", tags=["models"], responses=problems())
    async def list_demos(caller: Reader) -> dict[str, str]:
        """Demo scans by name; each is simulated to suit the model that reconstructs it."""
        return DEMOS


def _add_tokens(app: FastAPI) -> None:
    @app.get("/v1/tokens", tags=["tokens"], responses=problems())
    async def list_tokens(service: Here, caller: Admin) -> list[schemas.TokenView]:
        """Who may call."""
        return [_token_view(token) for token in await asyncio.to_thread(service.tokens.all)]

    @app.post("/v1/tokens", tags=["tokens"], status_code=201, responses=problems(400, 422))
    async def add_token(wish: schemas.NewToken, service: Here, caller: Admin) -> schemas.TokenView:
        """A new token. Its text appears only in this answer."""
        return _token_view(*await asyncio.to_thread(service.tokens.add, wish.name, wish.role, wish.days))

    @app.delete("/v1/tokens/{id}", tags=["tokens"], status_code=204, responses=problems(404, 422))
    async def remove_token(id: str, service: Here, caller: Admin) -> Response:
        """Revoke a token at once."""
        if not await asyncio.to_thread(service.tokens.remove, id):
            raise Problem(404, "not-found", "There is no such token.", {"field": "id"})
        return Response(status_code=204)


def _add_operations(app: FastAPI) -> None:
    @app.get("/healthz", tags=["operations"])
    async def healthy() -> dict[str, bool]:
        """This replica answers."""
        return {"ok": True}

    @app.get("/readyz", tags=["operations"], responses=problems(503, 507))
    async def ready(service: Here) -> dict[str, Any]:
        """The job database is reachable, the disk has space and, if there are models, one can be loaded."""
        service.check_space()
        await asyncio.to_thread(service.jobs.counts)
        usable = await asyncio.to_thread(service.models.usable)
        named = bool(service.settings.models) or bool(await asyncio.to_thread(service.models.all))
        if not usable and named:
            raise Problem(503, "busy", "No model can be loaded.", {"field": "models"}, 30)
        return {"ok": True, "models": [f"{model.name}@{model.version}" for model in usable]}

    @app.get("/metrics", tags=["operations"], response_class=Response, responses=problems())
    async def metrics(service: Here, caller: Reader) -> Response:
        """Metrics for Prometheus."""
        service.metrics.streams.set(service.open_streams)
        counts = await asyncio.to_thread(service.jobs.counts)
        return Response(service.metrics.text(counts), media_type="text/plain; version=0.0.4")


async def _record(service: Service, create: Callable[[], tuple[Job, bool]], folder: Path) -> tuple[Job, bool]:
    """Record a job and begin with it. ``folder`` goes if it becomes no job; whether it is a new one."""
    try:
        job, created = await asyncio.to_thread(create)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if created:
        service.dispatcher.dispatch(job.id, job.model)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return job, created


async def _cancel(service: Service, recording: asyncio.Task[tuple[Job, bool]]) -> None:
    """Cancel a job that was recorded for a caller who has gone."""
    job, created = await recording
    if created:
        await service.dispatcher.cancel(job.id)


async def _take(
    request: Request, service: Service, path: Path, query: Choices, header_name: str
) -> tuple[Choices, str, str]:
    """Choices, source and its name for people, from a request of any of the three kinds."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    given = query.model_dump(exclude_unset=True, by_alias=True)
    if kind == uploads.JSON_TYPE:
        reference = await uploads.receive_json(request)
        named = reference.model_dump(exclude={"path", "demo"}, exclude_unset=True, by_alias=True)
        choices = uploads.choices_from(given | named)
        if reference.demo is not None:
            return choices, DEMO + reference.demo, f"demo scan {reference.demo}"
        found = await asyncio.to_thread(uploads.confined, str(reference.path), service.settings)
        return choices, str(found), found.name
    if kind == uploads.FORM_TYPE:
        name, fields = await uploads.receive_form(request, path)
        choices = uploads.choices_from(given | fields)
    elif kind in uploads.RAW_TYPES:
        name, choices = header_name, query
        await uploads.receive_raw(request, path)
    else:
        expected = [*uploads.RAW_TYPES, uploads.FORM_TYPE, uploads.JSON_TYPE]
        more = {"field": "Content-Type", "found": kind or None, "expected": expected}
        raise Problem(415, "unsupported-media-type", "State what the body contains.", more)
    if not path.stat().st_size:
        raise Problem(400, "bad-request", "The body is empty.", {"field": "body", "expected": "a scan"})
    return choices, str(path), _plain(name)


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


async def _own_job(service: Service, caller: Token, job_id: str) -> Job:
    """A job of the caller; jobs of others are not found."""
    job = await asyncio.to_thread(service.jobs.get, job_id)
    if job.owner != caller.name and not caller.may("admin"):
        raise Problem(404, "not-found", "There is no such reconstruction (any more).", {"field": "id"})
    return job


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
    name, media = (FORMATS | FILES)[output]
    return FileResponse(path, media_type=media, filename=name, headers={"X-Reconstruction": job.id})


def _summary(service: Service, model: Model) -> ModelSummary:
    checked = service.models.check(model)
    if checked.problem is not None or checked.manifest is None:
        reason = None if checked.problem is None else checked.problem.detail
        return ModelSummary(name=model.name, version=model.version, state="broken", problem=reason)
    config = checked.manifest["config"]["model"]
    return ModelSummary(
        name=model.name,
        version=model.version,
        state="good",
        N=checked.side,
        gridsize=config["gridsize"],
        architecture=config["architecture"],
    )


def _details(service: Service, name: str, version: str | None) -> ModelDetails:
    versions = [model for model in service.models.all() if model.name == name]
    chosen = [model for model in versions if version in (None, model.version)]
    if not chosen:
        raise Problem(404, "not-found", "There is no such model.", {"field": "name"})
    good = next((model for model in chosen if service.models.check(model).problem is None), chosen[0])
    manifest = service.models.check(good).manifest
    kept = {} if manifest is None else {key: manifest[key] for key in ("config", "normalisation", "created_at")}
    if manifest is not None:
        history = manifest["history"]
        kept["figures"] = {figure: values[-1] for figure, values in history.items() if values}
        kept["provenance"] = _without_folders(manifest["provenance"])
        kept["config"] = _without_folders(manifest["config"])
    summary = _summary(service, good).model_dump()
    return ModelDetails(**summary, **kept, versions=[model.version for model in versions])


def _without_folders(value: Any) -> Any:
    """Absolute paths shortened to their last part, so as not to reveal the server's folders."""
    if isinstance(value, dict):
        return {key: _without_folders(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item) for item in value]
    return value.rpartition("/")[2] if isinstance(value, str) and value.startswith("/") else value


def _token_view(token: Token, text: str | None = None) -> schemas.TokenView:
    return schemas.TokenView(
        id=token.id,
        name=token.name,
        role=token.role,
        created=schemas.format_time(token.created) or "",
        expires=schemas.format_time(token.expires),
        token=text,
    )


def _plain(name: str) -> str:
    """A file name as it may stand in documents: its last part, printable, not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:200] or "scan"


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
