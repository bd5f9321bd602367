"""What is said between the start of a run on a cluster and its first step, and what an interruption says."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import PATIENCE_S, ROOT, wait_for

from ptycho_ray.commands import cli
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import TrainingInterrupted

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")

from ptycho_ray.cluster import start_watch  # noqa: E402
from ptycho_ray.cluster.preflight import Workers  # noqa: E402
from ptycho_ray.cluster.train import train_on_cluster  # noqa: E402


@pytest.fixture
def cluster(monkeypatch):
    """A cluster of two processors in name: what is free of it, and the states of placement groups."""
    state = {"free": 2.0, "groups": {"another job's": {"state": "PENDING"}}}
    monkeypatch.setattr(start_watch, "LOOK_S", 0.01)
    monkeypatch.setattr(start_watch, "placement_group_table", lambda: state["groups"])
    monkeypatch.setattr(start_watch, "free_of", lambda resources: {"CPU": (state["free"], 2.0)})
    return state


def test_a_free_cluster_starts_and_its_workers_come_up(cluster):
    told = []
    with start_watch.StartWatch(Workers(2, 2, {"CPU": 1.0}), told.append) as watch:
        watch.up(2)
    assert told == ["starting 2 workers", "2 workers up, preparing the first step"]


def test_a_busy_cluster_is_waited_for_until_the_workers_are_placed(cluster, monkeypatch):
    told = []
    cluster["free"] = 0.0
    monkeypatch.setattr(start_watch, "WAITING_S", 0.05)
    monkeypatch.setattr(start_watch, "STARTING_S", 0.05)
    with start_watch.StartWatch(Workers(2, 4, {"CPU": 1.0}), told.append):
        cluster["groups"]["ours"] = {"state": "PENDING"}
        waiting = "waiting for 2 CPUs; 0 of 2 CPU free"
        wait_for(lambda: told.count(waiting) >= 2, "the line is repeated")
        cluster["groups"]["ours"] = {"state": "CREATED"}
        wait_for(lambda: "starting 2 to 4 workers" in told, "the workers are placed")
        wait_for(lambda: told[-1].startswith("still starting"), "that is repeated, too")


@pytest.mark.slow
def test_a_second_job_waits_with_a_message_and_then_runs(one_ray, small_scan, tiny_config, tmp_path):
    @ray.remote(num_cpus=2)
    class Holder:
        def here(self):
            return True

    holder, told, found = Holder.remote(), [], {}
    assert ray.get(holder.here.remote())

    def train() -> None:
        config = replace(tiny_config, nepochs=1, output_dir=tmp_path)
        execution = ExecutionConfig(devices=2, accelerator="cpu")
        found["results"] = train_on_cluster(small_scan, None, config, execution=execution, tell=told.append)

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    wait_for(lambda: "waiting for 2 CPUs; 1 of 3 CPU free" in told, "it says what it waits for")
    ray.kill(holder)
    thread.join(2 * PATIENCE_S)
    assert found["results"]["history"]["loss"]
    lines = [line for line in told if not line.startswith("still")]
    assert lines[-2:] == ["starting 2 workers", "2 workers up, preparing the first step"]


@pytest.mark.parametrize("saved", [None, Path("/data/state")])
def test_an_interruption_names_only_what_was_saved(monkeypatch, capsys, saved):
    def run(words):
        raise TrainingInterrupted(saved)

    monkeypatch.setattr("ptycho_ray.commands.info.run", run)
    assert cli.main(["info"]) == cli.INTERRUPTED
    told = capsys.readouterr().err
    assert ("--resume" in told, "nothing was saved" in told) == (saved is not None, saved is None)


@pytest.mark.slow
def test_a_command_leaves_no_folder_of_its_session_and_touches_no_other():
    """In a process of its own, since Ray keeps the folder for temporary files that it found first."""
    with tempfile.TemporaryDirectory(prefix="r") as folder:  # a short path: Ray's sockets lie in it
        done = _run_in_session(folder)
    assert done.stdout.strip() == "['session_of_another']", done.stderr


def _run_in_session(folder):
    code = f"""
import pathlib, ray
from ptycho_ray.cluster.connect import connected
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import InputError
sessions = pathlib.Path("{folder}/ray")
(sessions / "session_of_another").mkdir(parents=True)
try:
    with connected(ExecutionConfig()):
        assert len(list(sessions.glob("session_2*"))) == 1
        raise InputError("enough")
except InputError:
    print(sorted(path.name for path in sessions.iterdir() if path.name.startswith("session")))
"""

    environment = {**os.environ, "RAY_TMPDIR": folder}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_a_python_without_the_packages_is_named(monkeypatch, capsys):
    def run(words):
        raise ModuleNotFoundError("No module named 'tyro'")

    monkeypatch.setattr("ptycho_ray.commands.info.run", run)
    assert cli.main(["info"]) == cli.FAILED
    assert sys.executable in capsys.readouterr().err


@pytest.mark.parametrize("job", sorted(path.name for path in (ROOT / "jobs").glob("*.py")))
def test_a_job_in_an_environment_without_the_package_says_so(job, tmp_path):
    script = tmp_path / job  # away from the package, which lies beside the folder
    script.write_text((ROOT / "jobs" / job).read_text())
    done = subprocess.run([sys.executable, "-I", "-S", str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert sys.executable in done.stderr
    assert "Traceback" not in done.stderr
