"""``ray job submit -- python jobs/...`` on a cluster that was started by ``ray start --head``, as docs/cluster.md says."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers import PATIENCE_S, ROOT, wait_for

pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")

RAY = str(Path(sys.executable).with_name("ray"))
pytestmark = pytest.mark.slow
SMALL = ("--N", "32", "--n-groups", "40", "--execution.accelerator", "cpu")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@dataclass(frozen=True)
class Head:
    """A running cluster of one machine, and the environment in which `ray job` finds it."""

    address: str
    environment: dict[str, str]

    def job(self, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
        line = [RAY, "job", words[0], "--address", self.address, *words[1:]]
        return subprocess.run(
            line,
            cwd=ROOT,
            env=self.environment | changes,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def submit(self, name: str, *entrypoint: str, wait: bool = True) -> subprocess.CompletedProcess[str]:
        how = [] if wait else ["--no-wait"]
        return self.job("submit", "--submission-id", name, "--working-dir", ".", *how, "--", "python", *entrypoint)

    def status(self, name: str) -> str:
        return self.job("status", name).stdout

    def answers(self) -> bool:
        token = Path(self.environment["RAY_AUTH_TOKEN_PATH"]).read_text(encoding="ascii")
        request = urllib.request.Request(f"{self.address}/api/version", headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False


def end_all_of(folder: str) -> None:
    """End the processes whose environment names ``folder``: those of the cluster and of its jobs, and no others."""
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if folder.encode() in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except OSError:
            continue  # it ended meanwhile


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # A short path: those of Ray's sockets in it may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="pj", dir="/tmp", ignore_cleanup_errors=True) as folder:
        token = Path(folder, "token")
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="ascii")
        unrelated = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PTYCHO_RAY_"))}
        environment = unrelated | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "OMP_NUM_THREADS": "1",
        }
        names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        options = [
            *(f"--{name}={port}" for name, port in ports.items()),
            "--min-worker-port=0",
            "--max-worker-port=0",
            "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1",
            "--num-cpus=2",
            f"--object-store-memory={128 * 2**20}",
            f"--temp-dir={folder}/r",
            "--disable-usage-stats",
        ]
        head = Head(f"http://127.0.0.1:{ports['dashboard-port']}", environment)
        said = Path(folder, "start.log")
        with said.open("w") as log:
            start = subprocess.Popen(
                [RAY, "start", "--head", "--block", *options], env=environment, stdout=log, stderr=log
            )
        try:
            wait_for(lambda: start.poll() is not None or head.answers(), "the start of the cluster")
            assert start.poll() is None, said.read_text()
            yield head
        finally:
            end_all_of(folder)
            start.terminate()  # where there is no /proc, it ends the others itself
            start.wait()


@pytest.fixture(scope="module")
def scan(small_scan, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("scans") / "scan.npz"
    small_scan.to_file(path)
    return path


@pytest.fixture(scope="module")
def trained(head, scan, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    config = ("--config", "configs/train/debug.yaml", *SMALL)
    done = head.submit("train", "jobs/train.py", str(scan), *config, "--output-dir", str(folder))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_job_trains_and_leaves_its_results_where_it_was_told(head, trained):
    assert (trained / "wts.h5.zip").is_file()
    assert len(json.loads((trained / "result.json").read_text())["training"]) > 0
    assert "Job 'train' succeeded" in head.status("train")
    assert "wts.h5.zip" in head.job("logs", "train").stdout


def test_a_job_reconstructs_and_judges(head, trained, scan, tmp_path):
    done = head.submit(
        "evaluate", "jobs/evaluate.py", str(scan), "--model-path", str(trained), "--output-dir", str(tmp_path)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = json.loads((tmp_path / "evaluation.json").read_text())["scans"]
    assert row
    assert "Job 'evaluate' succeeded" in head.status("evaluate")


def test_a_job_sweeps(head, scan, tmp_path):
    space = tmp_path / "space.yaml"
    space.write_text("trial: direct\nparameters: {position_scale: {uniform: [0.9, 1.1]}}\nsettings: {nepochs: 4}\n")
    words = (str(scan), "--space", str(space), "--trials", "3", "--output-dir", str(tmp_path / "sweep"))
    done = head.submit("tune", "jobs/tune.py", *words, "--validation-fraction", "0.2", "--no-polish")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "sweep" / "best.yaml").is_file()
    assert len((tmp_path / "sweep" / "results.csv").read_text().splitlines()) == 4


def test_a_job_is_stopped_and_keeps_its_checkpoint(head, scan, tmp_path):
    config = ("--config", "configs/train/debug.yaml", *SMALL, "--nepochs", "100000")
    started = head.submit("long", "jobs/train.py", str(scan), *config, "--output-dir", str(tmp_path), wait=False)
    assert started.returncode == 0, started.stdout + started.stderr
    wait_for(lambda: list(tmp_path.glob("ray/**/state.safetensors")), "the first checkpoint")
    assert "RUNNING" in head.status("long")
    assert head.job("stop", "long").returncode == 0
    assert "Job 'long' was stopped" in head.status("long")
    assert list(tmp_path.glob("ray/**/state.safetensors"))
    assert not (tmp_path / "wts.h5.zip").exists()


def test_a_job_that_would_lose_its_results_fails_and_says_why(head, scan):
    done = head.submit("relative", "jobs/train.py", str(scan), *SMALL, "--output-dir", "outputs/lost")
    assert done.returncode == 1
    assert "Job 'relative' failed" in head.status("relative")
    said = head.job("logs", "relative").stdout
    assert "an absolute path that all nodes share" in said
    assert "Traceback" not in said


def test_nobody_gives_orders_without_the_token(head):
    refused = head.job("list", RAY_AUTH_TOKEN="0" * 64)
    assert refused.returncode != 0
    assert "uthentication" in refused.stdout + refused.stderr
