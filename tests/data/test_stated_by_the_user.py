"""What a user states about a file wins over the file, and the commands that errors propose keep it."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from helpers import TIMES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptycho_ray.data import RawData, load_data
from ptycho_ray.errors import InputError


@settings(max_examples=30 * TIMES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stated=st.sampled_from([None, "m", "mm", "um", "nm"]),
    asked=st.sampled_from(["m", "mm", "um", "microns", "nm", "px", "--step"]),
    table=st.booleans(),
)
def test_the_unit_that_a_user_states_replaces_that_of_the_file(
    stated: str | None, asked: str, table: bool, small_scan: RawData, tmp_path: Path
) -> None:
    numbers = small_scan.positions_px * 1.25
    with h5py.File(tmp_path / "scan.h5", "w") as file:
        file["dp"] = np.square(small_scan.diff3d)
        file["positions_px"] = numbers
        if stated is not None:
            file["positions_px"].attrs["units"] = stated
    unit = "" if stated is None else f" [{stated}]"
    lines = [f"{x!r},{y!r}" for y, x in numbers.tolist()]
    (tmp_path / "places.csv").write_text("\n".join([f"X{unit},Y{unit}", *lines]))
    how: dict[str, Any] = {"positions": str(tmp_path / "places.csv")} if table else {}
    how |= {"step": "2.5nm"} if asked == "--step" else {"units": asked}
    factor = {"m": 1.0, "mm": 1e-3, "um": 1e-6, "microns": 1e-6, "nm": 1e-9, "px": None, "--step": 2.5e-9}[asked]
    pixel = 1e-9 if factor is None else factor
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            raw = load_data(tmp_path / "scan.h5", pixel_size_m=pixel, **how)
        except InputError as error:  # a pixel that no ptychography has
            assert "pixel_size_m" in str(error) and pixel > 1e-5  # noqa: PT017, PT018
            return
    np.testing.assert_allclose(raw.positions_px, numbers, rtol=1e-9)
    differs = stated is not None and stated != asked.replace("microns", "um")
    assert differs == any("another one, which is used" in note for note in raw.notes)


def test_a_command_to_type_keeps_what_was_typed(small_scan: RawData, tmp_path: Path) -> None:
    path = tmp_path / "a scan.h5"
    with h5py.File(path, "w") as file:
        file["a/frames"], file["b"] = np.square(small_scan.diff3d), small_scan.positions_px[:-2]
    n = len(small_scan)
    for changed, after in (
        ({"drop": None}, f"--frames a/frames --positions b --select 0:{n - 2}"),
        ({"select": "0:4:0"}, "--frames a/frames --positions b --select 0:100"),
        (
            {"select": f"0:{n - 2}", "units": "furlong"},
            f"--frames a/frames --positions b --select 0:{n - 2} --units um",
        ),
        ({"positions": "c"}, "--frames a/frames --positions b"),
    ):
        how = {"frames": "a/frames", "positions": "b"} | changed
        with pytest.raises(InputError) as refused:
            load_data(path, **how)
        command = str(refused.value).rpartition("Type: ")[2]
        assert shlex.split(command) == ["ptycho-ray", "info", str(path), *after.split()]
