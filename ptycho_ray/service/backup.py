"""Back-up and restoration of the job database: jobs, tokens (their hashes) and quotas, consistent while the service runs.
Uploads and results are files in the data folder, which are only added and deleted; copy them after the database.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path

import sqlalchemy as sa

from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.files import require_file
from ptycho_ray.service.database import connect, is_sqlite, metadata

TABLES = tuple(metadata.tables)
#: The first bytes of what pg_dump writes in its own format.
OF_POSTGRESQL = b"PGDMP"


def back_up(url: str, path: Path) -> None:
    """Write the database as it is at one moment to ``path``, readable by its owner only: SQLite's own copy, or what pg_dump
    writes.

    Raises:
        InputError: there is no database yet, or one of another kind than SQLite and PostgreSQL.
        ConfigurationError: pg_dump is not installed.
        RuntimeError: it failed; the message is its own.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # of mode 0600
    os.close(handle)
    temporary = Path(name)
    try:
        if is_sqlite(url):
            _copy(_file_of(url, must_exist=True), temporary)
        else:
            chosen = [word for table in TABLES for word in ("--table", table)]
            _run(url, "pg_dump", "--format=custom", "--no-owner", *chosen, "--file", name)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def restore(url: str, path: Path) -> None:
    """Put what ``back_up`` wrote in the place of the database, all of it or nothing, and bring it up to date.

    Raises:
        InputError: it is no back-up, or one of another kind of database.
        ConfigurationError, RuntimeError: as in ``back_up``.
    """
    with require_file(path).open("rb") as file:
        from_server = file.read(len(OF_POSTGRESQL)) == OF_POSTGRESQL
    if from_server is is_sqlite(url):
        kinds = ("PostgreSQL", "SQLite") if from_server else ("SQLite", "PostgreSQL")
        raise InputError(file=path, field="back-up", found=f"one of {kinds[0]}", expected=f"one of {kinds[1]}")
    if is_sqlite(url):
        _check(path)
        target = _file_of(url)
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        target.touch(mode=0o600, exist_ok=True)
        _copy(path, target)
    else:
        _run(url, "pg_restore", "--clean", "--if-exists", "--no-owner", "--single-transaction", str(path))
    connect(url).dispose()


def _copy(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source, timeout=60)) as old, closing(sqlite3.connect(target, timeout=60)) as new:
        old.backup(new)


def _check(path: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as file:
            sound = file.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            tables = {row[0] for row in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError as error:
        raise InputError(file=path, field="back-up", found=str(error), expected="what 'operate backup' wrote") from None
    if not sound or "jobs" not in tables:
        found = "a damaged file" if not sound else f"tables {', '.join(sorted(tables)) or 'none'}"
        raise InputError(file=path, field="back-up", found=found, expected="what 'operate backup' wrote")


def _file_of(url: str, must_exist: bool = False) -> Path:
    path = Path(str(sa.make_url(url).database))
    return require_file(path, field="database") if must_exist else path


def _run(url: str, program: str, *words: str) -> None:
    """Run a program of PostgreSQL on this database; a password is in its environment, where other accounts do not see it."""
    address = sa.make_url(url)
    if address.get_backend_name() != "postgresql":
        raise InputError(field="database_url", found=address.get_backend_name(), expected="sqlite or postgresql")
    if shutil.which(program) is None:
        raise ConfigurationError(
            field=program, found="nothing", expected="the program, of the server's version or later (postgresql-client)"
        )
    place = address.set(drivername="postgresql", password=None).render_as_string(hide_password=False)
    command = [program, f"--dbname={place}", *words]
    password = {"PGPASSWORD": str(address.password)} if address.password else {}
    done = subprocess.run(command, env=os.environ | password, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{program}: {done.stderr.strip()[-500:]}")
