"""``ptycho-ray refine --workers`` and ``reconstruct --workers``: the files, the pictures, the checkpoint and the verdict of the
commands without them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from ray_fixtures import pids_of_actors

from ptycho_ray.commands.cli import main
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.data import load_data
from ptycho_ray.refinement.config import RefinementConfig

pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")

from ptycho_ray.cluster import whole_scan
from ptycho_ray.cluster.refine import refine_on_cluster


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


@pytest.mark.slow
@pytest.mark.parametrize("split", ["data", "tiles"])
def test_workers_reconstruct_and_judge_as_one_process_does(one_ray, scan_file, tmp_path, capsys, split):
    words = ["reconstruct", str(scan_file), "--refinement.iterations", "6", "--json"]
    found = {}
    for name, more in (("alone", []), ("together", ["--workers", "2", "--split", split])):
        assert main([*words, *more, "--output-dir", str(tmp_path / name)]) in (0, 3)
        found[name] = json.loads(capsys.readouterr().out)
    assert {path.name for path in (tmp_path / "together").iterdir()} == {
        path.name for path in (tmp_path / "alone").iterdir()
    }
    alone, together = found["alone"], found["together"]
    assert (together["plan"], together["shape"]) == (alone["plan"], alone["shape"])
    assert together["figures"]["patterns"] == alone["figures"]["patterns"]
    of_the_same_sums = {"data": 1e-3, "tiles": 0.1}[split]
    for name in ("r_factor", "times_noise", "r_factor_of_a_flat_object"):
        assert together["figures"][name] == pytest.approx(alone["figures"][name], rel=of_the_same_sums), name


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--workers", "2", "--uncertainty"], "without --workers"),
        (["--workers", "2", "--plan"], "in one process"),
        (["--workers", "2", "--model-path", "pretrained"], "reconstruct-scans"),
        (["--split", "tiles"], "--workers N beside it"),
    ],
)
def test_what_workers_cannot_share_is_refused_before_anything_starts(scan_file, tmp_path, capsys, more, said):
    assert main(["reconstruct", str(scan_file), "--output-dir", str(tmp_path / "image"), *more]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_what_a_follower_raises_ends_the_run(one_ray, small_scan, tmp_path):
    class Enough(Exception):
        pass

    with_torch = []

    def on_progress(progress):
        (board,) = pids_of_actors(lambda name: name == "EventQueue")
        with_torch.append("libtorch" in Path(f"/proc/{board}/maps").read_text())
        raise Enough

    config, execution = RefinementConfig(iterations=100_000), ExecutionConfig(devices=2, accelerator="cpu")
    with pytest.raises(Enough):
        refine_on_cluster(
            small_scan, config, checkpoint=tmp_path / "state", execution=execution, on_progress=on_progress
        )
    assert with_torch == [False], "the process that passes on what is told has to be small"


@pytest.mark.slow
def test_all_workers_read_the_intensities_of_a_scan_on_disk(one_ray, small_scan, tmp_path, monkeypatch):
    small_scan.to_file(tmp_path / "scan.h5")
    scan = load_data(tmp_path / "scan.h5")
    monkeypatch.setattr(whole_scan, "LEAST_PATTERNS", 7)
    monkeypatch.setattr(type(scan.patterns), "energies", lambda stack: pytest.fail("read by the program itself"))
    whole_scan.read_energies(scan, print)
    np.testing.assert_allclose(scan.pattern_energies(), small_scan.pattern_energies())


@pytest.mark.slow
def test_all_workers_read_the_parts_of_a_large_file_unless_they_do_not_see_it(one_ray, tmp_path, monkeypatch):
    (tmp_path / "scan.h5").write_bytes(b"abc")
    monkeypatch.setattr(whole_scan, "PART_BYTES", 0)  # so that it is large
    found = [hashlib.sha256(b"abc").digest()]
    with (tmp_path / "scan.h5").open("rb") as stream:
        opened_here = [(Path(f"/proc/self/fd/{os.dup2(stream.fileno(), 900)}"), 0)]
        assert whole_scan.digests_on_cluster(ExecutionConfig(), print, opened_here) == found
        os.close(900)
    monkeypatch.setattr(whole_scan, "digests_in_threads", lambda parts: pytest.fail("read by the program itself"))
    assert whole_scan.digests_on_cluster(ExecutionConfig(), print, [(tmp_path / "scan.h5", 0)]) == found
