"""A small scan that tests write in odd ways, and how they read it back."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck
from numpy.typing import NDArray

from ptycho_ray.data import RawData, load_data

N = 32
QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
PX, DETECTOR, WAVELENGTH = 2e-8, 75e-6, 1.2398419843320026e-10
DISTANCE = PX * N * DETECTOR / WAVELENGTH


@pytest.fixture(scope="module")
def scan() -> RawData:
    """144 patterns of 32 x 32 pixels on a jittered raster, photons counted."""
    rng = np.random.default_rng(4)
    rows, columns = np.indices((12, 12)).reshape(2, -1) * 4.0 + 24 + rng.uniform(-0.7, 0.7, (2, 144))
    y, x = np.indices((100, 100)) / 100
    image = np.exp(1.5j * np.sin(23 * x + 5 * y) * np.cos(17 * y)) * (0.8 + 0.2 * np.cos(31 * x))
    r, c = np.indices((N, N)) - N // 2
    probe = np.exp(-(r**2 + c**2) / 40 + 0.02j * (r**2 + 0.4 * c**2 + 0.3 * r * c))
    return RawData.from_simulation(columns, rows, probe, image, nphotons=3e5, generator=rng)


@pytest.fixture(scope="module")
def counts(scan: RawData) -> NDArray[np.int64]:
    return np.rint(scan.patterns.intensity()).astype(np.int64)


def quiet(path: Path, **how: Any) -> RawData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_data(path, **how)


def master(folder: Path, counts: NDArray, table: str, encoding: str = "utf-8") -> Path:
    with h5py.File(folder / "s_data_000001.h5", "w") as file:
        file["entry/data/data"] = counts
    with h5py.File(folder / "s_master.h5", "w") as file:
        file["entry/data/data_000001"] = h5py.ExternalLink("s_data_000001.h5", "entry/data/data")
        detector = file.create_group("entry/instrument/detector")
        detector["detector_distance"], detector["x_pixel_size"], detector["y_pixel_size"] = DISTANCE, DETECTOR, DETECTOR
        detector["detectorSpecific/photon_energy"] = 1.2398419843320026e-6 / WAVELENGTH
    (folder / "s.csv").write_text(table, encoding=encoding)
    return folder / "s_master.h5"
