"""The package as a whole: what importing it loads, that its names exist, and that the project files fit together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from helpers import ROOT

import ptycho_ray

HEAVY = {"torch", "ray", "matplotlib", "numpy", "scipy", "h5py", "skimage", "mlflow"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETTINGS = "import ptycho_ray.config, ptycho_ray.config.sources, ptycho_ray.errors, ptycho_ray.commands.cli"
HELP = """
import contextlib, io
from ptycho_ray.commands.cli import main
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    main({words!r})
"""


@pytest.mark.parametrize(
    "code",
    [
        "import ptycho_ray",
        SETTINGS,
        HELP.format(words=["--help"]),
        HELP.format(words=["--version"]),
        HELP.format(words=["train", "--help"]),
        HELP.format(words=["reconstruct", "--help-all"]),
    ],
)
def test_no_heavy_module_is_loaded(code: str) -> None:
    script = f"{code}\nimport sys\nprint(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == ""


def test_the_help_of_simulate_loads_no_torch() -> None:
    """Its settings live beside the simulation, which is numpy only."""
    script = (
        f"{HELP.format(words=['simulate', '--help'])}\nimport sys\nprint('torch' in sys.modules, 'ray' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "False False"


def test_every_exported_name_exists() -> None:
    for name in ptycho_ray.__all__:
        assert getattr(ptycho_ray, name) is not None
        assert name in dir(ptycho_ray)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        ptycho_ray.nonsense  # noqa: B018


def test_python_and_console_script() -> None:
    project = PROJECT["project"]
    assert project["name"] == "ptycho-ray"
    assert project["requires-python"] == ">=3.11"
    assert project["scripts"] == {"ptycho-ray": "ptycho_ray.commands.cli:main"}
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "ptycho_ray/__init__.py"


def test_constraints_pin_every_dependency() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s+]+", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    groups = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *groups["cluster"], *groups["dev"]]
    assert {re.split(r"[\[<>=]", item)[0].lower() for item in wanted} <= pinned
    assert "torch==2.13.0" in lines
    assert "pip install --quiet torch==2.13.0" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_makefile_and_ci() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "test-all", "test-durations", "lint", "bench", "venv"):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8")


def test_licence() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("BSD 3-Clause License")
    assert "ptycho_ray developers" in text
    assert PROJECT["project"]["license"] == "BSD-3-Clause"


def test_template_is_in_the_package() -> None:
    assert (Path(ptycho_ray.__file__).parent / "display" / "templates" / "report.html").is_file()


def test_every_test_file_that_is_named_somewhere_exists() -> None:
    named = {}
    for folder, pattern in (("docs", "*.md"), ("benchmarks", "*.py"), ("configs", "*.yaml"), ("ptycho_ray", "*.py")):
        for path in (ROOT / folder).rglob(pattern):
            for file in re.findall(r"tests/[\w/]+\.py", path.read_text(encoding="utf-8")):
                named[file] = path.name
    assert len(named) > 10
    assert {file: where for file, where in named.items() if not (ROOT / file).is_file()} == {}
