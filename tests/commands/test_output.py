"""Nothing is overwritten that was not asked for, and what cannot be written is said before the work."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import ROOT, TIMES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
    assert "found a file that is read; expected another name" in capsys.readouterr().err
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


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, small_scan: RawData) -> Path:
    """A scan in all the ways that take several files."""
    folder = tmp_path_factory.mktemp("files")
    small_scan.to_file(folder / "scan.npz")
    small_scan.to_file(folder / "whole.h5")
    frames, places = np.square(small_scan.diff3d), small_scan.positions_px
    for name in ("frames", "part"):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["data"] = frames
    with h5py.File(folder / "linked.h5", "w") as file:
        file["dp"], file["positions_px"] = h5py.ExternalLink("frames.h5", "data"), places
    with h5py.File(folder / "virtual.h5", "w") as file:
        layout = h5py.VirtualLayout(frames.shape, frames.dtype)
        layout[:] = h5py.VirtualSource("part.h5", "data", frames.shape)
        file.create_virtual_dataset("dp", layout)
        file["positions_px"] = places
    assert main(["convert", str(folder / "scan.npz"), str(folder / "a_dp.hdf5"), "--to", "ptychovit",
                 "--pixel-size-m", "1e-8"]) == 0  # fmt: skip
    np.save(folder / "spots.npy", np.zeros(frames.shape[1:]))
    np.save(folder / "light.npy", small_scan.probe)
    np.savetxt(folder / "places.csv", places * 1e-8)
    (folder / "other_name.npz").hardlink_to(folder / "scan.npz")
    (folder / "link.npz").symlink_to(folder / "scan.npz")
    return folder


#: A scan with options of reading, and each file that this reads.
READ = {
    ("scan.npz",): ("scan.npz", "other_name.npz", "link.npz"),
    ("link.npz",): ("scan.npz", "link.npz"),
    ("linked.h5",): ("linked.h5", "frames.h5"),
    ("virtual.h5",): ("virtual.h5", "part.h5"),
    ("a_dp.hdf5",): ("a_dp.hdf5", "a_para.hdf5"),
    ("a_para.hdf5",): ("a_dp.hdf5", "a_para.hdf5"),
    ("scan.npz", "--mask", "spots.npy", "--probe", "light.npy"): ("scan.npz", "spots.npy", "light.npy"),
    ("whole.h5", "--positions", "places.csv", "--pixel-size-m", "1e-8"): ("whole.h5", "places.csv"),
    ("linked.h5", "--companion", "whole.h5"): ("linked.h5", "frames.h5", "whole.h5"),
}


@settings(max_examples=30 * TIMES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_command_replaces_a_file_that_it_reads(
    files: Path, data: st.DataObject, capsys: pytest.CaptureFixture
) -> None:
    words = data.draw(st.sampled_from(sorted(READ)))
    target = files / data.draw(st.sampled_from(READ[words]))
    scan = [str(files / word) if (files / word).is_file() else word for word in words]
    command = data.draw(st.sampled_from([
        ["convert", scan[0], str(target), "--to", "ptychopinn"],
        ["prepare", scan[0], str(target), "--size", "16"],
        ["orient", scan[0], "--output", str(target)],
        ["reconstruct", scan[0], "--product", str(target), "--output-dir", str(files / "out")],
    ]))  # fmt: skip
    before = {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()}
    assert main([*command, *scan[1:], *data.draw(st.sampled_from([["--overwrite"], []]))]) == 2
    assert "found a file that is read; expected another name" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in files.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("name", ["reconstruction.npz", "refined_scan.npz", "positions.npz"])
@pytest.mark.parametrize("command", [["reconstruct"], ["refine"], ["train"], ["compare", "image.npz", "--scan"]])
def test_no_result_lands_on_the_scan_that_it_is_made_of(
    name: str, command: list[str], small_scan: RawData, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    small_scan.to_file(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    assert main([*command, str(tmp_path / name), "--output-dir", str(tmp_path), "--overwrite"]) == 2
    assert "found a file that is read; expected another name" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [name]


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
    assert "found a file that is read" in capsys.readouterr().err
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


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--ray"],
        ["refine", "--workers", "auto", "--workers", "2"],
        ["reconstruct-scans"],
        ["evaluate-scans"],
        ["tune", "--space", str(ROOT / "configs/tune/probe.yaml")],
        ["study", "scan.npz"],
    ],
)
def test_a_job_does_not_write_into_the_folder_that_is_thrown_away(
    command: list[str], scan_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scan.npz").write_bytes(scan_file.read_bytes())
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main([*command, "scan.npz", "--output-dir", "relative"]) == 2
    assert "an absolute path that all nodes share" in capsys.readouterr().err
    assert not Path("relative").exists()
