"""What Windows and macOS lack, taken away here: the package is imported and solves a scan without it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

#: Run before anything of ours: the modules and functions of POSIX, and of Linux, that Python has elsewhere in part or not.
TAKE_AWAY = """
import os, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty", "syslog"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "nice", "killpg", "wait4", "getuid", "geteuid", "sched_getaffinity", "O_CLOEXEC"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGALRM", "setitimer"):
    delattr(signal, name)
"""
#: Every module; some need a package of an extra, and Ray itself needs what was taken away.
IMPORT_ALL = """
import importlib, pkgutil, ptycho_ray
OF_EXTRAS = {"ray", "mlflow", "optuna", "p4p", "ptychodus"}
for name in OF_EXTRAS:
    sys.modules[name] = None
for module in pkgutil.walk_packages(ptycho_ray.__path__, "ptycho_ray."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in OF_EXTRAS:
                raise
print(*sorted(name for name in sys.modules if name.startswith("ptycho_ray.")))
"""
#: As a user begins, with the scan that comes with the package.
BEGIN = """
from ptycho_ray.commands.cli import main
scan = "ptycho_ray_demo/simulated.npz"
for words in (["doctor"], ["demo", "--only-files"], ["info", scan],
              ["refine", scan, "--iterations", "1", "--output-dir", "image"], ["evaluate", "image", scan],
              ["train", scan, "--nepochs", "1", "--n-filters-scale", "1", "--n-groups", "32", "--output-dir", "model"],
              ["compare", "image", "model", "--scan", scan]):
    assert main(words) == 0, words
"""


def run(script: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_imported_without_what_only_posix_has(tmp_path: Path) -> None:
    imported = run(TAKE_AWAY + IMPORT_ALL, tmp_path).split()
    assert {"ptycho_ray.service.spool", "ptycho_ray.tracking.delivery", "ptycho_ray.commands.train"} <= {*imported}


@pytest.mark.slow
def test_the_first_commands_work_without_what_only_posix_has(tmp_path: Path) -> None:
    assert "verdict: everything works" in run(TAKE_AWAY + BEGIN, tmp_path)
    assert (tmp_path / "model" / "wts.h5.zip").is_file()
