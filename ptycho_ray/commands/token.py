"""``ptycho-ray token``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ptycho_ray.commands.common import FOLDER, Common, Result
from ptycho_ray.config.command_line import parse


@dataclass(kw_only=True)
class Options(Common):
    """Manage access to a reconstruction service. A token is shown once, when it is created; only its hash is stored.

    Example: ptycho-ray token add beamline-7 --role submit --days 90
    """

    action: Annotated[Literal["add", "list", "rotate", "remove"], tyro.conf.Positional]
    """add NAME; list; rotate ID: issue a new token, the old one works for another hour; remove ID: revoke at once."""
    subject: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|ID")] = ""
    """Name of a new token, or id of an existing one."""
    role: Literal["read", "submit", "admin"] = "submit"
    """What the token permits: read results; also submit scans; or everything."""
    days: float | None = None
    """How long the token is valid; without limit if not given."""
    data_dir: Annotated[Path, FOLDER] = Path("service")
    """Data folder of the service."""
    database_url: str | None = None
    """SQLAlchemy URL of its job database, if that is not a SQLite file in --data-dir."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray token").options
    from ptycho_ray.errors import InputError
    from ptycho_ray.service.database import connect
    from ptycho_ray.service.settings import ServiceSettings
    from ptycho_ray.service.tokens import TokenStore

    settings = ServiceSettings(data_dir=options.data_dir.resolve(), database_url=options.database_url)
    store = TokenStore(connect(settings.database))
    if options.action == "list":
        return {"tokens": [vars(token) for token in store.all()]}
    if options.action == "remove":
        if not store.remove(options.subject):
            raise InputError(field="id", found=repr(options.subject), expected="the id of a token")
        return {"removed": options.subject}
    if options.action == "rotate":
        token, text = store.rotate(options.subject)
    else:
        token, text = store.add(options.subject, options.role, options.days)
    return vars(token) | {"token": text}
