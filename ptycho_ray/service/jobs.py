"""The job database: requests, progress and outcome. It outlives every process of the service.

A job is worked on under a lease. Whoever holds it renews it; an expired lease (its holder died) can be taken by any
process, under the next attempt number. Anything that an older attempt still writes is ignored.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ptycho_ray.service.database import jobs as table
from ptycho_ray.service.database import one_writer, patient
from ptycho_ray.service.problems import Problem
from ptycho_ray.service.quotas import DAY_S, check_quota, quota_of

T = TypeVar("T")
QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
#: A job whose files are gone and that nobody sees any more; it counts in the quota of its day.
DELETED = "deleted"
ACTIVE = (QUEUED, RUNNING)
LEASE_S = 15.0
#: In the place of the key of a model, if a job has none.
AUTOMATIC = "automatic@"
#: The same, of a job that only looks at its scan.
LOOK = "look@"
#: A scan that kills every replica that touches it is given up after so many.
MAX_ATTEMPTS = 4
#: Jobs from which the cost of another one is estimated.
RECENT_JOBS = 50


@dataclass(frozen=True)
class Job:
    """One row of the database; times in seconds since the epoch."""

    id: str
    owner: str
    idempotency_key: str | None
    state: str
    created: float
    started: float | None
    finished: float | None
    deadline: float
    model: str
    options: dict[str, Any]
    source: str
    source_name: str
    stage: str
    done: int
    total: int
    attempt: int
    lease_owner: str | None
    lease_until: float
    facts: dict[str, Any] | None
    problem: dict[str, Any] | None
    priority: int
    expires: float | None
    patterns: int | None
    side: int | None
    cpu_s: float
    gpu_s: float
    bytes: int

    @property
    def active(self) -> bool:
        """Whether it is waiting or running."""
        return self.state in ACTIVE

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        return 1.0 if self.state == DONE else self.done / self.total if self.total else 0.0

    def seconds_left(self, now: float) -> float | None:
        """Estimated time to the end; None while unknown."""
        if self.state != RUNNING or self.started is None or not 0 < self.progress < 1:
            return None
        return (now - self.started) * (1 / self.progress - 1)


class JobStore:
    """The jobs of one service. All methods block for a moment; none keeps a transaction open.

    Args:
        engine: of the database.
        clock: seconds since the epoch.
        keep_s: how long the files of a job are kept after its end.
        patience_s: how long to try again while a database server is away.
    """

    def __init__(
        self,
        engine: sa.Engine,
        clock: Callable[[], float] = time.time,
        keep_s: float = 7 * DAY_S,
        patience_s: float = 5.0,
    ) -> None:
        self.engine, self.clock, self.keep_s, self.patience_s = engine, clock, keep_s, patience_s

    def check_capacity(self, owner: str, max_jobs: int, max_jobs_of_owner: int) -> None:
        """Raise Problem 503 or 429 if one more job would be too many."""
        self._do(lambda connection: self._check_capacity(connection, owner, max_jobs, max_jobs_of_owner))

    def create(
        self,
        *,
        owner: str,
        model: str,
        options: dict[str, Any],
        source: str,
        source_name: str,
        deadline_s: float,
        max_jobs: int,
        max_jobs_of_owner: int,
        job_id: str | None = None,
        idempotency_key: str | None = None,
        size: int = 0,
    ) -> tuple[Job, bool]:
        """Record a job whose scan takes ``size`` bytes, with the priority of its owner; the second value is False if the same
        owner used this idempotency key before and gets that job.

        Raises:
            Problem: 503 when there are ``max_jobs`` of all owners, 429 when the quota of this one is used up; it has
                ``max_jobs_of_owner`` at once if nothing else was settled.
        """
        now, job_id = self.clock(), job_id or new_id()
        row = {
            "id": job_id,
            "owner": owner,
            "idempotency_key": idempotency_key,
            "state": QUEUED,
            "created": now,
            "deadline": now + deadline_s,
            "model": model,
            "options": options,
            "source": source,
            "source_name": source_name,
            "bytes": size,
        }

        def insert(connection: sa.Connection) -> tuple[Job, bool]:
            one_writer(connection)
            if idempotency_key is not None and (known := _same_key(connection, owner, idempotency_key)):
                return known, False
            if (mine := _job(connection, job_id)) is not None:  # the server went between writing it and saying so
                return mine, True
            self._check_capacity(connection, owner, max_jobs, max_jobs_of_owner)
            priority = quota_of(connection, owner).priority
            connection.execute(table.insert().values(row | {"priority": priority}))
            return Job(**connection.execute(table.select().where(table.c.id == job_id)).mappings().one()), True

        try:
            return self._do(insert)
        except IntegrityError:  # two at once on a database that has no lock for it
            known = None if idempotency_key is None else self.with_key(owner, idempotency_key)
            if known is None:
                raise
            return known, False

    def with_key(self, owner: str, idempotency_key: str) -> Job | None:
        """The job that this owner created under this key."""
        return self._do(lambda connection: _same_key(connection, owner, idempotency_key))

    def get(self, job_id: str) -> Job:
        """One job; Problem 404 if there is none."""
        found = self._do(lambda connection: _job(connection, job_id))
        if found is None:
            raise Problem(404, "not-found", "There is no such reconstruction (any more).", {"field": "id"})
        return found

    def exists(self, job_id: str) -> bool:
        """Whether there is such a job."""
        return self._do(lambda connection: _job(connection, job_id)) is not None

    def recent(self, owner: str | None, limit: int) -> list[Job]:
        """The newest jobs of an owner, or of all."""
        query = table.select().where(table.c.state != DELETED).order_by(table.c.created.desc()).limit(limit)
        return self._jobs(query if owner is None else query.where(table.c.owner == owner))

    def claim(self, job_id: str, worker: str) -> int | None:
        """Take the lease of a job that is active and free; the number of the attempt, or None."""
        now = self.clock()
        free = (table.c.id == job_id) & table.c.state.in_(ACTIVE) & (table.c.lease_until < now)
        values = {
            "lease_owner": worker,
            "lease_until": now + LEASE_S,
            "attempt": table.c.attempt + 1,
            "state": QUEUED,
            "done": 0,
            "stage": "waiting",
            "facts": None,
        }

        def take(connection: sa.Connection) -> int | None:
            if not connection.execute(table.update().where(free).values(values)).rowcount:
                return None
            return connection.execute(sa.select(table.c.attempt).where(table.c.id == job_id)).scalar_one()

        return self._do(take)

    def hand_back(self, job_id: str, attempt: int) -> None:
        """Free the lease of a lost attempt."""
        self._write(job_id, attempt, {"lease_until": 0.0})

    def renew(self, worker: str) -> None:
        """Keep all leases of a worker."""
        self._lease(worker, self.clock() + LEASE_S)

    def release(self, worker: str) -> None:
        """Give up all leases of a worker, so that another one can continue at once."""
        self._lease(worker, 0.0)

    def report(
        self,
        job_id: str,
        attempt: int,
        stage: str,
        done: int,
        total: int,
        facts: dict[str, Any] | None = None,
        cost: Mapping[str, Any] | None = None,
    ) -> bool:
        """Record the progress of an attempt, what it has found and cost so far; False if its result is no longer wanted.
        ``cost`` has any of ``patterns``, ``side``, ``cpu_s``, ``gpu_s`` and ``bytes``."""
        values: dict[str, Any] = {"stage": stage, "done": done, "total": total, "state": RUNNING}
        values["started"] = sa.func.coalesce(table.c.started, self.clock())
        if facts is not None:
            values["facts"] = facts
        return self._write(job_id, attempt, values | dict(cost or {}))

    def finish(self, job_id: str, attempt: int, facts: dict[str, Any], cost: Mapping[str, Any] | None = None) -> bool:
        """Record that an attempt has written its result; False if it is too late."""
        values = {"state": DONE, "stage": "done", "facts": facts}
        return self._write(job_id, attempt, values | self._end() | dict(cost or {}))

    def fail(self, job_id: str, attempt: int, problem: Problem, cost: Mapping[str, Any] | None = None) -> bool:
        """Record that an attempt has failed with a problem that another attempt would meet too."""
        values = {"state": FAILED, "problem": problem.document()}
        return self._write(job_id, attempt, values | self._end() | dict(cost or {}))

    def cancel(self, job_id: str) -> bool:
        """Cancel a job that is active; False if it was not."""
        active = (table.c.id == job_id) & table.c.state.in_(ACTIVE)
        return self._change(active, {"state": CANCELLED} | self._end())

    def free(self, automatic: bool, limit: int | None = None) -> list[Job]:
        """Active jobs that nobody holds, with a model or without: those of the highest priority first, then the oldest."""
        kind = table.c.model == AUTOMATIC if automatic else table.c.model != AUTOMATIC
        query = table.select().where(table.c.state.in_(ACTIVE) & (table.c.lease_until < self.clock()) & kind)
        return self._jobs(query.order_by(table.c.priority.desc(), table.c.created).limit(limit))

    def expired(self, most_bytes: int = 0) -> list[str]:
        """Ended jobs whose files are no longer kept: because of their age, or the oldest while all together have more than
        ``most_bytes`` (0: any number)."""
        ended = table.c.state.not_in((*ACTIVE, DELETED))
        due = sa.func.coalesce(table.c.expires, table.c.finished + self.keep_s) < self.clock()

        def find(connection: sa.Connection) -> list[str]:
            old = list(connection.execute(sa.select(table.c.id).where(ended & due)).scalars())
            kept = sa.select(sa.func.coalesce(sa.func.sum(table.c.bytes), 0)).where(table.c.id.not_in(old))
            spare = int(connection.execute(kept).scalar_one()) - most_bytes
            if not most_bytes or spare <= 0:
                return old
            young = sa.select(table.c.id, table.c.bytes).where(ended & ~due).order_by(table.c.finished)
            for job_id, size in connection.execute(young):
                if spare <= 0:
                    break
                old.append(job_id)
                spare -= size
            return old

        return self._do(find)

    def delete(self, job_id: str) -> None:
        """Forget a job, but for what it counts in the quota of its day."""
        values: dict[str, Any] = {
            "state": DELETED,
            "idempotency_key": None,
            "source": "",
            "source_name": "",
            "options": {},
        }
        self._change(table.c.id == job_id, values | {"facts": None, "problem": None, "bytes": 0})
        old = (table.c.state == DELETED) & (table.c.created < self.clock() - DAY_S)
        self._do(lambda connection: connection.execute(table.delete().where(old)))

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        query = sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
        found = dict(self._do(lambda connection: [tuple(row) for row in connection.execute(query)]))
        return {state: found.get(state, 0) for state in (QUEUED, RUNNING, DONE, FAILED, CANCELLED)}

    def oldest_waiting_s(self) -> float:
        """How long the oldest queued job has waited; 0 if there is none."""
        query = sa.select(sa.func.min(table.c.created)).where(table.c.state == QUEUED)
        first = self._do(lambda connection: connection.execute(query).scalar())
        return 0.0 if first is None else max(0.0, self.clock() - first)

    def done_like(self, model: str) -> list[Job]:
        """The newest jobs that were done with this model, or without any."""
        like = (table.c.model == model) & (table.c.state == DONE) & (table.c.patterns > 0) & (table.c.cpu_s > 0)
        return self._jobs(table.select().where(like).order_by(table.c.finished.desc()).limit(RECENT_JOBS))

    def _do(self, work: Callable[[sa.Connection], T]) -> T:
        return patient(self.engine, work, self.patience_s)

    def _jobs(self, query: sa.Select[Any]) -> list[Job]:
        return self._do(lambda connection: [Job(**row) for row in connection.execute(query).mappings()])

    def _end(self) -> dict[str, float]:
        now = self.clock()
        return {"finished": now, "expires": now + self.keep_s}

    def _lease(self, worker: str, until: float) -> None:
        self._change((table.c.lease_owner == worker) & table.c.state.in_(ACTIVE), {"lease_until": until})

    def _write(self, job_id: str, attempt: int, values: dict[str, Any]) -> bool:
        return self._change((table.c.id == job_id) & (table.c.attempt == attempt) & table.c.state.in_(ACTIVE), values)

    def _change(self, which: sa.ColumnElement[bool], values: dict[str, Any]) -> bool:
        update = table.update().where(which).values(values)
        return self._do(lambda connection: bool(connection.execute(update).rowcount))

    def _check_capacity(self, connection: sa.Connection, owner: str, max_jobs: int, max_jobs_of_owner: int) -> None:
        active = sa.select(sa.func.count()).select_from(table).where(table.c.state.in_(ACTIVE))
        if connection.execute(active).scalar_one() >= max_jobs:
            raise Problem(503, "busy", f"{max_jobs} reconstructions are waiting or running.", retry_after_s=5)
        check_quota(connection, owner, self.clock(), max_jobs_of_owner)


def new_id() -> str:
    """An unguessable name."""
    return secrets.token_hex(16)


def _job(connection: sa.Connection, job_id: str) -> Job | None:
    query = table.select().where((table.c.id == job_id) & (table.c.state != DELETED))
    row = connection.execute(query).mappings().first()
    return None if row is None else Job(**row)


def _same_key(connection: sa.Connection, owner: str, key: str) -> Job | None:
    query = table.select().where((table.c.owner == owner) & (table.c.idempotency_key == key))
    row = connection.execute(query).mappings().first()
    return None if row is None else Job(**row)
