"""One Ray and one service for all tests of a run that need them, and the certainty that nothing of them stays behind.

No other file of the tests calls ``ray.init`` (``test_no_process_left.py`` looks). Tests that use ``one_ray`` run in one
process of pytest-xdist (``conftest.py`` sees to it), so that there is one cluster; those that need a cluster of their own
are ``slow`` and take ``local_ray``.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers import free_port

#: In the environment of every process that a run of the tests starts; its value names the run.
RUN = "TEST_RUN_OF_PTYCHO_RAY"
#: Ray reads these when it is imported, and keeps to them. With a token of this run every cluster that a test starts answers
#: to this process and its children alone, and nothing is written to the home folder. A busy machine may take minutes over
#: what takes seconds, and is not to be found dead.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_metrics_report_interval_ms": "500",
    "RAY_worker_niceness": "0",  # with Ray's own 15, workers starve for minutes beside the other tests
    "RAY_worker_register_timeout_seconds": "300",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "120",
}
#: Processors in name: room for a training with two workers beside the service.
CPUS = 3


def pytest_configure() -> None:
    """Before anything imports Ray."""
    os.environ.setdefault(RUN, secrets.token_hex(8))
    os.environ.update(ENVIRONMENT | {"RAY_AUTH_TOKEN": secrets.token_hex(32)})


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """After everything, in the process that the user started: a living process of Ray is an error of the tests."""
    yield
    if not hasattr(session.config, "workerinput"):
        left = end_leftovers(os.environ[RUN])
        if left:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
            print("\nleft behind by the tests and killed:", *left, sep="\n  ")


def processes_of(run: str) -> dict[int, str]:
    """The living processes, by number and with their command line, that were started in the run of this name."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{RUN}={run}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if command:  # a zombie has none: it has ended, and its parent has not looked yet
                    found[int(folder.name)] = command
        except OSError:
            continue  # it ended meanwhile, or belongs to somebody else
    return found


def end_leftovers(run: str) -> list[str]:
    """The command lines of Ray's processes of this run that do not end by themselves; they are killed."""
    patience_s = float(os.environ.get("PATIENCE_WITH_LEFTOVERS_S", "60"))
    until = time.monotonic() + patience_s
    while left := {pid: command for pid, command in processes_of(run).items() if is_of_ray(command)}:
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return sorted(left.values())


def is_of_ray(command: str) -> bool:
    return command.startswith("ray::") or "site-packages/ray/" in command


@contextmanager
def local_ray(address: str = "local", **more: Any) -> Iterator[Any]:
    """Ray inside the block, whatever happens in it or at the start; on this machine, or at the address of a cluster.
    ``more`` are further arguments of ``ray.init``."""
    import ray

    own = {"num_cpus": CPUS, "object_store_memory": 256 * 2**20, "include_dashboard": False}
    settings = {"log_to_driver": False, "logging_level": "ERROR"} | (own if address == "local" else {}) | more
    try:
        try:
            ray.init(address=address, **settings)
        except Exception as error:
            if "timed out during startup" not in str(error):  # Ray gives its own processes 30 s, on a busy machine too
                raise
            ray.shutdown()
            ray.init(address=address, **settings)
        yield ray
    finally:
        ray.shutdown()


def is_short(config: pytest.Config) -> bool:
    return "not slow" in config.option.markexpr


def _scope(fixture_name: str, config: pytest.Config) -> Any:
    """The whole run in the short run; otherwise one file, so that another one can start a cluster of its own."""
    return "session" if is_short(config) else "module"


@pytest.fixture(scope=_scope)
def one_ray() -> Iterator[Any]:
    """The cluster of this run: this machine, with ``CPUS`` processors in name."""
    pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")
    with local_ray() as ray:
        yield ray


def pids_of_actors(wanted: Callable[[str], bool]) -> list[int]:
    """The processes of living actors by the names of their classes. Ray's public way to them needs its dashboard."""
    from ray._private.state import actors

    living = [actor for actor in actors().values() if actor["State"] == "ALIVE"]
    return [actor["Pid"] for actor in living if wanted(actor["ActorClassName"])]


