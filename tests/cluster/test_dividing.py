"""One scan in tiles on Ray: chosen by size, with the files of the command, and what a lost worker costs."""

from __future__ import annotations

import json
import os
import signal
import threading

import numpy as np
import pytest
from helpers import wait_for
from ray_fixtures import pids_of_workers

pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")

from ptycho_ray.cluster.dividing import ImagesOfTiles, bytes_needed, divides
from ptycho_ray.cluster.preflight import Workers
from ptycho_ray.cluster.refine import refine_on_cluster
from ptycho_ray.commands.cli import main
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.solver import RefinementConfig, refine
from ptycho_ray.refinement.tile_files import complete_sets, folder_of_tiles

TWO = Workers(2, 2, {"CPU": 1.0})
CPU = {"devices": 2, "accelerator": "cpu"}


def test_a_scan_that_outgrows_a_worker_is_divided(small_scan, tmp_path):
    checkpoint = tmp_path / "state.safetensors"
    needed = bytes_needed(small_scan, RefinementConfig()) / 1e9

    def divided(split: str = "auto", workers: Workers = TWO, **settings: object) -> bool:
        return divides(small_scan, RefinementConfig(**settings), ExecutionConfig(split=split), workers, checkpoint)

    assert divided(memory_GB=0.9 * needed)
    assert not divided(memory_GB=1.1 * needed)
    assert not divided(memory_GB=0.9 * needed, workers=Workers(1, 1, {"CPU": 1.0}))
    assert not divided(
        memory_GB=0.9 * needed, method="dm"
    )  # it needs the whole scan: patterns are then read from their file
    assert divided("tiles", memory_GB=1.1 * needed)
    assert not divided("data", memory_GB=0.9 * needed)
    with pytest.raises(ConfigurationError, match="dm"):
        divided("tiles", method="dm")
    checkpoint.touch()
    assert not divided(memory_GB=0.9 * needed)  # it was begun with shared batches


def test_an_image_is_shown_when_all_tiles_have_reported_it():
    images, one = ImagesOfTiles(), np.ones((4, 6), np.complex64)
    left, right = (StitchedObject(one, np.abs(one), (2.0, column)) for column in (0.0, 4.0))
    assert images.add(5, 0, 2, left) is None  # of an iteration that a worker did not live to report
    assert images.add(10, 1, 2, right) is None
    whole = images.add(10, 0, 2, left)
    assert whole is not None
    assert whole.origin_px == (2.0, 0.0)
    np.testing.assert_allclose(whole.image, np.ones((4, 10)))


def test_workers_are_asked_for_before_tiles(scan_file, tmp_path, capsys):
    words = ["refine", str(scan_file), "--output-dir", str(tmp_path / "image")]
    assert main([*words, "--split", "tiles"]) == 2
    assert "--workers" in capsys.readouterr().err
    assert main([*words, "--split", "tiles", "--workers", "2", "--uncertainty"]) == 2
    assert "--split data" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_writes_the_same_files_in_tiles_and_resumes(one_ray, small_scan, tmp_path):
    small_scan.to_file(tmp_path / "scan.h5")
    words = ["refine", str(tmp_path / "scan.h5"), "--check-every", "1", "--workers", "2", "--split", "tiles"]
    words += ["--output-dir", str(tmp_path / "image")]
    assert main([*words, "--iterations", "2", "--picture-every", "2"]) == 0
    made = {path.name for path in (tmp_path / "image").iterdir()}
    assert made >= {"reconstruction.npz", "refined_scan.npz", "refinement.tiles", "iteration_0002.png", "report.html"}
    assert main([*words, "--iterations", "3", "--resume"]) == 0
    assert [path.name for path in (tmp_path / "image" / "refinement.tiles").iterdir()] == ["000003"]
    result = json.loads((tmp_path / "image" / "result.json").read_text())
    assert result["iterations"] == 3


@pytest.mark.slow
def test_a_lost_worker_costs_what_was_done_since_the_last_set_of_tiles(one_ray, small_scan, tmp_path):
    config = RefinementConfig(iterations=150, check_every=5, precision="double")
    killed = []

    def kill() -> None:
        wait_for(lambda: complete_sets(tmp_path / "state.safetensors"), "a set of tiles")
        killed.extend(pids_of_workers()[-1:])
        os.kill(killed[0], signal.SIGKILL)

    execution = ExecutionConfig(split="tiles", **CPU)
    threading.Thread(target=kill, daemon=True).start()
    found = refine_on_cluster(small_scan, config, checkpoint=tmp_path / "state.safetensors", execution=execution)
    assert killed
    undisturbed = refine_on_cluster(small_scan, config, checkpoint=tmp_path / "again.safetensors", execution=execution)
    lit = undisturbed.stitched.covered()
    np.testing.assert_allclose(found.stitched.image[lit], undisturbed.stitched.image[lit], atol=1e-6)
    assert [progress.iteration for progress in found.history] == list(range(1, 151))
    assert not list(folder_of_tiles(tmp_path / "state.safetensors").glob("*/tile_*_of_0001*"))
    alone = refine(small_scan, config).stitched
    turn = np.vdot(found.stitched.image[lit], alone.image[lit])
    assert np.abs(found.stitched.image[lit] * turn / abs(turn) - alone.image[lit]).mean() < 0.2
