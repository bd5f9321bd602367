"""Streaming a scan from a request to disk, whatever its size."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from ptycho_ray.config.types import did_you_mean
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.schemas import Choices, Reference
from ptycho_ray.service.settings import ServiceSettings

BLOCK = 2**20
MAX_JSON = 64 * 1024
RAW_TYPES = (
    "application/octet-stream",
    "application/x-npz",
    "application/x-hdf5",
    "application/x-cxi",
    "application/zip",
)
JSON_TYPE, FORM_TYPE = "application/json", "multipart/form-data"


async def receive_raw(request: Request, path: Path) -> int:
    """Write the body to ``path``; the number of bytes."""
    with path.open("wb") as stream:
        return await _write(stream, request.stream())


async def receive_form(request: Request, path: Path) -> tuple[str, dict[str, Any]]:
    """Write the one file of a form to ``path``; its name and the other fields."""
    try:
        async with request.form(max_files=1, max_fields=100, max_part_size=MAX_JSON) as form:
            files = [value for value in form.values() if isinstance(value, UploadFile)]
            if len(files) != 1:
                raise Problem(422, "invalid", "The form holds no file.", {"field": "file", "expected": "one file"})
            with path.open("wb") as stream:
                await asyncio.to_thread(shutil.copyfileobj, files[0].file, stream, BLOCK)
            fields = {name: value for name, value in form.items() if isinstance(value, str)}
            return files[0].filename or "scan", fields
    except HTTPException as error:  # a form that is none
        raise Problem(400, "bad-request", str(error.detail), {"field": "body"}) from None


async def receive_json(request: Request) -> Reference:
    """The reference to a scan in the body."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_JSON:
            raise Problem(413, "too-large", "A JSON body names a scan; it does not hold one.", {"field": "body"})
    try:
        reference = Reference.model_validate_json(bytes(body))
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False)) from None
    if [reference.path, reference.job, reference.again, reference.demo].count(None) != 3:
        more = {"field": "path", "expected": "one of path, job, again, demo"}
        raise Problem(422, "invalid", "Name either a path, an earlier job or a demo.", more)
    if reference.refined and reference.job is None and reference.again is None:
        more = {"field": "refined", "expected": "job or again beside it"}
        raise Problem(422, "invalid", "Only an earlier job has found a probe and positions.", more)
    return reference


def choices_from(fields: dict[str, Any]) -> Choices:
    """The choices in a form or a query; Problem for one that does not exist or is out of range."""
    try:
        return Choices(**fields)
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False)) from None


def invalid_fields(errors: Any) -> Problem:
    """The problem for pydantic's errors: the first one in full, and the fields of all."""
    first = errors[0]
    field = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path")) or "body"
    found = None if first["type"] in ("missing", "json_invalid") else repr(first.get("input"))[:200]
    said = expected = first["msg"].removeprefix("Value error, ")
    hint = None
    if first["type"] == "extra_forbidden":
        said, expected = "there is no such choice", "one that /docs lists"
        hint = did_you_mean(field, [known.alias or name for name, known in Choices.model_fields.items()])
    return Problem(
        422,
        "invalid",
        f"{field}: {said}",
        {"field": field, "found": found, "expected": expected, "errors": len(errors), "hint": hint},
    )


def confined(path: str, settings: ServiceSettings) -> Path:
    """The file that a request names, if it lies under an allowed root after all links are followed.

    Raises:
        Problem: 403 for whatever lies outside, existing or not; 404 for what is missing inside.
    """
    roots = [root.resolve() for root in settings.allowed_roots]
    wanted = Path(path)
    refused = Problem(
        403,
        "forbidden",
        "The path is not under a folder that this service may read.",
        {"field": "path", "hint": "Upload the scan, or ask the administrator to allow its folder."},
    )
    if "\0" in path or not wanted.is_absolute():
        raise refused
    try:
        resolved = wanted.resolve()
    except (OSError, RuntimeError):  # a loop of links
        raise refused from None
    if not any(resolved.is_relative_to(root) for root in roots):
        raise refused
    if not resolved.is_file():
        raise Problem(404, "not-found", "There is no such file.", {"field": "path", "found": path})
    return resolved


async def _write(stream: BinaryIO, chunks: AsyncIterator[bytes]) -> int:
    """Write small chunks in blocks, outside the event loop."""
    size, waiting = 0, bytearray()
    async for chunk in chunks:
        waiting += chunk
        size += len(chunk)
        if len(waiting) >= BLOCK:
            await asyncio.to_thread(stream.write, bytes(waiting))
            waiting.clear()
    await asyncio.to_thread(stream.write, bytes(waiting))
    return size
