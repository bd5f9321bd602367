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

from ray.train.torch import TorchTrainer  # noqa: E402

from ptycho_ray.cluster import start_watch  # noqa: E402
from ptycho_ray.cluster.lean_trainer import LeanTrainer  # noqa: E402
from ptycho_ray.cluster.preflight import Workers  # noqa: E402
from ptycho_ray.cluster.train import train_on_cluster  # noqa: E402


class Cluster:
    """A cluster of two processors in name, and what is told and asked of it."""

    def __init__(self, looks: int = 0) -> None:
        self.looks, self.told, self.groups = looks, [], 0

    def placement_group(self, bundles):
        self.groups += 1
        return self

    def remove(self, group):
        self.groups -= 1

    def wait(self, timeout_seconds):
        self.looks -= 1
        return self.looks < 0


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster()
    monkeypatch.setattr(start_watch, "placement_group", made.placement_group)
    monkeypatch.setattr(start_watch, "remove_placement_group", made.remove)
    monkeypatch.setattr(start_watch, "free_of", lambda resources: {"CPU": (0.0, 2.0)})
    return made


def hold(cpus):
    """An actor that has the processors for which others wait."""

    class Holder:
        def here(self):
            return True

    holder = ray.remote(num_cpus=cpus)(Holder).remote()
    assert ray.get(holder.here.remote())
    return holder


class Trainer:
    """Comes to an end after it was lost so many times."""

    def __init__(self, *losses):
        self.losses = list(losses)

    def fit(self):
        if self.losses:
            raise ray.train.ControllerError(self.losses.pop())
        return "fitted"


def test_a_free_cluster_starts_and_its_workers_come_up(cluster, monkeypatch):
    monkeypatch.setattr(start_watch, "STARTING_S", 0.02)
    told = []
    with start_watch.StartWatch(Workers(2, 4, {"CPU": 1.0}), told.append) as watch:
        assert watch.fit(Trainer(), told.append) == "fitted"
        wait_for(lambda: told[-1].startswith("still starting"), "that is told")
        watch.up(2)
    assert told[0] == "starting 2 to 4 workers"
    assert told[-1] == "2 workers up, preparing the first step"


def test_a_busy_cluster_is_waited_for_and_what_is_raised_meanwhile_ends_that(cluster, monkeypatch):
    monkeypatch.setattr(start_watch, "WAITING_S", -1.0)
    told, waiting = [], "waiting for 2 CPUs; 0 of 2 CPU free"
    cluster.looks = 2
    start_watch.wait_for_room(Workers(2, 2, {"CPU": 1.0}), start_watch.now_and_then(told.append))
    assert told == [waiting, waiting]

    def unwanted(line):
        raise InterruptedError(line)

    cluster.looks = 1
    with pytest.raises(InterruptedError, match=waiting):
        start_watch.wait_for_room(Workers(2, 2, {"CPU": 1.0}), unwanted)
    assert cluster.groups == 0


def test_a_run_whose_room_was_taken_waits_again_and_another_error_ends_it(cluster):
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    told, watch = [], start_watch.StartWatch(Workers(1, 1, {"CPU": 1.0}), lambda line: None)
    cluster.looks = 0
    assert watch.fit(Trainer(WorkerGroupStartupTimeoutError(2)), told.append) == "fitted"
    with pytest.raises(ray.train.ControllerError):
        watch.fit(Trainer(ValueError()), told.append)


def test_helpers_of_ray_that_are_not_used_are_not_started():
    def names(trainer):
        return {type(each).__name__ for each in trainer._create_default_callbacks()}

    usual = names(TorchTrainer(print))
    assert names(LeanTrainer(print, own_cluster=False)) == usual - {"DatasetsCallback"}
    assert usual - names(LeanTrainer(print, own_cluster=True)) == {"DatasetsCallback", "PlacementGroupCleanerCallback"}


@pytest.mark.slow
def test_tasks_that_find_no_processor_say_so_and_are_not_kept(one_ray):
    holder = hold(3)
    task = ray.remote(num_cpus=1)(lambda: 1).remote()

    def unwanted(line):
        raise InterruptedError(line)

    with pytest.raises(InterruptedError, match="waiting for 1 CPU; 0 of 3 CPU free"):
        start_watch.wait_for_tasks([task], unwanted)
    ray.kill(holder)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(task)

    assert start_watch.wait_for_tasks([ray.remote(num_cpus=1)(lambda: 1).remote()], unwanted) == [1]


@pytest.mark.slow
def test_a_second_job_waits_with_a_message_and_then_runs(one_ray, small_scan, tiny_config, tmp_path):
    holder, told, found = hold(2), [], {}

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
