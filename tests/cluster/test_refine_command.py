"""``ptycho-ray refine --workers``: the files, the pictures and the checkpoint of the command without them."""

from __future__ import annotations

import numpy as np
import pytest

from ptycho_ray.commands.cli import main

pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")


def test_workers_write_what_one_process_writes(one_ray, scan_file, tmp_path):
    words = ["refine", str(scan_file), "--iterations", "1", "--workers", "2", "--output-dir", str(tmp_path)]
    assert main(words) == 0
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {"reconstruction.npz", "refined_scan.npz", "refinement.safetensors", "report.html", "result.json"}


@pytest.mark.slow
def test_workers_refine_as_one_process_does_and_either_resumes_the_other(one_ray, small_scan, tmp_path):
    small_scan.to_file(tmp_path / "scan.npz")
    words = ["refine", str(tmp_path / "scan.npz"), "--precision", "double", "--check-every", "1"]
    together, alone = tmp_path / "together", tmp_path / "alone"
    with_pictures = [*words, "--iterations", "2", "--picture-every", "2"]
    assert main([*with_pictures, "--workers", "2", "--output-dir", str(together)]) == 0
    assert main([*with_pictures, "--output-dir", str(alone)]) == 0
    names = [{path.name for path in folder.iterdir()} - {"ray"} for folder in (together, alone)]
    assert names[0] == names[1] >= {"iteration_0002.png", "refinement.safetensors", "reconstruction.npz"}
    for part in ("object", "weight"):
        ours, theirs = (np.load(folder / "reconstruction.npz")[part] for folder in (together, alone))
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
    assert main([*words, "--iterations", "3", "--resume", "--output-dir", str(together)]) == 0
    assert (together / "refinement.safetensors").stat().st_mtime_ns > (
        together / "iteration_0002.png"
    ).stat().st_mtime_ns
