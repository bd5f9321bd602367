"""Errors as a caller sees them: problem details (RFC 9457), one document for every kind.

A problem states which field was wrong, what was found, what was expected and how to correct it. It never contains a
path of the server or a line of source code.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ptycho_ray.errors import InputError, MissingFileError
from ptycho_ray.service.database import AWAY

MEDIA_TYPE = "application/problem+json"
TYPES = "https://ptycho-ray.invalid/problems/"  # an identifier, not an address

TITLES = {
    "bad-request": "The request cannot be understood",
    "unauthorized": "A valid bearer token is needed",
    "forbidden": "Not permitted",
    "not-found": "Not found",
    "method-not-allowed": "Method not allowed",
    "timeout": "The upload stopped coming",
    "conflict": "Not possible in the present state",
    "gone": "No longer available",
    "too-large": "The upload is too large",
    "unsupported-media-type": "Unsupported type of body",
    "invalid": "The scan or an option cannot be used",
    "too-many-requests": "Too many requests",
    "internal": "The service failed",
    "busy": "The service is busy",
    "deadline": "The time limit was reached",
    "storage-full": "The service has no space left",
}


@dataclass
class Problem(Exception):
    """One error of the interface.

    Attributes:
        status: HTTP status.
        kind: last part of the problem's type, a key of TITLES.
        detail: a sentence about this occurrence.
        more: further members of the document: field, found, expected, hint, ...
        retry_after_s: how long a caller should wait before a retry.
    """

    status: int
    kind: str
    detail: str
    more: dict[str, Any] = field(default_factory=dict)
    retry_after_s: int | None = None

    def __post_init__(self) -> None:
        super().__init__(self.detail)

    def document(self, instance: str | None = None) -> dict[str, Any]:
        """The problem as RFC 9457 wants it."""
        content = {"type": TYPES + self.kind, "title": TITLES[self.kind], "status": self.status, "detail": self.detail}
        content |= {name: value for name, value in self.more.items() if value is not None}
        if self.retry_after_s is not None:
            content["retry_after_s"] = self.retry_after_s
        return content | ({"instance": instance} if instance else {})

    def headers(self) -> dict[str, str]:
        """Headers that belong to the status."""
        named = {"WWW-Authenticate": 'Bearer realm="ptycho_ray"'} if self.status == 401 else {}
        return named | ({"Retry-After": str(self.retry_after_s)} if self.retry_after_s is not None else {})

    @classmethod
    def from_document(cls, content: dict[str, Any]) -> Problem:
        """The inverse of ``document``, for a problem that was stored with a job."""
        known = {"type", "title", "status", "detail", "instance", "retry_after_s"}
        more = {name: value for name, value in content.items() if name not in known}
        kind = content["type"].removeprefix(TYPES)
        return cls(content["status"], kind, content["detail"], more, content.get("retry_after_s"))


def from_error(error: BaseException, names: dict[Path, str] | None = None) -> Problem:
    """The problem for an exception; paths in ``names`` are replaced by those names. An error that is not the
    caller's fault is reported without details, which are in the log.
    """
    if isinstance(error, Problem):
        return error
    if isinstance(error, InputError):
        file = None if error.file is None else (names or {}).get(Path(error.file), Path(error.file).name)
        facts = {
            "field": error.field,
            "found": None if error.found is None else str(error.found),
            "expected": None if error.expected is None else str(error.expected),
            "hint": error.hint,
        }
        hidden = {name: _without_paths(value, names) for name, value in facts.items()}
        text = InputError(error.problem, file=file, **hidden)
        kind, status = ("not-found", 404) if isinstance(error, MissingFileError) else ("invalid", 422)
        return Problem(status, kind, str(text), {"file": file} | hidden)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return storage_full()
    if isinstance(error, AWAY):
        return Problem(503, "busy", "The job database is away.", retry_after_s=5)
    if isinstance(error, MemoryError):
        return Problem(503, "busy", "Not enough memory for this scan at the moment.", retry_after_s=30)
    return Problem(500, "internal", "An internal error occurred. See the log of the service.")


def storage_full() -> Problem:
    """The disk is full."""
    return Problem(507, "storage-full", "The disk of the service is full.", retry_after_s=60)


def _without_paths(text: str | None, names: dict[Path, str] | None) -> str | None:
    for path, name in (names or {}).items():
        text = text.replace(str(path), name) if text else text
    return text
