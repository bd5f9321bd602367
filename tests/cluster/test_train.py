"""Training on a Ray cluster: same results, shared data, checkpoints, and what happens when something is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, make_tiny_config, wait_for
from ray_fixtures import CPUS, RUN, pids_of_workers, processes_of

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.data import load_data
from ptycho_ray.errors import ConfigurationError, InputError, MissingFileError, TrainingInterrupted
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.workflow import create_ptycho_data_container, physical_probe, reassemble_cdi_image, train_cdi_model

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")

from ptycho_ray.cluster import preflight  # noqa: E402
from ptycho_ray.cluster import train as cluster_train  # noqa: E402
from ptycho_ray.cluster.connect import _ensure_token, connected  # noqa: E402
from ptycho_ray.cluster.image import image_on_worker, reassemble_on_cluster  # noqa: E402
from ptycho_ray.cluster.train import STATE, TrainingLost, train_on_cluster  # noqa: E402
from ptycho_ray.cluster.whole_scan import read_energies  # noqa: E402

#: Relative difference of the figures of a run that was disturbed, or had several workers, from those of the core alone:
#: more workers add up the same gradients in another order.
TOLERANCE = 1e-5
#: Plain gradient descent; Adam would divide small gradients, and the rounding in them, by their own size.
SETTINGS = {"nepochs": 4, "batch_size": 8, "validation_fraction": 0.2, "optimizer": "sgd", "momentum": 0.5}
#: Epochs of a run that is ended before: this process hears of a step later than the workers make it.
ENDLESS = 100_000


class OnStep:
    """Does something once, when a step of an epoch has been made."""

    def __init__(self, epoch: int, batch: int, action) -> None:
        self.epoch, self.batch, self.action, self.done = epoch, batch, action, False
        self.epochs: list[int] = []

    def on_step(self, progress, figures, steps_in_epoch) -> None:
        if not self.done and (progress.epoch, progress.batch) >= (self.epoch, self.batch):
            self.done = True
            self.action()

    def on_epoch(self, progress, figures, model) -> None:
        self.epochs.append(progress.epoch)


class Recorder(OnStep):
    def __init__(self) -> None:
        super().__init__(10**9, 0, None)
        self.steps, self.images = [], []

    def on_step(self, progress, figures, steps_in_epoch) -> None:
        self.steps.append((progress.epoch, progress.batch))

    def on_image(self, progress, stitched) -> None:
        self.images.append((progress.epoch, stitched))


@pytest.fixture
def config(tiny_config, tmp_path):
    return replace(tiny_config, output_dir=tmp_path, **SETTINGS)


@pytest.fixture(scope="module")
def undisturbed(small_scan, tmp_path_factory):
    """The history of the same training in this process alone."""
    config = replace(make_tiny_config(), **SETTINGS)
    return train_cdi_model(small_scan, None, config, checkpoint_dir=tmp_path_factory.mktemp("alone"))


def assert_same_run(results, undisturbed, tolerance=TOLERANCE) -> None:
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(results["history"][name], undisturbed["history"][name], rtol=tolerance, err_msg=name)


@pytest.mark.slow
def test_one_worker_trains_the_same_model_as_the_core(one_ray, small_scan, config, undisturbed):
    recorder = Recorder()
    execution = ExecutionConfig(recon_log_every_n_epochs=2)
    results = train_on_cluster(small_scan, None, config, execution=execution, callbacks=[recorder])
    assert results["history"] == undisturbed["history"]
    expected = undisturbed["model_instance"].state_dict()
    for name, value in results["model_instance"].state_dict().items():
        assert np.array_equal(value, expected[name]), name
    assert recorder.epochs == [1, 2, 3, 4]
    steps = -(-len(results["train_container"]) // 8)
    assert len(recorder.steps) >= 4 * (steps - 2)  # every step is told, whatever the hold-out took
    assert [epoch for epoch, _ in recorder.images] == [2, 4]
    assert recorder.images[0][1].image.dtype == np.complex64


@pytest.mark.slow
def test_two_workers_give_the_same_losses(one_ray, small_scan, config, undisturbed):
    execution = ExecutionConfig(devices=2, checkpoint_save_top_k=2)
    recorder = Recorder()
    results = train_on_cluster(small_scan, None, config, execution=execution, callbacks=[recorder])
    assert_same_run(results, undisturbed)
    assert recorder.epochs == [1, 2, 3, 4]
    kept = sorted(folder.name for folder in (config.output_dir / "ray" / "train").iterdir() if folder.is_dir())
    best = np.argsort(results["history"]["val_loss"])[:3] + 1  # the two best, and one to spare
    assert kept == sorted({f"epoch-{epoch:05d}" for epoch in [*best, 4]})


@pytest.mark.slow
def test_a_new_run_in_the_same_folder_begins_anew(one_ray, small_scan, config, undisturbed):
    for _ in range(2):
        recorder = Recorder()
        results = train_on_cluster(small_scan, None, config, callbacks=[recorder])
        assert results["history"] == undisturbed["history"]
        assert recorder.epochs == [1, 2, 3, 4]


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_an_epoch_costs_what_it_did_since_the_checkpoint(one_ray, small_scan, config):
    config = replace(config, nepochs=20)  # long enough not to be over when this process hears of the step
    kill = OnStep(2, 3, lambda: os.kill(pids_of_workers()[-1], signal.SIGKILL))
    results = train_on_cluster(small_scan, None, config, execution=ExecutionConfig(devices=2), callbacks=[kill])
    assert kill.done
    assert_same_run(results, train_cdi_model(small_scan, None, config))
    assert sorted(set(kill.epochs)) == list(range(1, 21))
    assert kill.epochs.count(1) == 1, "the first epoch had its checkpoint and must not be trained again"


@pytest.mark.slow
def test_more_losses_than_allowed_end_the_run(one_ray, small_scan, config):
    kill = OnStep(1, 1, lambda: os.kill(pids_of_workers()[0], signal.SIGKILL))
    with pytest.raises(TrainingLost, match="max_failures = 0"):
        train_on_cluster(
            small_scan,
            None,
            replace(config, nepochs=ENDLESS),
            execution=ExecutionConfig(max_failures=0),
            callbacks=[kill],
        )


@pytest.mark.slow
def test_an_error_that_the_user_has_to_mend_is_not_tried_again(one_ray, small_scan, config):
    from ptycho_ray.training.loop import TrainingDiverged

    with pytest.raises(TrainingDiverged, match="learning_rate"):
        train_on_cluster(
            small_scan, None, config, execution=ExecutionConfig(learning_rate=1e30, gradient_clip_val=None)
        )


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_the_run_and_the_same_call_goes_on(one_ray, small_scan, config, number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    name = f"stopped-{number}"
    stop = OnStep(2, 1, lambda: os.kill(os.getpid(), number))
    with pytest.raises(TrainingInterrupted):
        train_on_cluster(small_scan, None, replace(config, nepochs=ENDLESS), callbacks=[stop], run_name=name)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    done = int(kept_checkpoints(config.output_dir / "ray" / name)[-1][-5:])
    assert done >= 1
    longer, recorder = replace(config, nepochs=done + 2), Recorder()
    results = train_on_cluster(small_scan, None, longer, callbacks=[recorder], run_name=name)
    assert results["history"] == train_cdi_model(small_scan, None, longer)["history"]
    assert recorder.epochs[-2:] == [done + 1, done + 2]
    assert 1 not in recorder.epochs


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
from dataclasses import replace
from pathlib import Path
from helpers import make_scan, make_tiny_config
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.cluster.train import train_on_cluster
config = replace(make_tiny_config(), output_dir=Path({folder!r}), **{settings!r})
train_on_cluster(make_scan(), None, config, execution=ExecutionConfig(devices=2))
"""


