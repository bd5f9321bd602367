"""A first look without a file of one's own, and whether the installation works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT

from ptycho_ray.commands import doctor
from ptycho_ray.commands.cli import main
from ptycho_ray.config.sources import load_yaml_config
from ptycho_ray.examples.shipped import configurations


def test_doctor_says_that_it_works(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    checks = {check["what"]: check for check in told["checks"]}
    assert {"program", "packages", "extras", "threads", "memory", "disk", "ports", "device", "self-test"} == {*checks}
    assert checks["self-test"]["answer"] == "good"
    assert "phase error" in checks["self-test"]["found"]


def test_doctor_names_what_does_not_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CORE", ("numpy", "no-such-package"))

    def broken() -> Any:
        raise OSError("libcuda.so: cannot open")

    monkeypatch.setattr(doctor, "_device", broken)
    assert main(["doctor", "--no-test"]) == 1
    text = capsys.readouterr().out
    assert "no-such-package missing" in text
    assert "pip install no-such-package" in text
    assert "device     FAILED OSError: libcuda.so: cannot open" in text
    assert text.endswith("verdict: something does not work\n")


def test_demo_writes_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "demo"
    assert main(["demo", "--only-files", "--output-dir", str(folder)]) == 0
    assert {path.name for path in folder.iterdir()} == {"simulated.npz", "measured.npz", "measured.LICENSE", "configs"}
    for name in configurations():
        assert load_yaml_config(folder / "configs" / name)
    assert "train/minimal.yaml" in configurations()
    capsys.readouterr()
    assert main(["demo", "--only-files", "--output-dir", str(folder)]) == 2  # it is there already
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.slow
def test_demo_knows_how_good_its_images_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--output-dir", str(tmp_path / "demo"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    simulated, measured = told["images"]
    assert simulated["trusted"]
    assert measured["trusted"]
    assert simulated["phase_error_rad"] < 0.08
    assert Path(measured["picture"]).is_file()


@pytest.mark.slow
def test_the_wheel_alone(tmp_path: Path) -> None:
    """Built, installed with its dependencies into an empty environment, and used where no checkout is."""
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(tmp_path), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True)
    if built.returncode:
        pytest.skip(f"no wheel can be built here (hatchling is not to be had): {built.stderr[-200:]}")
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    programs = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program: str, *words: str) -> str:
        done = subprocess.run([programs / program, *words], capture_output=True, text=True, cwd=tmp_path, env=clean)
        assert done.returncode == 0, done.stderr
        return done.stdout

    for wanted in ("torch==2.13.0", str(wheel)):  # torch first: no other package then chooses another build
        run("python", "-m", "pip", "install", "--quiet", wanted)
    assert "verdict: everything works" in run("ptycho-ray", "doctor") or "see the lines" in run("ptycho-ray", "doctor")
    assert "explained to" in run("ptycho-ray", "demo", "--only", "simulated", "--output-dir", "demo")
    assert (tmp_path / "demo" / "configs" / "train" / "minimal.yaml").is_file()
    assert "everything" not in run("ptycho-ray", "info", "pretrained")
    assert run("python", "-c", "import ptycho_ray, sys; print('torch' in sys.modules)") == "False\n"
