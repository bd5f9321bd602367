"""A full disk: one line, the exit code of a failure, and what was written before is kept."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pytest

from ptycho_ray.commands.cli import main
from ptycho_ray.data import RawData, hdf5
from ptycho_ray.errors import BAD_INPUT, FAILED, DiskFullError, InputError
from ptycho_ray.files import atomic_path

MIB = 2**20


class Usage(NamedTuple):
    free: int


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the disk says is free, one number for each time that it is asked; the last one from then on."""
    answers: list[int] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(answers.pop(0) if len(answers) > 1 else answers[0]))
    return answers


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frames = rng.poisson(5, (40, 16, 16)).astype(np.uint16) + np.uint16(1)
    RawData(*rng.uniform(9, 30, (2, 40)), None, None, frames, np.ones((16, 16)) + 0j).to_file(tmp_path / "scan.npz")
    return tmp_path / "scan.npz"


def _write_half(path: Path, error: Exception) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        OSError(errno.EDQUOT, "quota"),
        RuntimeError("a library's own words"),
    ],
)
def test_what_a_file_held_is_kept(error: Exception, tmp_path: Path, free: list[int]) -> None:
    path = tmp_path / "state"
    path.write_text("the last good state")
    free.append(0)
    with pytest.raises(DiskFullError, match="no room on the disk"):
        _write_half(path, error)
    assert [other.name for other in tmp_path.iterdir()] == ["state"]
    assert path.read_text() == "the last good state"


def test_errors_of_input_and_of_other_kinds_are_what_they_are(tmp_path: Path, free: list[int]) -> None:
    free.append(0)
    with pytest.raises(InputError), atomic_path(tmp_path / "a"):
        raise InputError(field="a", found=1, expected=2)
    free[0] = 100 * MIB
    with pytest.raises(RuntimeError, match="^another$"), atomic_path(tmp_path / "a"):
        raise RuntimeError("another")


@pytest.mark.parametrize("answers", [[100 * MIB, MIB // 2], [100 * MIB, 100 * MIB, MIB // 2]])
def test_hdf5_is_not_asked_to_write_what_has_no_room(
    answers: list[int], scan: Path, free: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    free.extend(answers)  # before the first piece, and after the last
    output = scan.with_name("out.h5")
    assert main(["convert", str(scan), str(output)]) == FAILED
    said = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning:")]
    assert len(said) == 1
    assert "out.h5: no room on the disk" in said[0]
    assert [path.name for path in scan.parent.iterdir()] == ["scan.npz"]


def test_a_disk_without_room_is_told_before_anything_is_read(
    scan: Path, free: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    free.append(MIB)
    monkeypatch.setattr("ptycho_ray.data.load_data", lambda *_, **__: pytest.fail("it was read"))
    for command in (["convert", str(scan), "out.h5"], ["orient", str(scan), "--output", "out.npz"]):
        assert main(command) == BAD_INPUT
        assert "1 MiB free on this disk; expected at least 8 MiB" in capsys.readouterr().err


def test_room_is_held_back_while_hdf5_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    temporary_file = hdf5.tempfile.TemporaryFile

    def spy(**how: Any) -> Any:
        file = temporary_file(**how)
        held.append(file)
        return file

    held: list[Any] = []
    monkeypatch.setattr(hdf5.tempfile, "TemporaryFile", spy)
    with hdf5.new_hdf5(tmp_path / "a.h5") as file:
        file["x"] = 1
        sizes.append(os.fstat(held[0].fileno()).st_size)
    assert sizes == [hdf5.HELD_BACK_BYTES]
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["x"][()] == 1
