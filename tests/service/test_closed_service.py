"""``ptycho-ray serve`` with tokens, attacked by another account of the machine and by the death of its proxy."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from helpers import PATIENCE_S, as_another_account, free_port, wait_for

from ptycho_ray.client import Client
from ptycho_ray.service.database import connect
from ptycho_ray.service.own_ray import family, listening, open_to_others
from ptycho_ray.service.tokens import TokenStore

pytestmark = pytest.mark.slow
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another account")

RAW = {"Content-Type": "application/octet-stream"}
UPLOADS = 32


@dataclasses.dataclass
class Closed:
    process: subprocess.Popen[bytes]
    port: int
    data_dir: Path
    out: Path
    token: str
    model: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def http(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=PATIENCE_S)

    def haproxy(self) -> int:
        return next(pid for pid, name in family(self.process.pid).items() if name == "haproxy")

    def private(self) -> Path:
        words = Path(f"/proc/{self.haproxy()}/cmdline").read_bytes().split(b"\0")
        return Path(words[words.index(b"-f") + 1].decode()).parents[1]


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Iterator[Closed]:
    folder = tmp_path_factory.mktemp("closed")
    data_dir, port, out = folder / "data", free_port(), folder / "out"
    data_dir.mkdir(0o700)
    token = TokenStore(connect(f"sqlite:///{data_dir / 'jobs.sqlite'}")).add("alice", "submit")[1]
    words = ["serve", f"tiny={model_file}", "--data-dir", str(data_dir), "--port", str(port), "--threads", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with out.open("ab") as log:
        command = [sys.executable, "-m", "ptycho_ray", *words, "--host", "0.0.0.0"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_for(lambda: "answers at" in out.read_text() or process.poll() is not None, "the start")
        assert process.poll() is None, out.read_text()
        service = Closed(process, port, data_dir, out, token, "tiny")
        private = service.private()
        yield service
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
    assert "Traceback" not in out.read_text()
    assert not private.exists()


def test_the_start_tells_what_it_waits_for_and_which_ports_are_open(closed: Closed) -> None:
    said = closed.out.read_text()
    assert re.search(r"\d s: waiting for Ray", said)
    assert re.search(r"\d s: waiting for the interface", said)
    told = set(re.findall(r"(?:127\.0\.0\.1|0\.0\.0\.0):\d+", said))
    found = listening(closed.process.pid)
    assert set(open_to_others(found)) == {f"0.0.0.0:{closed.port}"}
    assert set(found) == told


def test_no_part_of_it_is_less_urgent_than_other_programs(closed: Closed) -> None:
    own, urgency = os.getpriority(os.PRIO_PROCESS, closed.process.pid), dict[str, int]()
    for pid, name in family(closed.process.pid).items():
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            urgency[name] = os.getpriority(os.PRIO_PROCESS, pid)
    assert any(name.startswith("ray::ServeRep") for name in urgency)
    assert urgency == dict.fromkeys(urgency, own)


@as_root
def test_another_account_can_read_and_reach_nothing(closed: Closed) -> None:
    private = closed.private()
    for place in (private, closed.data_dir):
        assert place.stat().st_mode & 0o077 == 0  # and not only a folder above it
        assert as_another_account(lambda place=place: os.listdir(place)) == "PermissionError"
    secrets = [closed.data_dir / "jobs.sqlite", closed.data_dir / "audit.jsonl", closed.data_dir / "service.log"]
    for place in [*secrets, *private.rglob("*")]:
        assert as_another_account(lambda place=place: place.stat()) == "PermissionError"
    for address in listening(closed.process.pid):
        port = int(address.rpartition(":")[2])
        assert as_another_account(lambda port=port: stolen(port)) in ("401", "no HTTP", "404"), address


def stolen(port: int) -> str:
    """What a caller without a token is told when it asks for the jobs."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/v1/reconstructions", timeout=20)
    except httpx.HTTPError:
        return "no HTTP"
    text = answer.text
    if text.startswith("# HELP"):  # Ray's own counters, which docs/security.md names
        return "404"
    return str(answer.status_code)