@pytest.mark.slow
def test_the_program_is_killed_and_its_newest_checkpoint_damaged(one_ray, small_scan, config, caplog):
    """SIGKILL for the program that started the run; its newest checkpoint is then cut short, and another one left
    half-written beside it. The same call goes on from the newest checkpoint that is whole."""
    folder = config.output_dir / "ray" / "train"
    endless = {**SETTINGS, "nepochs": ENDLESS}
    text = DRIVER.format(tests=str(ROOT / "tests"), folder=str(config.output_dir), settings=endless)
    driver = subprocess.Popen([sys.executable, "-c", text], env={**os.environ, RUN: "driver"})
    try:
        wait_for(lambda: len(kept_checkpoints(folder)) >= 2 or driver.poll() is not None, "two checkpoints")
        assert driver.poll() is None, "the run must still be going on"
    finally:
        driver.kill()
        driver.wait()
        wait_for(lambda: not processes_of("driver"), "the end of its cluster")
    checkpoints = kept_checkpoints(folder)
    newest = folder / checkpoints[-1] / STATE
    newest.write_bytes(newest.read_bytes()[:1000])
    (folder / "epoch-00999").mkdir()
    (folder / "epoch-00999" / STATE).write_bytes(b"half")
    resumed = int(checkpoints[-2][-5:])
    longer = replace(config, nepochs=resumed + 2)
    recorder = Recorder()
    results = train_on_cluster(small_scan, None, longer, execution=ExecutionConfig(devices=2), callbacks=[recorder])
    assert recorder.epochs == [resumed + 1, resumed + 2]
    alone = train_cdi_model(small_scan, None, longer)
    for name in ("loss", "val_loss"):
        np.testing.assert_allclose(results["history"][name], alone["history"][name], rtol=TOLERANCE, err_msg=name)


