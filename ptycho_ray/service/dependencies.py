"""What routes ask of a request: the service, and a caller of some role."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request

from ptycho_ray.service.problems import Problem
from ptycho_ray.service.service import Service
from ptycho_ray.service.tokens import Token


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
