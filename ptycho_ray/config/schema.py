"""The settings of a class as fields of another schema, made from its fields and the docstrings below them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def docstrings_of_fields(cls: type) -> dict[str, str]:
    """The string below each field in the source of ``cls``."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    helps = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            helps[field.target.id] = " ".join(ast.literal_eval(below.value).split())
    return helps


def fields_of_settings(
    cls: type[Any], section: str = "", only: Collection[str] | None = None, extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Every setting of a class (``only`` those of these names) as a field ``section.name``, or ``name`` without a section, for
    ``pydantic.create_model``, with its help and its default.

    None of them has to be given, and one that is not given is not set. Where None is a value of the setting, the word "none"
    stands for it, too: in a query there is no other way to say it. ``extra`` goes into the JSON schema of each.
    """
    hints = typing.get_type_hints(cls, include_extras=True)
    helps = docstrings_of_fields(cls)
    members: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if only is not None and field.name not in only:
            continue
        kind: Any = hints[field.name]
        if type(None) in typing.get_args(kind):
            kind = Annotated[kind, BeforeValidator(_none)]
        words = f"{helps[field.name]} Default: {str(field.default).lower()}."
        alias = f"{section}.{field.name}" if section else None
        name = f"{section}__{field.name}" if section else field.name
        members[name] = (kind, Field(field.default, alias=alias, description=words, json_schema_extra=extra))
    return members


def _none(value: Any) -> Any:
    return None if isinstance(value, str) and value.lower() in ("none", "null") else value
