"""Inference in shards, and a refinement, on a Ray cluster of this machine."""

from __future__ import annotations

import os
import re
import signal
import threading

import numpy as np
import pytest
from helpers import wait_for
from ray_fixtures import pids_of_workers

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.reconstruction.images import read_image
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.solver import RefinementConfig, refine
from ptycho_ray.workflow import load_data, reassemble_cdi_image, save_inference_bundle, train_cdi_model

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")

from ptycho_ray.cluster.batch import ByModel, add_partial_images  # noqa: E402
from ptycho_ray.cluster.each_alone import ScanToDo  # noqa: E402
from ptycho_ray.cluster.refine import refine_on_cluster  # noqa: E402


def test_shards_add_up_to_the_image_and_are_done_once(small_scan, tiny_config, tmp_path):
    path = tmp_path / "scan.npz"
    small_scan.to_file(path)
    scan = load_data(path)
    results = train_cdi_model(scan, None, tiny_config)
    save_inference_bundle(tmp_path / "model", results, tiny_config, {})
    todo = ScanToDo(path, tmp_path / "images")
    by_model = ByModel(tmp_path / "model", ExecutionConfig(), shard_patterns=20)
    told = []
    assert by_model.begin(todo, "cpu", told.append) == 4
    for number in (0, 2, 3):
        by_model.part(todo, number, "cpu", told.append)
    written = {shard: shard.stat().st_mtime_ns for shard in (todo.folder / "shards").iterdir()}
    later = ByModel(
        tmp_path / "model", ExecutionConfig(), shard_patterns=20
    )  # of another worker, or after an interruption
    for number in range(4):
        later.part(todo, number, "cpu", told.append)
    shards = sorted((todo.folder / "shards").iterdir())
    assert len(shards) == 4
    assert {shard: shard.stat().st_mtime_ns for shard in written} == written
    whole = reassemble_cdi_image(scan, tiny_config, model=results["model_instance"])[2]["stitched"]
    summed = add_partial_images(shards)
    assert summed.image.shape == whole.image.shape
    np.testing.assert_allclose(summed.weight, whole.weight, rtol=1e-4, atol=1e-3 * whole.weight.max())
    lit = whole.covered()
    overlap = abs(np.vdot(summed.image[lit], whole.image[lit]))
    assert overlap > 0.97 * np.linalg.norm(summed.image[lit]) * np.linalg.norm(whole.image[lit])
    line = by_model.finish(todo, told.append)
    assert (line["patterns"], line["shards"]) == (60, 4)
    np.testing.assert_allclose(read_image(todo.folder).pixels, summed.image, atol=1e-5)
    assert not (todo.folder / "shards").exists()
    assert any(re.fullmatch(r"shard 3 of 4, \d+ of \d+ groups, (\d+ s left|beginning)", line) for line in told)


def test_partial_images_are_turned_to_their_neighbours_in_any_order(tmp_path):
    rng = np.random.default_rng(0)
    image = (rng.uniform(0.5, 1, (40, 90)) * np.exp(1j * rng.uniform(-1, 1, (40, 90)))).astype(np.complex64)
    files = []
    for number in rng.permutation(8):
        columns = slice(10 * number, 10 * number + 16)
        part = image[:, columns] * np.complex64(np.exp(1j * rng.uniform(-3, 3)))
        files.append(tmp_path / f"{number}.npz")
        StitchedObject(part, np.ones(part.shape, np.float32), (5.0, 10.0 * number)).save(files[-1])
    summed = add_partial_images(files)
    assert summed.origin_px == (5.0, 0.0)
    whole = image[:, : summed.image.shape[1]]
    turn = np.vdot(summed.image, whole)
    np.testing.assert_allclose(summed.image * (turn / abs(turn)), whole, atol=1e-5)


@pytest.mark.slow
def test_two_ray_workers_refine_as_one_process(one_ray, small_scan, tmp_path):
    config = RefinementConfig(iterations=3, precision="double")
    alone = refine(small_scan, config)
    together = refine_on_cluster(
        small_scan, config, checkpoint=tmp_path / "state", execution=ExecutionConfig(devices=2, accelerator="cpu")
    )
    lit = alone.stitched.covered()
    np.testing.assert_allclose(together.stitched.image[lit], alone.stitched.image[lit], atol=1e-4)


@pytest.mark.slow
def test_a_lost_worker_costs_what_was_done_since_the_checkpoint(one_ray, small_scan, tmp_path):
    config = RefinementConfig(iterations=200, check_every=5, position_start=5, precision="double")
    killed = []

    def kill() -> None:
        wait_for((tmp_path / "state").exists, "a checkpoint")
        killed.extend(pids_of_workers()[-1:])
        os.kill(killed[0], signal.SIGKILL)

    execution = ExecutionConfig(devices=2, accelerator="cpu")
    threading.Thread(target=kill, daemon=True).start()
    found = refine_on_cluster(small_scan, config, checkpoint=tmp_path / "state", execution=execution)
    assert killed
    undisturbed = refine_on_cluster(small_scan, config, checkpoint=tmp_path / "again", execution=execution)
    np.testing.assert_allclose(found.stitched.image, undisturbed.stitched.image, atol=1e-6)
    np.testing.assert_allclose(found.positions_px, undisturbed.positions_px, atol=1e-6)
    assert [progress.iteration for progress in found.history] == list(range(1, 201))