def kept_checkpoints(folder: Path) -> list[str]:
    """The checkpoints that a run has on record, oldest first."""
    try:
        state = json.loads((folder / "checkpoint_manager_snapshot.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return sorted(result["checkpoint_dir_name"] for result in state["checkpoint_results"])


class MetricsSeen(Recorder):
    """Looks at what the cluster exports for Prometheus, which is what its dashboard shows, until the run is there."""

    WANTED = frozenset({"ray_ptycho_ray_loss", "ray_ptycho_ray_val_loss", "ray_ptycho_ray_step_loss"})

    def __init__(self) -> None:
        super().__init__()
        (node,) = ray.nodes()
        self.address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        self.seen: set[str] = set()

    def on_epoch(self, progress, figures, model) -> None:
        if not self.seen >= self.WANTED:
            with urllib.request.urlopen(self.address, timeout=10) as answer:
                lines = answer.read().decode().splitlines()
            self.seen |= {line.split("{")[0] for line in lines if 'run="shown"' in line}


@pytest.mark.slow
def test_the_figures_are_among_the_metrics_of_the_dashboard(one_ray, small_scan, config):
    metrics = MetricsSeen()
    train_on_cluster(small_scan, None, replace(config, nepochs=40), callbacks=[metrics], run_name="shown")
    assert metrics.seen >= metrics.WANTED


def test_too_many_workers_are_refused_at_once(one_ray, small_scan, config):
    with pytest.raises(ConfigurationError, match=rf"execution.devices.*found {CPUS + 1}.*at most {CPUS}"):
        train_on_cluster(small_scan, None, config, execution=ExecutionConfig(devices=CPUS + 1))
    with pytest.raises(ConfigurationError, match="no machine of the cluster has a GPU"):
        train_on_cluster(small_scan, None, config, execution=ExecutionConfig(accelerator="gpu"))
    with pytest.raises(ConfigurationError, match="execution.min_devices"):
        train_on_cluster(small_scan, None, config, execution=ExecutionConfig(devices=2, min_devices=3))


def test_a_storage_path_that_cannot_be_written(one_ray, small_scan, config, tmp_path):
    (tmp_path / "file").write_text("no folder")
    for place in (str(tmp_path / "file" / "below"), "nonsense://place"):
        with pytest.raises(ConfigurationError, match="storage_path"):
            train_on_cluster(small_scan, None, config, execution=ExecutionConfig(storage_path=place))


@pytest.mark.slow
def test_a_storage_path_may_be_a_uri(one_ray, small_scan, config, tmp_path):
    execution = ExecutionConfig(storage_path=(tmp_path / "store").as_uri())
    train_on_cluster(small_scan, None, replace(config, nepochs=1), execution=execution)
    assert (tmp_path / "store" / "train" / "epoch-00001" / STATE).is_file()


def test_nodes_with_other_packages_and_nodes_that_do_not_see_a_file(one_ray):
    preflight.check_nodes(files=[__file__])
    with pytest.raises(InputError, match=r"node .*: torch: found .*expected 9.9 as here"):
        preflight.check_nodes(expected={**preflight.versions(), "torch": "9.9"})
    with pytest.raises(MissingFileError, match=r"/nowhere/scan.h5: node .*nothing there"):
        preflight.check_nodes(files=["/nowhere/scan.h5"])


@pytest.mark.parametrize("address", ["127.0.0.1:1", "no-such-host:6379", "nonsense"])
def test_an_address_where_no_cluster_answers(address, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # else the one cluster of the tests would be used
    with pytest.raises(ConfigurationError, match="execution.address"), connected(ExecutionConfig(address=address)):
        pass


def test_a_cluster_of_this_machine_gets_a_token_unless_the_user_has_arranged_for_one(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    _ensure_token()
    arranged = os.environ["RAY_AUTH_TOKEN"]
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    _ensure_token()
    assert "RAY_AUTH_TOKEN" not in os.environ, "the user has chosen a mode"
    monkeypatch.delenv("RAY_AUTH_MODE")
    _ensure_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32
    assert os.environ["RAY_AUTH_TOKEN"] != arranged
    assert not (tmp_path / ".ray").exists()


def test_ray_client_addresses_point_to_jobs(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ConfigurationError, match="ray job submit"), connected(ExecutionConfig(address="ray://x:10001")):
        pass


def test_the_image_is_made_by_a_worker_where_this_machine_has_no_gpu(
    one_ray, small_scan, tiny_config, tmp_path, monkeypatch
):
    execution, model = ExecutionConfig(), make_model_of(small_scan, tiny_config)
    asked = []

    def on_worker(*arguments, **how):
        asked.append(arguments[4:6])
        return image_on_worker(*arguments[:4], {"CPU": 1.0}, "cpu", *arguments[6:], **how)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("ptycho_ray.cluster.image.image_on_worker", on_worker)
    here = reassemble_cdi_image(small_scan, tiny_config, model=model, execution=execution, keep_patches=False)
    how = {"model": model, "execution": execution, "keep_patches": False}
    np.testing.assert_array_equal(reassemble_on_cluster(small_scan, tiny_config, **how)[0], here[0])
    assert not asked, "a cluster without a GPU is no quicker than this machine"
    small_scan.to_file(tmp_path / "scan.h5")
    with monkeypatch.context() as small:
        small.setattr("ptycho_ray.cluster.image.room_for_scans", lambda: 0)
        on_disk = reassemble_on_cluster(load_data(tmp_path / "scan.h5"), tiny_config, **how)
    assert asked.pop(), "but this machine does not read a large scan"
    np.testing.assert_allclose(on_disk[0], here[0], atol=1e-6)

    with_gpu = ({"CPU": 1.0, "GPU": 1.0}, "cuda")
    monkeypatch.setattr("ptycho_ray.cluster.image.worker_resources", lambda execution: with_gpu)
    there = reassemble_on_cluster(small_scan, tiny_config, **how)
    assert asked == [with_gpu]
    np.testing.assert_allclose(there[0], here[0], atol=1e-6)
    np.testing.assert_allclose(there[2]["stitched"].image, here[2]["stitched"].image, atol=1e-6)


def make_model_of(scan, config):
    container = create_ptycho_data_container(scan, config)
    return PhysicsInformedModel(config.model, container.normalisation, physical_probe(container))


@pytest.mark.slow
def test_all_workers_read_the_intensities_of_a_large_scan(one_ray, small_scan, config, tmp_path, monkeypatch):
    small_scan.to_file(tmp_path / "scan.h5")
    scan, read = load_data(tmp_path / "scan.h5"), []
    monkeypatch.setattr(cluster_train, "LARGE_BYTES", 0)
    monkeypatch.setattr(cluster_train, "read_energies", lambda one, wait: read.append(one) or read_energies(one, wait))
    train_on_cluster(scan, None, replace(config, nepochs=1), execution=ExecutionConfig(accelerator="cpu"))
    assert read == [scan]
