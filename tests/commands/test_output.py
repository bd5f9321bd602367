"""Nothing is overwritten that was not asked for, and what cannot be written is said before the work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ptycho_ray import workflow
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


def test_an_automatic_reconstruction_replaces_no_result(
    scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def core(scan: RawData, **wishes: object) -> None:
        raise InputError("enough")

    monkeypatch.setattr(workflow, "reconstruct_scan", core)
    monkeypatch.setattr(workflow, "plan_reconstruction", core)
    (tmp_path / "result.json").write_text("{}")
    words = ["reconstruct", str(scan_file), "--output-dir", str(tmp_path)]
    for more, said in (([], "--overwrite"), (["--overwrite"], "enough"), (["--plan"], "enough")):
        assert main([*words, *more]) == 2
        assert said in capsys.readouterr().err
    assert main([*words[:2], "--product", str(scan_file)]) == 2
    assert "found the file that is read" in capsys.readouterr().err
    assert (tmp_path / "result.json").read_text() == "{}"


def test_a_service_is_sent_one_file(scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    np.save(tmp_path / "mask.npy", np.zeros((32, 32)))
    words = ["submit", str(scan_file), "--mask", str(tmp_path / "mask.npy"), "--output", str(tmp_path / "image.npz")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"ptycho-ray convert {scan_file} whole.h5 --mask {tmp_path}/mask.npy && ptycho-ray submit whole.h5" in said


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
