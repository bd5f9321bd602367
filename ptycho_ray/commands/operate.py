"""``ptycho-ray operate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from ptycho_ray.commands.common import FOLDER, Common, Result, tell
from ptycho_ray.commands.output import WritingOptions, file_to_write
from ptycho_ray.config.command_line import parse

if TYPE_CHECKING:
    from ptycho_ray.service.settings import ServiceSettings


@dataclass(kw_only=True)
class Options(Common, WritingOptions):
    """Operate a reconstruction service: stop it with nothing lost, back up its job database, settle quotas, write alerts.

    Example: ptycho-ray operate backup jobs.backup --data-dir service
    Example: ptycho-ray operate quota beamline-7 --priority 5 --jobs-a-day 500 --gib-kept 200
    """

    action: Annotated[
        Literal["drain", "accept", "backup", "restore", "quota", "quotas", "alerts"], tyro.conf.Positional
    ]
    """drain: accept no new work, finish all that was accepted, then stop (a restart continues, with whatever version of the
    program); accept: accept new work again after all; backup FILE, restore FILE: the job database, while the service runs and
    while it does not; quota NAME: settle what the jobs of a token's name may take, '*' for all names without a quota of their
    own; quotas: list them; alerts FILE: rules for Prometheus."""
    subject: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE|NAME")] = ""
    """A file, or the name of tokens."""
    data_dir: Annotated[Path, FOLDER] = Path("service")
    """Data folder of the service."""
    database_url: str | None = None
    """SQLAlchemy URL of its job database, if that is not a SQLite file in --data-dir."""
    at_most_s: float = 3600.0
    """drain: how long to wait; the service goes on to finish its work after that."""
    priority: int = 0
    """quota: waiting jobs of a higher priority are done first; -100 to 100."""
    jobs_at_once: int | None = None
    """quota: jobs that wait or run; if not given, what the service allows everybody."""
    jobs_a_day: int | None = None
    """quota: jobs in any 24 hours; without limit if not given, as the following."""
    gib_kept: float | None = None
    """quota: GiB of uploads and results."""
    compute_hours_a_day: float | None = None
    """quota: hours of processors and GPU in any 24 hours."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray operate").options
    from ptycho_ray.errors import InputError
    from ptycho_ray.service.settings import ServiceSettings

    if options.action in ("backup", "restore", "quota", "alerts") and not options.subject:
        expected = "the name of tokens, or '*'" if options.action == "quota" else "a file"
        raise InputError(field=options.action, found="nothing", expected=expected)
    if options.action == "alerts":
        from ptycho_ray.service.alerts import rules

        path = Path(options.subject)
        file_to_write(path, overwrite=options.overwrite, inputs=[])
        path.write_text(rules(), encoding="utf-8")
        return {"rules": path}
    settings = ServiceSettings(data_dir=options.data_dir.resolve(), database_url=options.database_url)
    if not settings.data_dir.is_dir() and options.action != "restore":
        raise InputError(field="data_dir", found=str(options.data_dir), expected="the data folder of a service")
    if options.action in ("drain", "accept"):
        return _drain(options, settings)
    if options.action in ("backup", "restore"):
        return _copy(options, settings)
    return _quotas(options, settings)


def _drain(options: Options, settings: ServiceSettings) -> Result:
    from ptycho_ray.service import draining
    from ptycho_ray.service.database import connect
    from ptycho_ray.service.jobs import QUEUED, RUNNING, JobStore

    if options.action == "accept":
        draining.accept(settings.data_dir)
        return {"accepts": True}
    store = JobStore(connect(settings.database))

    def active() -> int:
        counts = store.counts()
        return counts[QUEUED] + counts[RUNNING]

    draining.drain(settings.data_dir)
    done = draining.wait_until_done(active, settings.data_dir, options.at_most_s, tell)
    return {"drained": done, "left": active()} | ({} if done else {"exit_code": 1})


def _copy(options: Options, settings: ServiceSettings) -> Result:
    from ptycho_ray.service.backup import back_up, restore
    from ptycho_ray.service.database import connect
    from ptycho_ray.service.draining import only_one
    from ptycho_ray.service.jobs import JobStore

    path = Path(options.subject)
    if options.action == "backup":
        file_to_write(path, overwrite=options.overwrite, inputs=[])
        back_up(settings.database, path)
        return {"backup": path, "bytes": path.stat().st_size}
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with only_one(settings.data_dir):
        if settings.database_url is None:
            file_to_write(settings.data_dir / "jobs.sqlite", overwrite=options.overwrite, inputs=[path])
        restore(settings.database, path)
        return {"restored": path, "jobs": JobStore(connect(settings.database)).counts()}


def _quotas(options: Options, settings: ServiceSettings) -> Result:
    from ptycho_ray.service.database import connect
    from ptycho_ray.service.quotas import Quota, QuotaStore

    store = QuotaStore(connect(settings.database))
    if options.action == "quota":
        hours, gib = options.compute_hours_a_day, options.gib_kept
        quota = Quota(
            options.priority,
            options.jobs_at_once,
            options.jobs_a_day,
            None if gib is None else int(gib * 2**30),
            None if hours is None else hours * 3600,
        )
        store.settle(options.subject, quota)
    return {"quotas": {name: vars(quota) | {"used": store.usage(name)} for name, quota in store.all().items()}}
