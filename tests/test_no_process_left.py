"""Whatever fails, no process of Ray is left behind by the tests."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray_fixtures
from helpers import ROOT, wait_for

TESTS = ROOT / "tests"
SETUP_FAILS = """
import pytest

@pytest.fixture(scope="module")
def broken(one_ray):
    raise RuntimeError("the set-up fails")

def test_nothing(broken):
    pass
"""
KILLED = """
import pathlib, time

def test_waits(one_ray):
    pathlib.Path("ready").touch()
    time.sleep(600)
"""
#: A process that looks like one of Ray's, and that nobody ends.
STAND_IN = """
import pathlib, subprocess, sys

def test_leaves_a_process():
    script = pathlib.Path("site-packages/ray/stays.py").resolve()
    script.parent.mkdir(parents=True)
    script.write_text("import time; time.sleep(600)")
    subprocess.Popen([sys.executable, str(script)])
"""


def run_of(folder: Path, code: str) -> tuple[str, subprocess.Popen[str]]:
    """A run of pytest over this file, with our plugin; its name and its process."""
    (folder / "test_it.py").write_text(code, encoding="utf-8")
    name = secrets.token_hex(8)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": f"{TESTS}{os.pathsep}{ROOT}", ray_fixtures.RUN: name}
    words = [sys.executable, "-m", "pytest", "-p", "ray_fixtures", "-p", "no:cacheprovider", "-q", "test_it.py"]
    return name, subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def rays_of(name: str) -> list[str]:
    return [command for command in ray_fixtures.processes_of(name).values() if ray_fixtures.is_of_ray(command)]


def test_only_the_plugin_starts_ray() -> None:
    starts = [path.name for path in TESTS.rglob("*.py") if "ray.init(" in path.read_text(encoding="utf-8")]
    assert sorted(starts) == ["ray_fixtures.py", Path(__file__).name]  # here it is a word only


@pytest.mark.parametrize("where", ["at the start", "in the block"])
def test_ray_is_shut_down_whatever_fails(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    def init(**_: object) -> None:
        if where == "at the start":
            raise RuntimeError(where)

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init, shutdown=lambda: heard.append("shutdown")))
    with pytest.raises(RuntimeError, match=where), ray_fixtures.local_ray():
        raise RuntimeError(where)
    assert heard == ["shutdown"]


def test_what_is_left_is_killed_and_ends_the_run_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATIENCE_WITH_LEFTOVERS_S", "0.2")
    name, process = run_of(tmp_path, STAND_IN)
    said = process.communicate()[0]
    assert "1 passed" in said
    assert "left behind by the tests and killed" in said
    assert process.returncode == pytest.ExitCode.TESTS_FAILED
    wait_for(lambda: not rays_of(name), "the end of the process")


@pytest.mark.slow
def test_a_set_up_that_fails_after_the_start(tmp_path: Path) -> None:
    name, process = run_of(tmp_path, SETUP_FAILS)
    said = process.communicate()[0]
    assert "the set-up fails" in said
    assert "left behind" not in said
    assert rays_of(name) == []


@pytest.mark.slow
def test_a_run_that_is_killed(tmp_path: Path) -> None:
    """Nothing of ours can run then: Ray's own processes see that their parent has gone."""
    name, process = run_of(tmp_path, KILLED)
    try:
        wait_for(lambda: (tmp_path / "ready").exists() or process.poll() is not None, "the start of the cluster")
        assert process.poll() is None
        assert rays_of(name)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    wait_for(lambda: not rays_of(name), "the end of the cluster")
