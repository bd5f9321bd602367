"""``ptycho-ray serve`` as a process of its own: started, stopped in the middle of work, started again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from ptycho_ray.client import Client
from ptycho_ray.commands.cli import main

pytestmark = pytest.mark.slow


def start(port: int, folder: Path, model: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = ["serve", str(model), "--data-dir", str(folder), "--port", str(port), "--threads", "1"]
    log = (folder.parent / "serve.log").open("ab")
    process = subprocess.Popen([sys.executable, "-m", "ptycho_ray", *words], env=environment, stdout=log, stderr=log)
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200:
                return process
        except httpx.HTTPError:
            time.sleep(0.5)
        assert process.poll() is None, (folder.parent / "serve.log").read_text()
    raise AssertionError("it did not start")


def test_jobs_survive_a_restart_of_everything(small_scan: Any, model_file: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = start(port, tmp_path / "data", model_file)
    with Client(f"http://127.0.0.1:{port}") as client:
        jobs = [client.submit(demo="dead_leaves", model=model_file.parent.name) for _ in range(6)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0
        process = start(port, tmp_path / "data", model_file)
        try:
            assert [client.wait(job["id"])["state"] for job in jobs] == ["done"] * 6
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(90) == 0


def test_it_refuses_to_start_without_tokens_where_others_reach_it(
    model_file: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["serve", str(model_file), "--data-dir", str(tmp_path), "--host", "0.0.0.0"]
    assert main(words) == 2
    assert "ptycho-ray token add" in capsys.readouterr().err
