"""The job database: requests, progress and outcome. It outlives every process of the service.

A job is worked on under a lease. Whoever holds it renews it; an expired lease (its holder died) can be taken by any
process, under the next attempt number. Anything that an older attempt still writes is ignored.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from ptycho_ray.service.database import jobs as table
from ptycho_ray.service.problems import Problem

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
ACTIVE = (QUEUED, RUNNING)
LEASE_S = 15.0
#: In the place of the key of a model, if a job has none.
AUTOMATIC = "automatic@"
#: A scan that kills every replica that touches it is given up after so many.
MAX_ATTEMPTS = 4


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
    """The jobs of one service. All methods block for a moment; none keeps a transaction open."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine, self.clock = engine, clock

    def check_capacity(self, owner: str, max_jobs: int, max_jobs_of_owner: int) -> None:
        """Raise Problem 503 or 429 if one more job would be too many."""
        with self.engine.begin() as connection:
            _check_capacity(connection, owner, max_jobs, max_jobs_of_owner)

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
    ) -> tuple[Job, bool]:
        """Record a job; the second value is False if the same owner used this idempotency key before and gets that job.

        Raises:
            Problem: 503 when there are ``max_jobs`` of all owners, 429 when there are ``max_jobs_of_owner`` of this one.
        """
        now = self.clock()
        job_id = job_id or new_id()
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
        }
        try:
            with self.engine.begin() as connection:
                if idempotency_key is not None and (known := _same_key(connection, owner, idempotency_key)):
                    return known, False
                _check_capacity(connection, owner, max_jobs, max_jobs_of_owner)
                connection.execute(table.insert().values(row))
        except IntegrityError:  # two at once on a database without a global write lock
            with self.engine.begin() as connection:
                known = _same_key(connection, owner, str(idempotency_key))
            if known is None:
                raise
            return known, False
        return self.get(job_id), True

    def with_key(self, owner: str, idempotency_key: str) -> Job | None:
        """The job that this owner created under this key."""
        with self.engine.connect() as connection:
            return _same_key(connection, owner, idempotency_key)

    def get(self, job_id: str) -> Job:
        """One job; Problem 404 if there is none."""
        with self.engine.connect() as connection:
            row = connection.execute(table.select().where(table.c.id == job_id)).mappings().first()
        if row is None:
            raise Problem(404, "not-found", "There is no such reconstruction (any more).", {"field": "id"})
        return Job(**row)

    def exists(self, job_id: str) -> bool:
        """Whether there is such a job."""
        with self.engine.connect() as connection:
            return connection.execute(sa.select(table.c.id).where(table.c.id == job_id)).first() is not None

    def recent(self, owner: str | None, limit: int) -> list[Job]:
        """The newest jobs of an owner, or of all."""
        query = table.select().order_by(table.c.created.desc()).limit(limit)
        if owner is not None:
            query = query.where(table.c.owner == owner)
        with self.engine.connect() as connection:
            return [Job(**row) for row in connection.execute(query).mappings()]

    def claim(self, job_id: str, worker: str) -> int | None:
        """Take the lease of a job that is active and free; the number of the attempt, or None."""
        now = self.clock()
        free = (table.c.id == job_id) & table.c.state.in_(ACTIVE) & (table.c.lease_until < now)
        with self.engine.begin() as connection:
            taken = connection.execute(
                table.update()
                .where(free)
                .values(
                    lease_owner=worker,
                    lease_until=now + LEASE_S,
                    attempt=table.c.attempt + 1,
                    state=QUEUED,
                    done=0,
                    stage="waiting",
                    facts=None,
                )
            )
            if not taken.rowcount:
                return None
            return connection.execute(sa.select(table.c.attempt).where(table.c.id == job_id)).scalar_one()

    def hand_back(self, job_id: str, attempt: int) -> None:
        """Free the lease of a lost attempt."""
        self._write(job_id, attempt, {"lease_until": 0.0})

    def renew(self, worker: str) -> None:
        """Keep all leases of a worker."""
        mine = (table.c.lease_owner == worker) & table.c.state.in_(ACTIVE)
        with self.engine.begin() as connection:
            connection.execute(table.update().where(mine).values(lease_until=self.clock() + LEASE_S))

    def release(self, worker: str) -> None:
        """Give up all leases of a worker, so that another one can continue at once."""
        mine = (table.c.lease_owner == worker) & table.c.state.in_(ACTIVE)
        with self.engine.begin() as connection:
            connection.execute(table.update().where(mine).values(lease_until=0.0))

    def report(
        self, job_id: str, attempt: int, stage: str, done: int, total: int, facts: dict[str, Any] | None = None
    ) -> bool:
        """Record the progress of an attempt and what it has found so far; False if its result is no longer wanted."""
        values: dict[str, Any] = {"stage": stage, "done": done, "total": total, "state": RUNNING}
        values["started"] = sa.func.coalesce(table.c.started, self.clock())
        if facts is not None:
            values["facts"] = facts
        return self._write(job_id, attempt, values)

    def finish(self, job_id: str, attempt: int, facts: dict[str, Any]) -> bool:
        """Record that an attempt has written its result; False if it is too late."""
        return self._write(job_id, attempt, {"state": DONE, "stage": "done", "finished": self.clock(), "facts": facts})

    def fail(self, job_id: str, attempt: int, problem: Problem) -> bool:
        """Record that an attempt has failed with a problem that another attempt would meet too."""
        document = problem.document()
        return self._write(job_id, attempt, {"state": FAILED, "finished": self.clock(), "problem": document})

    def cancel(self, job_id: str) -> bool:
        """Cancel a job that is active; False if it was not."""
        active = (table.c.id == job_id) & table.c.state.in_(ACTIVE)
        with self.engine.begin() as connection:
            values = {"state": CANCELLED, "finished": self.clock()}
            return bool(connection.execute(table.update().where(active).values(values)).rowcount)

    def abandoned(self) -> list[Job]:
        """Active jobs whose lease has run out."""
        query = table.select().where(table.c.state.in_(ACTIVE) & (table.c.lease_until < self.clock()))
        with self.engine.connect() as connection:
            return [Job(**row) for row in connection.execute(query.order_by(table.c.created)).mappings()]

    def old(self, keep_s: float) -> list[str]:
        """Jobs that ended at least this long ago."""
        query = sa.select(table.c.id).where(table.c.finished < self.clock() - keep_s)
        with self.engine.connect() as connection:
            return list(connection.execute(query).scalars())

    def delete(self, job_id: str) -> None:
        """Forget a job."""
        with self.engine.begin() as connection:
            connection.execute(table.delete().where(table.c.id == job_id))

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        query = sa.select(table.c.state, sa.func.count()).group_by(table.c.state)
        with self.engine.connect() as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        return {state: found.get(state, 0) for state in (QUEUED, RUNNING, DONE, FAILED, CANCELLED)}

    def _write(self, job_id: str, attempt: int, values: dict[str, Any]) -> bool:
        mine = (table.c.id == job_id) & (table.c.attempt == attempt) & table.c.state.in_(ACTIVE)
        with self.engine.begin() as connection:
            return bool(connection.execute(table.update().where(mine).values(values)).rowcount)


def new_id() -> str:
    """An unguessable name."""
    return secrets.token_hex(16)


def _same_key(connection: sa.Connection, owner: str, key: str) -> Job | None:
    query = table.select().where((table.c.owner == owner) & (table.c.idempotency_key == key))
    row = connection.execute(query).mappings().first()
    return None if row is None else Job(**row)


def _check_capacity(connection: sa.Connection, owner: str, max_jobs: int, max_jobs_of_owner: int) -> None:
    active = sa.select(sa.func.count()).select_from(table).where(table.c.state.in_(ACTIVE))
    if connection.execute(active).scalar_one() >= max_jobs:
        raise Problem(503, "busy", f"{max_jobs} reconstructions are waiting or running.", retry_after_s=5)
    if connection.execute(active.where(table.c.owner == owner)).scalar_one() >= max_jobs_of_owner:
        raise Problem(
            429,
            "too-many-requests",
            f"{max_jobs_of_owner} reconstructions of this token are waiting or running.",
            retry_after_s=5,
        )
