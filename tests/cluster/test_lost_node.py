"""A machine of the cluster is lost in mid-run: the training goes on with what is left, and grows again."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from helpers import PATIENCE_S, wait_for
from ray_fixtures import local_ray

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.refinement.solver import RefinementConfig, refine
from ptycho_ray.refinement.tile_files import complete_sets
from ptycho_ray.workflow import train_cdi_model

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")

from ray.cluster_utils import Cluster  # noqa: E402
from ray.util.placement_group import placement_group, remove_placement_group  # noqa: E402

from ptycho_ray.cluster.each_alone import ScanToDo, Treatment, treat_each  # noqa: E402
from ptycho_ray.cluster.object_store import room_for_scans  # noqa: E402
from ptycho_ray.cluster.preflight import workers_for  # noqa: E402
from ptycho_ray.cluster.refine import refine_on_cluster  # noqa: E402
from ptycho_ray.cluster.train import train_on_cluster  # noqa: E402

pytestmark = pytest.mark.slow


class Watch:
    """Notes the epochs that end, and says when so many have."""

    def __init__(self, epochs: int) -> None:
        self.epochs, self.wanted, self.reached = [], epochs, threading.Event()

    def on_step(self, progress, figures, steps_in_epoch) -> None:
        if len(self.epochs) >= self.wanted and progress.batch > 1:
            self.reached.set()

    def on_epoch(self, progress, figures, model) -> None:
        self.epochs.append(progress.epoch)


@pytest.fixture
def cluster(monkeypatch):
    """A head without processors for work, and two machines with one processor each."""
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "10")
    store = 100 * 2**20
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=0, object_store_memory=store)
        nodes = [cluster.add_node(num_cpus=1, object_store_memory=store) for _ in range(2)]
        with local_ray(address=cluster.address):
            cluster.wait_for_nodes()
            yield cluster, nodes
    finally:
        cluster.shutdown()


def test_a_refinement_outlives_the_loss_of_a_node(cluster, small_scan, tmp_path):
    machines, nodes = cluster
    config = RefinementConfig(iterations=120, check_every=5, position_start=5, precision="double")
    found, state = {}, tmp_path / "state"

    def run() -> None:
        execution = ExecutionConfig(devices=2, min_devices=1, accelerator="cpu")
        found["result"] = refine_on_cluster(small_scan, config, checkpoint=state, execution=execution)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_for(state.exists, "a checkpoint")
    machines.remove_node(nodes[1], allow_graceful=False)
    thread.join(2 * PATIENCE_S)
    assert not thread.is_alive()
    alone = refine(small_scan, config)
    lit = alone.stitched.covered()
    np.testing.assert_allclose(found["result"].stitched.image[lit], alone.stitched.image[lit], atol=1e-4)
    assert [progress.iteration for progress in found["result"].history] == list(range(1, 121))


def test_tiles_outlive_the_loss_of_a_node_and_the_one_that_is_left_takes_them_all(cluster, small_scan, tmp_path):
    machines, nodes = cluster
    config = RefinementConfig(iterations=120, check_every=5, position_start=5)
    found, state, seen = {}, tmp_path / "state.safetensors", []

    def run() -> None:
        execution = ExecutionConfig(devices=2, min_devices=1, accelerator="cpu", split="tiles")
        found["result"] = refine_on_cluster(
            small_scan, config, checkpoint=state, execution=execution, on_progress=seen.append
        )

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_for(lambda: complete_sets(state), "a set of tiles")
    machines.remove_node(nodes[1], allow_graceful=False)
    thread.join(2 * PATIENCE_S)
    assert not thread.is_alive()
    assert [progress.iteration for progress in found["result"].history] == list(range(1, 121))
    again = [progress.iteration for progress in seen]
    assert len(again) - len(set(again)) <= config.check_every, "what was done since the last set is done again"
    assert [file.stem for file in complete_sets(state)[0]] == ["tile_0000_of_0001"]
    alone = refine(small_scan, config)
    assert found["result"].history[-1].loss < 1.1 * alone.history[-1].loss


@pytest.mark.usefixtures("cluster")
def test_a_second_job_waits_for_the_machine_that_is_taken(small_scan, tmp_path):
    taken = placement_group([{"CPU": 1}])
    ray.get(taken.ready())
    told, found = [], {}

    def run() -> None:
        execution, config = ExecutionConfig(devices=2, accelerator="cpu"), RefinementConfig(iterations=1)
        found["result"] = refine_on_cluster(
            small_scan, config, checkpoint=tmp_path / "state", execution=execution, tell=told.append
        )

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    wait_for(lambda: "waiting for 2 CPUs; 1 of 2 CPU free" in told, "it says what it waits for")
    remove_placement_group(taken)
    thread.join(2 * PATIENCE_S)
    assert len(found["result"].history) == 1
    lines = [line for line in told if not line.startswith("still")]
    assert lines[-2:] == ["starting 2 workers", "2 workers up, preparing the first step"]


def test_limits_and_places_on_two_machines(cluster, tmp_path):
    """The smallest store counts, and a batch computes on both machines, though on neither that started it."""
    store = 100 * 2**20
    assert room_for_scans() == pytest.approx(0.4 * store, rel=0.05)
    assert workers_for(ExecutionConfig(devices="auto", accelerator="cpu")).most == 2

    class SaysWhere(Treatment):  # not of this file, which a worker on another machine need not see
        def begin(self, scan, device, say):
            import time

            node, nodes = ray.get_runtime_context().get_node_id(), scan.path.parent / "nodes"
            nodes.mkdir(exist_ok=True)
            (nodes / node).touch()
            while len(list(nodes.iterdir())) < 2:  # the worker on the other machine is up, too
                time.sleep(0.05)
            return {"exit_code": 0, "node": node}

    todo = [ScanToDo(tmp_path / f"{number}.h5", tmp_path / "out" / str(number)) for number in range(4)]
    for scan in todo:
        scan.path.touch()
    lines = treat_each(todo, SaysWhere(), "none", ExecutionConfig(devices="auto"), Quiet())
    here = ray.get_runtime_context().get_node_id()
    assert {line["node"] for line in lines} == {node["NodeID"] for node in ray.nodes()} - {here}


class Quiet:
    """Is told of a batch, and says nothing."""

    def __getattr__(self, name):
        return lambda *told: None


def test_a_lost_node_costs_nothing_but_speed(cluster, small_scan, tiny_config, tmp_path, caplog):
    machines, nodes = cluster
    config = replace(tiny_config, nepochs=30, optimizer="sgd", momentum=0.5, output_dir=tmp_path)
    watch, found = Watch(3), {}

    def train() -> None:
        execution = ExecutionConfig(devices=2, min_devices=1)
        found["results"] = train_on_cluster(small_scan, None, config, execution=execution, callbacks=[watch])

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    assert watch.reached.wait(PATIENCE_S)
    machines.remove_node(nodes[1], allow_graceful=False)
    thread.join(2 * PATIENCE_S)
    assert not thread.is_alive()
    assert sorted(set(watch.epochs)) == list(range(1, 31))
    assert len(watch.epochs) <= 31, "at most the epoch that was cut is trained again"
    assert "with 1 worker" in caplog.text
    alone = train_cdi_model(small_scan, None, config)
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(found["results"]["history"][name], alone["history"][name], rtol=1e-4, err_msg=name)
