"""Fixtures shared by the whole suite."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Ray reads these when it is imported, and keeps to them. With a token of this run every cluster that a test starts
# answers to this process and its children alone, and nothing is written to the home folder.
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _shared_file(folder: str, name: str) -> Path:
    if not SHARED.is_dir():
        pytest.skip("the folder shared/ is not beside the project, so its reference data cannot be read")
    path = SHARED / folder / name
    assert path.is_file(), f"shared/{folder}/{name} is missing although shared/ is present"
    return path


@pytest.fixture(scope="session")
def golden() -> Any:
    """``golden("b_normalisation.npz")`` opens numbers made by running the reference; ``.json`` files are parsed."""

    def open_golden(name: str) -> Any:
        path = _shared_file("golden", name)
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


def make_scan(n_patterns: int = 60, seed: int = 3) -> Any:
    """A simulated scan of patterns of side 32: smooth lines, a small disc-shaped probe, 1e5 photons a pattern."""
    from ptycho_ray.simulation.objects import make_object
    from ptycho_ray.simulation.probes import make_probe
    from ptycho_ray.simulation.simulate import simulate_scan

    rng = np.random.default_rng(seed)
    image = make_object("lines", (80, 80), rng)
    probe = make_probe("disc", 32, rng, photons=1e5)
    positions = rng.uniform(17, 63, (n_patterns, 2))
    return simulate_scan(image, probe, positions, rng=rng)


@pytest.fixture(scope="session")
def small_scan() -> Any:
    return make_scan()


@pytest.fixture(scope="session")
def other_scan() -> Any:
    return make_scan(40, seed=4)


@pytest.fixture
def tiny_config() -> Any:
    """Two epochs of the smallest network on patterns of side 32: seconds, not quality."""
    from ptycho_ray.config import ModelConfig, TrainingConfig

    return TrainingConfig(model=ModelConfig(N=32, n_filters_scale=1), nepochs=2, batch_size=8, validation_fraction=0.2)
