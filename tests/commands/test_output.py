"""Nothing is overwritten that was not asked for, and what cannot be written is said before the work."""

from __future__ import annotations

from pathlib import Path

import pytest

from ptycho_ray.commands.cli import main
from ptycho_ray.commands.output import file_to_write, folder_to_write
from ptycho_ray.data import RawData
from ptycho_ray.errors import InputError


def test_convert_refuses_its_own_input_and_any_other_file(
    small_scan: RawData, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "scan.npz"
    small_scan.to_file(path)
    before = path.read_bytes()
    assert main(["convert", str(path), str(path)]) == 2
    assert "found the file that is read; expected a new name. --overwrite replaces it" in capsys.readouterr().err
    assert path.read_bytes() == before
    other = tmp_path / "other.h5"
    other.write_text("mine")
    assert main(["convert", str(path), str(other)]) == 2
    assert other.read_text() == "mine"
    assert main(["convert", str(path), str(other), "--overwrite"]) == 0
    pair = ["convert", str(path), str(tmp_path / "a_dp.hdf5"), "--to", "ptychovit", "--pixel-size-m", "1e-8"]
    (tmp_path / "a_para.hdf5").write_text("mine")
    assert main(pair) == 2  # the second file of the pair would be lost
    assert (tmp_path / "a_para.hdf5").read_text() == "mine"
    assert main(["simulate", str(path)]) == 2
    assert path.read_bytes() == before


def test_folders(tmp_path: Path) -> None:
    default = tmp_path / "outputs"
    assert folder_to_write(default, given=False, overwrite=False) == default
    default.mkdir()
    (default / "note.txt").write_text("no result")
    assert folder_to_write(default, given=True, overwrite=False) == default
    (default / "reconstruction.npz").write_text("")
    assert folder_to_write(default, given=False, overwrite=False) == tmp_path / "outputs_2"
    assert folder_to_write(default, given=False, overwrite=True) == default
    assert folder_to_write(default, given=False, overwrite=False, resume=True) == default
    with pytest.raises(InputError, match=r"another result \(reconstruction.npz\).*--overwrite"):
        folder_to_write(default, given=True, overwrite=False)
    assert folder_to_write(default, given=True, overwrite=False, resume=True) == default


def test_what_cannot_be_written_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("")
    with pytest.raises(InputError, match="output_dir: found a file; expected a folder"):
        folder_to_write(file, given=True, overwrite=False)
    with pytest.raises(InputError, match="output: found a file; expected a folder"):
        file_to_write(file / "b.npz", overwrite=False)
    with pytest.raises(InputError, match="found a folder; expected the name of a file"):
        file_to_write(tmp_path, overwrite=True)
