"""What the jobs of one name may take, and in which order they are done: settled by an administrator, kept in the job database.

A quota belongs to the *name* of tokens, as jobs do, so a rotated token has that of the old one. ``EVERYBODY`` is the quota of
all names that have none of their own.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from ptycho_ray.errors import InputError
from ptycho_ray.service.database import jobs, one_writer
from ptycho_ray.service.database import quotas as table
from ptycho_ray.service.problems import Problem

DAY_S = 86400.0
EVERYBODY = "*"
AT_ONCE_S = 5
#: What a caller is told to wait where only deleting a reconstruction helps.
MOST_WAIT_S = 3600
PRIORITIES = range(-100, 101)
#: What the columns of the limits hold.
MOST = {"jobs_at_once": 2**31 - 1, "jobs_a_day": 2**31 - 1, "bytes_kept": 2**63 - 1}


@dataclasses.dataclass(frozen=True)
class Quota:
    """What the jobs of one name may take; None is no limit, of ``jobs_at_once`` that of the service's settings."""

    priority: int = 0
    """Waiting jobs of a higher priority are done first; -100 to 100."""
    jobs_at_once: int | None = None
    """Jobs that wait or run."""
    jobs_a_day: int | None = None
    """Jobs in any 24 hours."""
    bytes_kept: int | None = None
    """Bytes of uploads and results on the service's disk."""
    compute_s_a_day: float | None = None
    """Processor and GPU seconds of the jobs of any 24 hours."""


class QuotaStore:
    """The quotas of one service."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine, self.clock = engine, clock

    def of(self, name: str) -> Quota:
        """The quota of a name: its own, or that of everybody."""
        with self.engine.begin() as connection:
            return quota_of(connection, name)

    def all(self) -> dict[str, Quota]:
        """Every quota that was settled, by name."""
        with self.engine.begin() as connection:
            return {
                row["name"]: _quota(row) for row in connection.execute(table.select().order_by(table.c.name)).mappings()
            }

    def settle(self, name: str, quota: Quota) -> None:
        """Give a name this quota from now on, in the place of the one that it had.

        Raises:
            InputError: a limit below zero or beyond what a database holds, or a priority out of range.
        """
        for field, value in vars(quota).items():
            most = MOST.get(field, math.inf)
            if field != "priority" and value is not None and not 0 <= value <= most:
                expected = f"0 to {most}; leave it out for no limit" if field in MOST else "0 or more"
                raise InputError(field=field, found=value, expected=expected)
        if quota.priority not in PRIORITIES:
            raise InputError(field="priority", found=quota.priority, expected=f"{PRIORITIES[0]} to {PRIORITIES[-1]}")
        with self.engine.begin() as connection:
            one_writer(connection)
            connection.execute(table.delete().where(table.c.name == name))
            connection.execute(table.insert().values({"name": name} | vars(quota)))

    def remove(self, name: str) -> bool:
        """Let a name have the quota of everybody again; False if it had none of its own."""
        with self.engine.begin() as connection:
            return bool(connection.execute(table.delete().where(table.c.name == name)).rowcount)

    def usage(self, name: str) -> dict[str, float]:
        """What the jobs of a name take of each limit, now or in the last 24 hours."""
        with self.engine.begin() as connection:
            used = {limit: _used(connection, name, self.clock(), limit) for limit in _SAID}
        return {limit: value if limit == "compute_s_a_day" else int(value) for limit, value in used.items()}


def quota_of(connection: sa.Connection, name: str) -> Quota:
    """The quota of a name."""
    rows = connection.execute(table.select().where(table.c.name.in_((name, EVERYBODY)))).mappings()
    found = {row["name"]: _quota(row) for row in rows}
    return found.get(name) or found.get(EVERYBODY) or Quota()


def check_quota(connection: sa.Connection, owner: str, now: float, max_jobs_at_once: int) -> None:
    """Raise Problem 429, with the seconds after which it is worth trying again, if ``owner`` may have no further job."""
    quota = quota_of(connection, owner)
    quota = dataclasses.replace(
        quota, jobs_at_once=max_jobs_at_once if quota.jobs_at_once is None else quota.jobs_at_once
    )
    for field, most in vars(quota).items():
        if field != "priority" and most is not None and (taken := _used(connection, owner, now, field)) >= most:
            wait_s = _wait(connection, owner, now, field, most)
            raise Problem(429, "too-many-requests", _SAID[field].format(most), _more(field, taken, most), wait_s)


_SAID = {
    "jobs_at_once": "{} reconstructions of this token are waiting or running.",
    "jobs_a_day": "{} reconstructions of this token were accepted in the last 24 hours.",
    "bytes_kept": "The reconstructions of this token have the {} bytes that they may.",
    "compute_s_a_day": "The reconstructions of the last 24 hours had the {} s of processors that they may.",
}


def _more(field: str, taken: float, most: float) -> dict[str, Any]:
    hint = "Delete reconstructions that are no longer needed (DELETE /v1/reconstructions/ID)."
    more = {"quota": field, "found": taken, "expected": f"less than {most}"}
    return more | ({"hint": hint} if field == "bytes_kept" else {})


def _used(connection: sa.Connection, owner: str, now: float, field: str) -> float:
    value, which = {
        "jobs_at_once": (sa.func.count(), jobs.c.finished.is_(None)),
        "jobs_a_day": (sa.func.count(), jobs.c.created > now - DAY_S),
        "bytes_kept": (sa.func.sum(jobs.c.bytes), sa.true()),
        "compute_s_a_day": (sa.func.sum(jobs.c.cpu_s + jobs.c.gpu_s), jobs.c.created > now - DAY_S),
    }[field]
    return float(connection.execute(sa.select(value).where((jobs.c.owner == owner) & which)).scalar() or 0)


def _wait(connection: sa.Connection, owner: str, now: float, field: str, most: float) -> int:
    """Seconds until there is room again."""
    if field == "jobs_at_once":
        return AT_ONCE_S
    mine = jobs.c.owner == owner
    if field == "bytes_kept":  # until the next files go by themselves
        at = connection.execute(sa.select(sa.func.min(jobs.c.expires)).where(mine & (jobs.c.bytes > 0))).scalar()
        return MOST_WAIT_S if at is None else max(1, min(MOST_WAIT_S, math.ceil(at - now)))
    spent = sa.literal(1.0) if field == "jobs_a_day" else jobs.c.cpu_s + jobs.c.gpu_s
    query = sa.select(jobs.c.created, spent).where(mine & (jobs.c.created > now - DAY_S)).order_by(jobs.c.created)
    rows = connection.execute(query).all()
    left = sum(float(row[1]) for row in rows)
    for created, share in rows:  # the oldest leave the day first
        left -= float(share)
        if left < most:
            return max(1, math.ceil(created + DAY_S - now))
    return int(DAY_S)


def _quota(row: Any) -> Quota:
    return Quota(**{field.name: row[field.name] for field in dataclasses.fields(Quota)})
