"""Commands and jobs on a Ray cluster that exists."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from helpers import ROOT

from ptycho_ray.commands.cli import main
from ptycho_ray.workflow import load_inference_bundle

pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")


def test_a_job_joins_the_cluster_and_trains_with_two_workers(one_ray, scan_file, tmp_path):
    """What ``ray job submit`` starts, as it starts it: the script, with RAY_ADDRESS in the environment."""
    words = [str(scan_file), "--n-filters-scale", "1", "--nepochs", "1", "--execution.devices", "2", "--json"]
    job = [sys.executable, "jobs/train.py", *words, "--output-dir", str(tmp_path)]
    environment = {**os.environ, "RAY_ADDRESS": one_ray.get_runtime_context().gcs_address}
    done = subprocess.run(job, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["training"]["epochs"] == 1
    load_inference_bundle(tmp_path)
    assert list(tmp_path.glob("ray/**/state.safetensors"))
    assert one_ray.is_initialized(), "the cluster is not the job's"


@pytest.mark.slow
def test_a_job_refines_one_scan_with_two_workers_and_goes_on(one_ray, scan_file, tmp_path):
    environment = {**os.environ, "RAY_ADDRESS": one_ray.get_runtime_context().gcs_address}
    for iterations in ("1", "2"):
        words = [str(scan_file), "--iterations", iterations, "--resume", "--output-dir", str(tmp_path), "--json"]
        job = [sys.executable, "jobs/refine.py", *words, "--workers", "2", "--check-every", "1"]
        done = subprocess.run(job, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["iterations"] == int(iterations)
    assert "2 workers" in done.stderr


@pytest.mark.slow
def test_scans_are_judged_side_by_side_and_a_bad_one_spoils_nothing(one_ray, small_scan, other_scan, tmp_path, capsys):
    small_scan.to_file(tmp_path / "a.npz")
    other_scan.to_file(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(b"no scan")
    words = ["--n-filters-scale", "1", "--nepochs", "1", "--output-dir", str(tmp_path / "model")]
    assert main(["train", str(tmp_path / "a.npz"), *words]) == 0
    scans = [str(tmp_path / f"{name}.npz") for name in "abc"]
    words = ["--model-path", str(tmp_path / "model"), "--output-dir", str(tmp_path / "images")]
    assert main(["evaluate-scans", *scans, *words]) == 1
    rows = json.loads((tmp_path / "images" / "evaluation.json").read_text(encoding="utf-8"))["scans"]
    assert [0 < row["r_factor"] < 1 and row["phase_ssim"] <= 1 for row in rows[:2]] == [True, True]
    assert "neither a zip archive nor HDF5" in rows[2]["error"]
    assert (tmp_path / "images" / "b" / "reconstruction.npz").is_file()


@pytest.mark.slow
def test_scans_are_reconstructed_automatically_and_each_fails_alone(one_ray, small_scan, tmp_path, capsys):
    small_scan.to_file(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"no scan")
    scans = [str(tmp_path / f"{name}.npz") for name in "abc"]
    words = ["reconstruct-scans", *scans, "--refinement.iterations", "6", "--seed", "2", "--select", "0:50", "--json"]
    assert main([*words[:2], *words[4:], "--plan", "--output-dir", str(tmp_path / "images")]) == 0
    decided = json.loads(capsys.readouterr().out)["scans"][0]["plan"]
    assert decided
    assert not (tmp_path / "images" / "a" / "reconstruction.npz").exists()
    assert main([*words, "--output-dir", str(tmp_path / "images")]) == 1
    good, broken, missing = json.loads(capsys.readouterr().out)["scans"]
    assert good["exit_code"] in (0, 3)
    assert good["patterns"] <= 50
    kept = json.loads((tmp_path / "images" / "a" / "result.json").read_text(encoding="utf-8"))
    assert kept["verdict"] == good["verdict"]
    assert (kept["provenance"]["settings"]["iterations"], kept["provenance"]["seed"]) == (6, 2)
    assert {path.name for path in (tmp_path / "images" / "a").iterdir()} == {
        "done.json", "reconstruction.npz", "refined_scan.npz", "report.html", "result.json",
    }  # fmt: skip
    assert (broken["exit_code"], missing["exit_code"]) == (2, 2)
    assert "neither a zip archive nor HDF5" in broken["error"]
    assert (missing["scan"], missing["error"]) == (scans[2], "found nothing; expected a scan")
    assert main(["evaluate-scans", *scans[:2], "--output-dir", str(tmp_path / "judged"), "--json"]) == 1
    good, broken = json.loads(capsys.readouterr().out)["scans"]
    assert good["verdict"]
    assert 0 < good["r_factor"] < 1
    assert "neither a zip archive nor HDF5" in broken["error"]


def test_a_batch_of_nothing_is_refused(tmp_path, capsys):
    (tmp_path / "list.txt").write_text("# nothing yet\n")
    for words in ([], [f"@{tmp_path}/list.txt"]):
        assert main(["evaluate-scans", *words, "--output-dir", str(tmp_path / "out")]) == 2
        assert "@list.txt" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["reconstruct-scans"], ["evaluate-scans"], ["reconstruct-scans", "--model-path"]])
def test_a_batch_overwrites_no_result(scan_file, model_file, tmp_path, capsys, words):
    words += [str(model_file)] if "--model-path" in words else []
    kept = tmp_path / scan_file.stem / "result.json"
    kept.parent.mkdir()
    kept.write_text("{}")
    assert main([*words[:1], str(scan_file), *words[1:], "--output-dir", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert kept.read_text() == "{}"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shard-patterns", "20"], "--model-path"),
        (["--refinement.iterations", "0"], "at least 1"),
        (["--model-path", "model", "--seed", "1"], "--seed"),
    ],
)
def test_what_a_batch_would_not_use_is_refused_before_anything_starts(scan_file, tmp_path, capsys, words, said):
    assert main(["reconstruct-scans", str(scan_file), "--output-dir", str(tmp_path / "images"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "images").exists()
