"""``ptycho-ray serve`` as a process of its own: started, stopped in the middle of work, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from helpers import PATIENCE_S, free_port, wait_for

from ptycho_ray.client import Client
from ptycho_ray.commands.cli import main
from ptycho_ray.service.database import connect
from ptycho_ray.service.jobs import JobStore

pytestmark = pytest.mark.slow


def start(port: int, folder: Path, model: Path) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    words = ["serve", str(model), "--data-dir", str(folder), "--port", str(port), "--threads", "1"]
    path = folder.parent / "serve.log"
    with path.open("wb") as log:
        command = [sys.executable, "-m", "ptycho_ray", *words]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    wait_for(lambda: "answers at" in path.read_text() or process.poll() is not None, "the start")
    assert process.poll() is None, path.read_text()
    return process


def test_jobs_survive_a_restart_of_everything(small_scan: Any, model_file: Path, tmp_path: Path) -> None:
    port = free_port()
    process = start(port, tmp_path / "data", model_file)
    with Client(f"http://127.0.0.1:{port}") as client:
        jobs = [client.submit(demo="dead_leaves", model=model_file.parent.name) for _ in range(6)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        process = start(port, tmp_path / "data", model_file)
        try:
            assert [client.wait(job["id"])["state"] for job in jobs] == ["done"] * 6
        finally:
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0


def test_a_drained_service_finishes_what_it_has_and_another_goes_on(
    small_scan: Any, model_file: Path, scan_file: Path, tmp_path: Path
) -> None:
    """Callers with our client notice nothing of a restart, and what a caller waits for without a key is not lost either."""
    port, data = free_port(), tmp_path / "data"
    process = start(port, data, model_file)
    url, name = f"http://127.0.0.1:{port}", model_file.parent.name
    again = None
    try:
        with Client(url, patience_s=PATIENCE_S) as client, ThreadPoolExecutor(6) as pool:
            jobs = [client.submit(demo="dead_leaves", model=name) for _ in range(4)]
            waiting = pool.submit(
                httpx.post, f"{url}/v1/reconstructions?model={name}", json={"demo": "lines"}, timeout=PATIENCE_S
            )
            wait_for(lambda: len(httpx.get(f"{url}/v1/reconstructions").json()) == 5, "the job of who waits")
            drained = pool.submit(main, ["operate", "drain", "--data-dir", str(data)])
            wait_for(lambda: (data / "draining").exists(), "the drain")
            late = [pool.submit(client.reconstruct, scan_file, model=name) for _ in range(2)]
            assert waiting.result(PATIENCE_S).status_code == 200
            assert process.wait(PATIENCE_S) == 0
            assert drained.result(PATIENCE_S) == 0
            store = JobStore(connect(f"sqlite:///{data / 'jobs.sqlite'}"))
            assert [store.get(job["id"]).state for job in jobs] == ["done"] * 4
            again = start(port, data, model_file)
            assert all(one.result(PATIENCE_S).content for one in late)
            assert [client.job(job["id"])["attempt"] for job in jobs] == [1] * 4
    finally:
        for one in (process, again):
            if one is not None and one.poll() is None:
                one.send_signal(signal.SIGINT)
                one.wait(PATIENCE_S)


def test_it_refuses_to_start_without_tokens_where_others_reach_it(
    model_file: Path, tmp_path: Path, capsys: Any
) -> None:
    words = ["serve", str(model_file), "--data-dir", str(tmp_path), "--host", "0.0.0.0"]
    assert main(words) == 2
    assert "ptycho-ray token add" in capsys.readouterr().err
