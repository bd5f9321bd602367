"""Fixtures shared by the whole suite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

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