def test_each_request_has_a_line_that_says_who_and_what(closed: Closed, scan_file: Path) -> None:
    with closed.http as http:
        answer = http.post(f"/v1/reconstructions?model={closed.model}", content=scan_file.read_bytes(), headers=RAW)
        assert answer.status_code == 200
        refused = http.get("/v1/tokens")
    with httpx.Client(base_url=closed.url, timeout=PATIENCE_S) as stranger:
        unknown = stranger.get("/v1/models")
    path = closed.data_dir / "audit.jsonl"
    assert path.stat().st_mode & 0o777 == 0o600
    wait_for(lambda: own_id(unknown) in path.read_text(), "the line of the last request, written after its answer")
    lines = {line["request"]: line for line in map(json.loads, path.read_text().splitlines())}
    line = lines[own_id(answer)]
    assert (line["who"], line["method"], line["path"], line["status"]) == ("alice", "POST", "/v1/reconstructions", 200)
    assert line["bytes_in"] == scan_file.stat().st_size
    assert line["bytes_out"] == len(answer.content)
    assert line["job"] == answer.headers["x-reconstruction"]
    assert lines[own_id(refused)]["status"] == 403
    assert "who" not in lines[own_id(unknown)]


def own_id(answer: httpx.Response) -> str:
    """The number of a request, of which there is one."""
    (number,) = answer.headers.get_list("x-request-id")
    return number


def test_no_token_is_in_any_file(closed: Closed) -> None:
    with closed.http as http:
        for path in (f"/v1/models/{closed.token}", f"/v1/models?token={closed.token}", f"/{closed.token}"):
            http.get(path)
        http.get("/v1/models", headers={"Authorization": f"Bearer {closed.token}x"})
        http.post("/v1/reconstructions", content=closed.token, headers=RAW | {"X-File-Name": closed.token})
    token = closed.token.encode()
    kept = [*closed.data_dir.rglob("*"), *closed.private().rglob("*"), closed.out]
    files = [place for place in kept if place.is_file() and "jobs" not in place.relative_to(place.anchor).parts]
    assert len(files) > 10
    assert [place for place in files if token in place.read_bytes() and not place.name.startswith("jobs.sqlite")] == []


def test_the_proxy_dies_under_uploads_and_every_retry_gets_its_image(closed: Closed, scan_file: Path) -> None:
    content = scan_file.read_bytes()

    def ask(key: str) -> int:
        with closed.http as http:
            try:
                headers = RAW | {"Idempotency-Key": key}
                return http.post(
                    f"/v1/reconstructions?model={closed.model}", content=content, headers=headers
                ).status_code
            except httpx.TransportError:
                return 0

    def until_done(key: str) -> int:
        end = time.monotonic() + PATIENCE_S
        while (status := ask(key)) in (0, 202, 429, 502, 503) and time.monotonic() < end:
            time.sleep(0.5)
        return status

    keys = [f"key {number}" for number in range(UPLOADS)]
    with ThreadPoolExecutor(UPLOADS) as pool:
        asked = [pool.submit(ask, key) for key in keys]
        time.sleep(0.7)
        os.kill(closed.haproxy(), signal.SIGKILL)
        first = [one.result() for one in asked]
        assert 0 in first
        assert list(pool.map(until_done, keys)) == [200] * UPLOADS
    with closed.http as http:
        jobs = http.get("/v1/reconstructions?limit=200").json()
    assert {job["state"] for job in jobs} <= {"done", "failed"}  # failed: what another test sends is no scan
    with Client(closed.url, closed.token) as client:
        os.kill(closed.haproxy(), signal.SIGKILL)
        assert client.reconstruct(scan_file, model=closed.model).content
