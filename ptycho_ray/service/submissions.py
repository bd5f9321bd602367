"""How a request becomes a job: what it chooses, where its scan lies, and that it is recorded."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import Request

from ptycho_ray.service import sharing, uploads
from ptycho_ray.service.job_results import FILES
from ptycho_ray.service.jobs import Job
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.schemas import Choices, WaysToRead, choices_of, given_of
from ptycho_ray.service.service import Service
from ptycho_ray.service.tokens import Token
from ptycho_ray.service.work import DEMO


async def record(service: Service, create: Callable[[], tuple[Job, bool]], folder: Path) -> tuple[Job, bool]:
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


async def cancel_recorded(service: Service, recording: asyncio.Task[tuple[Job, bool]]) -> None:
    """Cancel a job that was recorded for a caller who has gone."""
    job, created = await recording
    if created:
        await service.dispatcher.cancel(job.id)


async def own_job(service: Service, caller: Token, job_id: str) -> Job:
    """A job of the caller; jobs of others are not found."""
    job = await asyncio.to_thread(service.jobs.get, job_id)
    if job.owner != caller.name and not caller.may("admin"):
        raise Problem(404, "not-found", "There is no such reconstruction (any more).", {"field": "id"})
    return job


async def readable_job(request: Request, service: Service, caller: Token, job_id: str) -> Job:
    """A job that the caller may look at: one of its own, or one whose link was shared (:mod:`sharing`)."""
    if (key := request.headers.get(sharing.HEADER)) is not None:
        folder = service.settings.job_folder((await asyncio.to_thread(service.jobs.get, job_id)).id)
        if await asyncio.to_thread(sharing.opens, folder, key):
            return await asyncio.to_thread(service.jobs.get, job_id)
    return await own_job(service, caller, job_id)


async def scan_of_job(service: Service, job: Job, path: Path, refined: bool) -> tuple[str, str]:
    """Source and name of the scan of an earlier job; one that was uploaded also becomes ``path``, so that either job may be
    deleted. With ``refined`` it has the probe and the positions that this job found."""
    if refined:
        try:
            await asyncio.to_thread(os.link, service.settings.job_folder(job.id) / FILES["scan"][0], path)
        except FileNotFoundError:
            more = {"field": "refined", "found": job.state, "expected": "a job without a model that is done"}
            raise Problem(409, "conflict", "That job has no refined scan.", more) from None
        return str(path), job.source_name
    if job.source.startswith(DEMO):
        return job.source, job.source_name
    if not Path(job.source).is_relative_to(service.settings.job_folder(job.id)):
        found = await asyncio.to_thread(uploads.confined, job.source, service.settings)
        return str(found), job.source_name
    try:
        await asyncio.to_thread(os.link, job.source, path)
    except FileNotFoundError:
        raise Problem(410, "gone", "The scan of that job is no longer kept.", {"field": "job"}) from None
    return str(path), job.source_name


def settings_before(job: Job, named: dict[str, Any], refined: bool) -> dict[str, Any]:
    """The settings of an earlier job that hold beside those that are named now: not those of a network for one without, or the
    other way round; nor, for the scan as that job refined it, how its file was read and what was taken of it."""
    before = given_of(job)
    left_out = {*WaysToRead.model_fields, "n_subsample", "subsample_seed"} if refined else set()
    if "model" in named:
        left_out |= set(choices_of("automatic" if named["model"] else "model"))
    return {name: value for name, value in before.items() if name not in left_out}


async def take(
    request: Request, service: Service, caller: Token, path: Path, query: Choices, header_name: str
) -> tuple[Choices, str, str]:
    """Choices, source and its name for people, from a request of any of the three kinds."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    given = query.model_dump(exclude_unset=True, by_alias=True)
    if kind == uploads.JSON_TYPE:
        reference = await uploads.receive_json(request)
        of_the_scan = {"path", "demo", "job", "again", "refined"}
        named = given | reference.model_dump(exclude=of_the_scan, exclude_unset=True, by_alias=True)
        if (job_id := reference.again or reference.job) is not None:
            job = await own_job(service, caller, job_id)
            before = {} if reference.again is None else settings_before(job, named, reference.refined)
            return uploads.choices_from(before | named), *await scan_of_job(service, job, path, reference.refined)
        choices = uploads.choices_from(named)
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


def _plain(name: str) -> str:
    """A file name as it may stand in documents: its last part, printable, not too long."""
    last = name.replace("\\", "/").rpartition("/")[2]
    return "".join(letter for letter in last if letter.isprintable())[:200] or "scan"
