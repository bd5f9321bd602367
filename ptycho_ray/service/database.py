"""The tables of the service, in SQLite or in whatever database the URL names, and how those of earlier versions become
these."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import InterfaceError, OperationalError

from ptycho_ray.errors import ConfigurationError

log = logging.getLogger(__name__)

T = TypeVar("T")
metadata = sa.MetaData()
#: What SQLAlchemy raises while a database server is away.
AWAY = (OperationalError, InterfaceError)
AGAIN_S = 0.3
#: A database server may be starting, too.
START_S = 30.0
#: Under this number all writers of PostgreSQL wait for each other where SQLite has its one lock.
LOCK = 0x707479

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("owner", sa.String(100), nullable=False),
    sa.Column("idempotency_key", sa.String(200)),
    sa.Column("state", sa.String(10), nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("started", sa.Float),
    sa.Column("finished", sa.Float),
    sa.Column("deadline", sa.Float, nullable=False),
    sa.Column("model", sa.String(300), nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("source_name", sa.String(300), nullable=False),
    sa.Column("stage", sa.String(30), nullable=False, default="waiting"),
    sa.Column("done", sa.Integer, nullable=False, default=0),
    sa.Column("total", sa.Integer, nullable=False, default=0),
    sa.Column("attempt", sa.Integer, nullable=False, default=0),
    sa.Column("lease_owner", sa.String(100)),
    sa.Column("lease_until", sa.Float, nullable=False, default=0.0),
    sa.Column("facts", sa.JSON),
    sa.Column("problem", sa.JSON),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
    sa.Column("expires", sa.Float),
    sa.Column("patterns", sa.Integer),
    sa.Column("side", sa.Integer),
    sa.Column("cpu_s", sa.Float, nullable=False, server_default="0"),
    sa.Column("gpu_s", sa.Float, nullable=False, server_default="0"),
    sa.Column("bytes", sa.BigInteger, nullable=False, server_default="0"),
    sa.UniqueConstraint("owner", "idempotency_key"),
    sa.Index("jobs_by_state", "state", "lease_until"),
    sa.Index("jobs_by_owner", "owner", "created"),
)

tokens = sa.Table(
    "tokens",
    metadata,
    sa.Column("id", sa.String(16), primary_key=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("role", sa.String(10), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("expires", sa.Float),
)


quotas = sa.Table(
    "quotas",
    metadata,
    sa.Column("name", sa.String(100), primary_key=True),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("jobs_at_once", sa.Integer),
    sa.Column("jobs_a_day", sa.Integer),
    sa.Column("bytes_kept", sa.BigInteger),
    sa.Column("compute_s_a_day", sa.Float),
)

version = sa.Table("schema_version", metadata, sa.Column("version", sa.Integer, nullable=False))

#: What turns the tables of version 1, 2, ... into those of the next. New tables need no step. Columns are only added, with a
#: default, so that an earlier program may go on beside a new one.
STEPS: tuple[tuple[str, ...], ...] = (
    (
        "ALTER TABLE jobs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN expires DOUBLE PRECISION",
        "ALTER TABLE jobs ADD COLUMN patterns INTEGER",
        "ALTER TABLE jobs ADD COLUMN side INTEGER",
        "ALTER TABLE jobs ADD COLUMN cpu_s DOUBLE PRECISION NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN gpu_s DOUBLE PRECISION NOT NULL DEFAULT 0",
        "ALTER TABLE jobs ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0",
        "UPDATE jobs SET expires = finished + 604800 WHERE finished IS NOT NULL",
    ),
)


def connect(url: str) -> sa.Engine:
    """An engine with the tables of this program. A SQLite file is readable by its owner only; many processes can use it.

    Raises:
        ConfigurationError: the server does not answer for half a minute, its driver is not installed, or the tables are those
            of a later program.
    """
    engine = _sqlite(sa.make_url(url)) if is_sqlite(url) else _server(url)
    try:
        patient(engine, _bring_up_to_date, START_S)
    except AWAY as error:
        raise ConfigurationError(
            field="database_url",
            found=str(error.orig).strip(),
            expected=f"an answer of {engine.url.render_as_string(hide_password=True)}",
        ) from error
    return engine


def is_sqlite(url: str) -> bool:
    """Whether this is a file and no server."""
    return sa.make_url(url).get_backend_name() == "sqlite"


def one_writer(connection: sa.Connection) -> None:
    """Until the end of this transaction no other one that asks for it writes. (On SQLite none does anyway.)"""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(LOCK)))


def patient(engine: sa.Engine, work: Callable[[sa.Connection], T], patience_s: float) -> T:
    """``work`` in a transaction, tried again for so long while the database server is away. It may then be done twice, if the
    server went between doing it and saying so."""
    until = time.monotonic() + patience_s
    while True:
        try:
            with engine.begin() as connection:
                return work(connection)
        except AWAY as error:
            if engine.dialect.name == "sqlite" or time.monotonic() > until:
                raise
            log.warning("the job database is away: %s", str(error.orig).strip())
            time.sleep(AGAIN_S)


def _bring_up_to_date(connection: sa.Connection) -> None:
    one_writer(connection)
    new = not sa.inspect(connection).has_table(jobs.name)
    metadata.create_all(connection)
    found = connection.execute(sa.select(version.c.version)).scalar()
    if found is None:  # version 1 did not say so
        found = len(STEPS) + 1 if new else 1
        connection.execute(version.insert().values(version=found))
    if found > len(STEPS) + 1:
        raise ConfigurationError(
            "the job database was used by a later version of this program",
            field="database",
            found=f"tables of version {found}",
            expected=f"at most {len(STEPS) + 1}",
            hint="Use that version, or restore a back-up: ptycho-ray operate restore FILE",
        )
    for step in STEPS[found - 1 :]:
        for statement in step:
            connection.exec_driver_sql(statement)
    connection.execute(version.update().values(version=len(STEPS) + 1))


def _server(url: str) -> sa.Engine:
    try:
        return sa.create_engine(url, pool_pre_ping=True, pool_size=10, max_overflow=30)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            field="database_url",
            found=f"no driver {error.name}",
            expected="an installed one",
            hint="pip install 'ptycho-ray[postgresql]', and postgresql+psycopg://USER@HOST/NAME",
        ) from error


def _sqlite(url: sa.URL) -> sa.Engine:
    path = Path(str(url.database))
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": 30, "check_same_thread": False})

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, with the write lock taken at once
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