def pids_of_workers() -> list[int]:
    """The processes of the training, or the refinement, that runs on the cluster."""
    return pids_of_actors(lambda name: name == "RayTrainWorker")


@dataclasses.dataclass
class Running:
    """A service that answers."""

    url: str
    data_dir: Path
    model_root: Path
    allowed_root: Path
    args: dict[str, Any]
    #: One of every role, and one of "other", who may submit.
    tokens: dict[str, str] = dataclasses.field(default_factory=dict)


@pytest.fixture(scope=_scope)
def serve_port(one_ray: Any) -> Iterator[int]:
    """Ray Serve on the cluster of this run; the port of its proxy."""
    from ray import serve

    port = free_port()
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
        yield port
    finally:
        serve.shutdown()


@pytest.fixture(scope=_scope)
def one_service(serve_port: int, tmp_path_factory: pytest.TempPathFactory, small_scan: Any) -> Running:
    """The service of this run, which asks for tokens and allows little."""
    from ptycho_ray.service.database import connect
    from ptycho_ray.service.tokens import TokenStore

    limits = {"max_body_bytes": 600_000, "requests_per_minute": 100_000}
    running = start_service(serve_port, "one", tmp_path_factory.mktemp("one"), small_scan, require_token=True, **limits)
    store = TokenStore(connect(f"sqlite:///{running.data_dir / 'jobs.sqlite'}"))
    running.tokens |= {role: store.add(role, role)[1] for role in ("read", "submit", "admin")}
    running.tokens["other"] = store.add("other", "submit")[1]
    return running


@pytest.fixture(scope="module")
def deploy(
    serve_port: int, tmp_path_factory: pytest.TempPathFactory, small_scan: Any
) -> Iterator[Callable[..., Running]]:
    """``deploy("name", require_token=True, ...)`` starts an application below the path ``/name``, until the file ends."""
    from ray import serve

    names = []

    def start(name: str, **how: Any) -> Running:
        names.append(name)
        return start_service(serve_port, name, tmp_path_factory.mktemp(name), small_scan, **how)

    try:
        yield start
    finally:
        for name in names:
            serve.delete(name)


def start_service(
    port: int,
    name: str,
    folder: Path,
    scan: Any,
    *,
    max_replicas: int = 1,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> Running:
    from ray import serve

    from ptycho_ray.service.deployments import scaled

    root, allowed = folder / "models", folder / "scans"
    allowed.mkdir()
    make_model(root / "tiny" / "1", scan)
    args = {
        "data_dir": str(folder / "data"),
        "model_root": str(root),
        "allowed_roots": [str(allowed)],
        "require_token": False,
        "threads": 1,
        "min_free_bytes": 0,
    } | settings
    serve.run(scaled(args, max_replicas, **(options or {})), name=name, route_prefix=f"/{name}")
    return Running(f"http://127.0.0.1:{port}/{name}", folder / "data", root, allowed, args)


@pytest.fixture(scope="session")
def write_model() -> Callable[..., Path]:
    """``write_model(folder, scan, seed=0, gridsize=...)`` writes a bundle."""
    return make_model


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory, small_scan: Any) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), small_scan)


def make_model(place: Path, scan: Any, seed: int = 0, **settings: Any) -> Path:
    """A bundle with random weights: enough for everything but the quality of images."""
    import torch

    from ptycho_ray.bundle import Bundle, save_bundle
    from ptycho_ray.config import ModelConfig, TrainingConfig
    from ptycho_ray.models.physics_informed import PhysicsInformedModel
    from ptycho_ray.workflow import create_ptycho_data_container, physical_probe

    config = TrainingConfig(model=ModelConfig(N=scan.N, n_filters_scale=1, **settings), nepochs=1, batch_size=16)
    container = create_ptycho_data_container(scan, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = PhysicsInformedModel(config.model, container.normalisation, physical_probe(container))
    provenance = {"data": "/somewhere/secret/scan.npz"}
    return save_bundle(place, Bundle(model, config, provenance, {"loss": [2.0, 1.0]}))
