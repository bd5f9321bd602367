"""``ptycho-ray train --workers`` on a cluster of its own, which lives as long as the command."""

from __future__ import annotations

import json

import pytest

from ptycho_ray.commands.cli import main
from ptycho_ray.workflow import load_inference_bundle

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")


@pytest.mark.slow
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
