"""``ptycho-ray train --workers`` and ``evaluate-scans`` on a cluster that lives as long as the command."""

from __future__ import annotations

import json

import pytest

from ptycho_ray.commands.cli import main
from ptycho_ray.workflow import load_inference_bundle

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")


def test_the_command_trains_with_two_workers_and_begins_anew_after_the_end(small_scan, tmp_path, capsys):
    small_scan.to_file(tmp_path / "scan.npz")
    words = [
        "train",
        str(tmp_path / "scan.npz"),
        "--workers",
        "2",
        "--n-filters-scale",
        "1",
        "--output-dir",
        str(tmp_path),
    ]
    assert main([*words, "--nepochs", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["training"]["epochs"] == 2
    load_inference_bundle(tmp_path)
    assert not ray.is_initialized(), "the cluster of a command ends with it"
    assert main([*words, "--nepochs", "3", "--json", "--resume"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("epoch")] == ["3/3"]


def test_scans_are_judged_side_by_side_and_a_bad_one_spoils_nothing(small_scan, other_scan, tmp_path, capsys):
    small_scan.to_file(tmp_path / "a.npz")
    other_scan.to_file(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(b"no scan")
    words = ["--n-filters-scale", "1", "--nepochs", "1", "--output-dir", str(tmp_path / "model")]
    assert main(["train", str(tmp_path / "a.npz"), *words]) == 0
    scans = [str(tmp_path / f"{name}.npz") for name in "abc"]
    words = ["--model-path", str(tmp_path / "model"), "--output-dir", str(tmp_path / "images")]
    assert main(["evaluate-scans", *scans, *words]) == 0
    rows = json.loads((tmp_path / "images" / "evaluation.json").read_text(encoding="utf-8"))["scans"]
    assert [0 < row["r_factor"] < 1 and row["phase_ssim"] <= 1 for row in rows[:2]] == [True, True]
    assert "neither a zip archive nor HDF5" in rows[2]["error"]
    assert (tmp_path / "images" / "b" / "reconstruction.npz").is_file()
