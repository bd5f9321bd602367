"""Fixtures shared by the whole suite, and how its tests are dealt out to processes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import make_scan, make_tiny_config
from hypothesis import settings

pytest_plugins = ["ray_fixtures"]

# The processes of the tests share the cores; and a worker of Ray has one thread, so that its sums round as theirs do.
os.environ["OMP_NUM_THREADS"] = "1"

# How long an example takes is no property of what is tested.
settings.register_profile("without a clock", deadline=None)
settings.load_profile("without a clock")

HERE = Path(__file__).resolve().parent
SHARED = HERE.parents[1] / "shared"
#: Files whose short tests use the one cluster. In the short run one process has them all, and begins with them.
ON_THE_CLUSTER = (
    "cluster/test_batch.py",
    "cluster/test_commands.py",
    "cluster/test_each_alone.py",
    "cluster/test_refine_command.py",
    "cluster/test_train.py",
    "cluster/test_tune.py",
    "service/test_api.py",
    "client/test_client.py",
    "live/test_watch.py",
)
#: What takes longest comes first, so that no process is left alone with one of them at the end.
FIRST = (
    *ON_THE_CLUSTER,
    "tracking/test_server.py",
    "interop/test_ptychodus_host.py",
    "test_guide.py",
    "test_interactive.py",
    "training/test_loop.py",
    "interop/test_ptychodus_files.py",
    "training/test_losses.py",
    "commands/test_cli.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file to a process, as with ``--dist loadfile``, and all of ``ON_THE_CLUSTER`` to one. (``--dist loadgroup`` of xdist
    3.8 has no effect with pytest 9.2.)"""
    from ray_fixtures import is_short
    from xdist.scheduler import LoadFileScheduling

    class OneCluster(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            together = is_short(config) and file.removeprefix("tests/") in ON_THE_CLUSTER
            return "the cluster" if together else file

    return OneCluster(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The order of ``FIRST``; and a test that would start a cluster in another process is not accepted."""
    for item in items:
        uses = "one_ray" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("slow")
        if uses and _file(item) not in ON_THE_CLUSTER:
            raise pytest.UsageError(f"{item.nodeid} uses one_ray: mark it slow, or add its file to ON_THE_CLUSTER")
    items.sort(key=lambda item: FIRST.index(_file(item)) if _file(item) in FIRST else len(FIRST))


def _file(item: pytest.Item) -> str:
    return str(item.path.relative_to(HERE))


def _shared_file(folder: str, name: str) -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"shared/{folder}/{name} is not beside the project")
    path = SHARED / folder / name
    assert path.is_file(), f"shared/{folder}/{name} is missing although shared/ is present"
    return path


@pytest.fixture(scope="session")
def golden() -> Any:
    """``golden("b_normalisation.npz")`` opens numbers made by running the reference; ``.json`` files are parsed.

    They lie in tests/golden; with ``large=True`` they are those of the full set, in shared/golden beside the project.
    """

    def open_golden(name: str, large: bool = False) -> Any:
        path = _shared_file("golden", name) if large else HERE / "golden" / name
        if path.suffix == ".json":
            return json.loads(path.read_text(encoding="utf-8"))
        return np.load(path, allow_pickle=False)

    return open_golden


@pytest.fixture(scope="session")
def shared_data() -> Any:
    """``shared_data("lines64_train.npz")`` is the path of a shared scan."""
    return lambda name: _shared_file("data", name)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session")
def small_scan() -> Any:
    return make_scan()


@pytest.fixture(scope="session")
def other_scan() -> Any:
    return make_scan(40, seed=4)


@pytest.fixture(scope="session")
def scan_file(small_scan: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("scans") / "scan.npz"
    small_scan.to_file(path)
    return path


@pytest.fixture
def tiny_config() -> Any:
    return make_tiny_config()
