"""A PostgreSQL server of the tests' own, in a folder of its own, at a port of this machine only."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import free_port

PLACES = "/usr/lib/postgresql/*/bin", "/usr/local/bin", "/usr/bin"
#: The server refuses to run as root.
ACCOUNTS = "postgres", "nobody"


class Server:
    """A running server; each test takes a new database of it."""

    def __init__(self, programs: Path, folder: Path, account: str | None) -> None:
        self.programs, self.folder, self.account, self.port = programs, folder, account, free_port()
        self.names = (f"store{number}" for number in itertools.count())
        if account is not None:
            shutil.chown(folder, account)
        self.do("initdb", "-D", folder / "data", "-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8")
        self.start()

    def do(self, program: str, *words: object) -> None:
        command = [str(self.programs / program), *map(str, words)]
        said = (self.folder / "said").open("ab")
        subprocess.run(command, check=True, cwd=self.folder, user=self.account, stdout=said, stderr=said)

    def start(self) -> None:
        own = f"-p {self.port} -k {self.folder} -h 127.0.0.1 -c fsync=off -c max_connections=120"
        self.do("pg_ctl", "-D", self.folder / "data", "-w", "-t", "300", "-l", self.folder / "log", "-o", own, "start")

    def stop(self, how: str = "fast") -> None:
        """``fast`` breaks off all connections, ``immediate`` is a crash."""
        self.do("pg_ctl", "-D", self.folder / "data", "-w", "-t", "300", "-m", how, "stop")

    def new_database(self) -> str:
        """Its URL."""
        name = next(self.names)
        self.do("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "tester", name)
        return f"postgresql+psycopg://tester@127.0.0.1:{self.port}/{name}"


@contextmanager
def own_server() -> Iterator[Server]:
    """The server inside the block. The test is skipped, with the reason, where there is none."""
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'ptycho-ray[postgresql]')")
    found = [path.parent for place in PLACES for path in sorted(Path("/").glob(f"{place[1:]}/initdb"))]
    programs = next((place.resolve() for place in found if (place / "pg_ctl").exists()), None)
    if programs is None:
        pytest.skip(f"PostgreSQL is not installed: no initdb in {', '.join(PLACES)}")
    account = next((name for name in ACCOUNTS if _exists(name)), None) if os.geteuid() == 0 else None
    if os.geteuid() == 0 and account is None:
        pytest.skip("PostgreSQL does not run as root, and there is no other account")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short: the path of a socket may have 107 letters
    server = None
    try:
        server = Server(programs, folder, account)
        yield server
    finally:
        if server is not None:
            server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def _exists(account: str) -> bool:
    try:
        pwd.getpwnam(account)
    except KeyError:
        return False
    return True
