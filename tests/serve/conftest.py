"""One Ray Serve instance for all tests of the service, on this machine and on ports of its own."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


@dataclasses.dataclass
class Running:
    """A service that answers."""

    url: str
    data_dir: Path
    model_root: Path
    allowed_root: Path
    args: dict[str, Any]


@pytest.fixture(scope="module")
def ray_session() -> Iterator[int]:
    """Ray and the proxy of Serve; the port it listens on."""
    ray = pytest.importorskip("ray")
    from ray import serve

    ray.init(address="local", num_cpus=4, object_store_memory=256 * 2**20, include_dashboard=False, log_to_driver=False)
    port = free_port()
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
        yield port
        serve.shutdown()
    finally:  # else all that follows in this process finds a cluster that it did not start
        ray.shutdown()


@pytest.fixture(scope="module")
def deploy(ray_session: int, tmp_path_factory: pytest.TempPathFactory, small_scan: Any) -> Callable[..., Running]:
    """``deploy("name", require_token=True, ...)`` starts an application of its own below the path ``/name``."""
    from ray import serve

    from ptycho_ray.service.deployments import scaled

    def start(name: str, *, max_replicas: int = 1, options: dict[str, Any] | None = None, **settings: Any) -> Running:
        folder = tmp_path_factory.mktemp(name)
        root, allowed = folder / "models", folder / "scans"
        allowed.mkdir()
        make_model(root / "tiny" / "1", small_scan)
        args = {
            "data_dir": str(folder / "data"),
            "model_root": str(root),
            "allowed_roots": [str(allowed)],
            "require_token": False,
            "threads": 1,
            "min_free_bytes": 0,
        } | settings
        serve.run(scaled(args, max_replicas, **(options or {})), name=name, route_prefix=f"/{name}")
        return Running(f"http://127.0.0.1:{ray_session}/{name}", folder / "data", root, allowed, args)

    return start


@pytest.fixture(scope="module")
def service(deploy: Callable[..., Running]) -> Running:
    """A service for this machine only, without tokens."""
    return deploy("plain")


@pytest.fixture(scope="session")
def scan_file(small_scan: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("scans") / "scan.npz"
    small_scan.to_file(path)
    return path
