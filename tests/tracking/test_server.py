"""Recording with a real MLflow server that is started, killed and started again; and with one that never answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import free_port, wait_for

from ptycho_ray.bundle import load_bundle
from ptycho_ray.commands.cli import main
from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.errors import BundleError, InputError
from ptycho_ray.reconstruction.inference import reconstruct
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.tracking import Tracker, build_trackers, delivery, fetch, run_tags, stores
from ptycho_ray.tracking.journal import DELIVERED, JOURNAL, Delivered, read_journal, run_folders, undelivered
from ptycho_ray.tracking.mlflow_tracker import MlflowTracker
from ptycho_ray.tracking.sweep_record import TrialRecord
from ptycho_ray.workflow import load_inference_bundle, save_inference_bundle, train_cdi_model

pytest.importorskip("mlflow")
MLFLOW = ExecutionConfig(logger_backend="mlflow")
EXPERIMENT = "siemens star"


class Server:
    """``mlflow server`` on a port of this machine; its database and files outlive it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        words = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1"]
        words += ["--port", str(self.port), "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        words += ["--artifacts-destination", str(self.folder / "files")]
        environment = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes that nothing here needs
        }
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                words, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        wait_for(self.answers, f"answer of the server; see {self.folder}/server.log")

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        """Let it die on the spot, with the processes it has started."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.uri)


@pytest.fixture(scope="module")
def a_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def server(a_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    if a_server.process is None:
        a_server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", a_server.uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
    return a_server


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine must change no result: look often at what may fail, wait long for what will arrive."""
    monkeypatch.setattr("ptycho_ray.tracking.mlflow_tracker.LOOK_EVERY_S", 0.0)
    monkeypatch.setattr("ptycho_ray.tracking.mlflow_tracker.WAIT_S", 600.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def config() -> TrainingConfig:
    return TrainingConfig(model=ModelConfig(N=32, n_filters_scale=1), nepochs=2, batch_size=8, validation_fraction=0.2)


@pytest.fixture(scope="module")
def untracked(small_scan: Any, config: TrainingConfig) -> dict[str, Any]:
    """What training gives when nothing follows it."""
    return train_cdi_model(small_scan, None, config)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], int]:
    """No process beside this one: trackers only write, models are looked up here; returns a function that delivers."""
    done = SimpleNamespace(poll=lambda: 0, wait=lambda: 0, returncode=0, stdin=SimpleNamespace(close=lambda: None))
    monkeypatch.setattr("ptycho_ray.tracking.mlflow_tracker.start_delivery", lambda *_: done)
    monkeypatch.setattr(fetch, "_ask", lambda uri, store, folder: fetch.fetch(uri, folder))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return lambda folder: delivery.main([str(run_folders(folder)[-1])])


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def journalled(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [record for record, _ in read_journal(run_folders(folder)[-1]) if record["kind"] == kind]


def state_of(folder: Path) -> Delivered:
    return Delivered.read(run_folders(folder)[-1])


def assert_store_equals_journal(client: Any, folder: Path, status: str) -> Any:
    """Every figure once, in order, with its exact value; every picture; the status. Returns the run."""
    run = client.get_run(state_of(folder).run_id)
    for kind, prefix in (("step", "step/"), ("epoch", "")):
        recorded = journalled(folder, kind)
        assert recorded
        for name in recorded[0]["figures"]:
            history = client.get_metric_history(run.info.run_id, prefix + name)
            assert [(m.step, m.value) for m in history] == [(r["step"], r["figures"][name]) for r in recorded]
    pictures = [Path(file.path).name for file in client.list_artifacts(run.info.run_id, "images")]
    originals = sorted(name for name in pictures if name.endswith(".png"))
    assert [int(name.split("+")[2]) for name in originals] == [r["step"] for r in journalled(folder, "picture")]
    assert run.info.status == status
    assert undelivered(run_folders(folder)[-1]) == 0
    return run


class Pictures(Tracker):
    """What the train command does after each epoch: hands the present image to the trackers."""

    def __init__(self, trackers: list[Tracker], container: Any) -> None:
        self.trackers, self.container = trackers, container

    def on_epoch(self, progress: Any, figures: dict[str, float], model: Any) -> None:
        image = reconstruct(model, self.container, 16)
        for tracker in self.trackers:
            tracker.on_image(progress, image)


class ServerDies(Tracker):
    """Kills the server at the end of the first epoch, as soon as it has something of this run, and holds the next step
    until the delivery has noticed."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, self.folder = server, folder

    def on_step(self, progress: Any, figures: dict[str, float], steps_in_epoch: int) -> None:
        if progress.epoch == 1 and progress.batch == 1:
            wait_for(lambda: state_of(self.folder).error, "failed delivery")

    def on_epoch(self, progress: Any, figures: dict[str, float], model: Any) -> None:
        if progress.epoch == 1:
            wait_for(lambda: state_of(self.folder).offset > 0, "first delivery")
            self.server.kill()


@pytest.mark.slow
def test_a_server_that_dies_costs_a_warning_and_nothing_else(
    server, small_scan, untracked, config, tmp_path, caplog, capsys, monkeypatch
):
    folder = tmp_path / "model"
    origin = {"ptycho_ray": "1", "command": "ptycho-ray train", "data": {"scan.npz": "ab12"}}
    tags = run_tags(origin) | {"mlflow.source.git.commit": "c0ffee"}
    trackers = build_trackers(MLFLOW, folder, {"model": {"N": 32}, "seed": 0}, tags)
    callbacks = [*trackers, Pictures(trackers, untracked["train_container"]), ServerDies(server, folder)]
    results = train_cdi_model(small_scan, None, config, callbacks=callbacks)
    assert_same_weights(weights(untracked["model_instance"]), weights(results["model_instance"]))

    bundle = save_inference_bundle(folder, results, config, origin)
    facts = [tracker.finish("FINISHED", bundle, [folder / "metrics.csv"]) for tracker in trackers][-1]["mlflow"]
    assert facts["records_left"] == undelivered(run_folders(folder)[-1]) > 0
    assert f"send them later: ptycho-ray mlflow-sync {folder}" in caplog.text
    assert caplog.text.count("The run continues") == 1

    server.start()
    assert main(["deliver", str(folder), "--json"]) == 0
    (sent,) = json.loads(capsys.readouterr().out)["runs"]
    assert (sent["run_id"], sent["status"], sent["refused"]) == (facts["run_id"], "FINISHED", 0)
    client = server.client()
    run = assert_store_equals_journal(client, folder, "FINISHED")
    steps = [record["step"] for record in journalled(folder, "step")]
    assert steps == list(range(1, len(steps) + 1))
    assert [r["figures"]["loss"] for r in journalled(folder, "epoch")] == results["history"]["loss"]
    assert (run.data.params["model.N"], run.data.params["seed"]) == ("32", "0")
    assert (run.data.tags["data.scan.npz.sha256"], run.data.tags["mlflow.source.git.commit"]) == ("ab12", "c0ffee")
    assert [file.path for file in client.list_artifacts(run.info.run_id, "results")] == ["results/metrics.csv"]

    # Delivered again from the beginning, as if the note of what had arrived was lost: the store stays as it is.
    (run_folders(folder)[-1] / DELIVERED).unlink()
    assert delivery.main([str(run_folders(folder)[-1])]) == 0
    assert state_of(folder).run_id == run.info.run_id
    assert_store_equals_journal(client, folder, "FINISHED")
    assert len(client.search_runs([run.info.experiment_id])) == 1
    (version,) = client.search_model_versions(f"name = '{EXPERIMENT}'")
    assert (version.version, version.run_id) == ("1", run.info.run_id)

    # The model comes back by both names, bit for bit, and without a trace in the environment or in the working folder.
    before, mine = dict(os.environ), weights(load_bundle(bundle).model)
    monkeypatch.chdir(tmp_path)
    for uri in (f"models:/{EXPERIMENT}/1", Path(f"runs:/{run.info.run_id}/model")):
        loaded, settings = load_inference_bundle(uri)
        assert_same_weights(mine, weights(loaded.model))
        assert settings["N"] == 32
    assert dict(os.environ) == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_cannot_be_loaded_is_named(server, in_process, tmp_path):
    client, nobody = server.client(), "0" * 32
    run_id = client.create_run(client.create_experiment("others")).info.run_id
    client.log_text(run_id, "no bundle", "model/readme.txt")
    client.log_text(run_id, "no bundle either", "model-2/wts.h5.zip")
    with pytest.raises(BundleError, match=rf"runs:/{run_id}/model: .*readme.txt.*one bundle"):
        load_inference_bundle(f"runs:/{run_id}/model")
    with pytest.raises(BundleError, match=rf"runs:/{run_id}: .*complete zip archive"):  # the last model of the run
        load_inference_bundle(f"runs:/{run_id}")
    with pytest.raises(InputError, match=rf"runs:/{nobody}/model: .*{server.uri}"):
        load_inference_bundle(f"runs:/{nobody}/model")
    with pytest.raises(InputError, match=rf"models:/nobody/1: .*{server.uri}"):
        load_inference_bundle("models:/nobody/1")


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_is_one_run(server, tmp_path):
    program = f"""
import os, signal
from pathlib import Path
from types import SimpleNamespace
from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.tracking import build_trackers
trackers = build_trackers(ExecutionConfig(logger_backend="mlflow"), Path({str(tmp_path)!r}), {{"nepochs": 1}}, {{}})
for batch in (1, 2, 3):
    for tracker in trackers:
        tracker.on_step(SimpleNamespace(epoch=0, batch=batch, history={{}}), {{"loss": 1.0 / batch}}, 4)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    # Its records arrive without it, and the store knows that it was killed.
    wait_for(lambda: journalled(tmp_path, "end"), "end of the killed run")
    wait_for(lambda: undelivered(run_folders(tmp_path)[-1]) == 0, "records of the killed run")
    client = server.client()
    run_id = state_of(tmp_path).run_id
    assert client.get_run(run_id).info.status == "KILLED"

    trackers = build_trackers(MLFLOW, tmp_path, {"nepochs": 2, "extra": True}, {}, resume=True)
    for batch in (2, 3, 4):  # from a checkpoint after the first step
        for tracker in trackers:
            tracker.on_step(SimpleNamespace(epoch=0, batch=batch, history={}), {"loss": 1.0 / batch}, 4)
    for tracker in trackers:
        tracker.on_epoch(SimpleNamespace(epoch=1, batch=0, history={"loss": [0.5]}), {}, None)
    wait_for(lambda: client.get_run(run_id).info.status == "RUNNING", "resumed run")
    for tracker in trackers:
        tracker.finish("FINISHED")
    run = assert_store_equals_journal(client, tmp_path, "FINISHED")
    assert run.info.run_id == run_id
    assert len(client.search_runs([run.info.experiment_id], f"tags.mlflow.runName = '{tmp_path.name}'")) == 1
    assert [m.step for m in client.get_metric_history(run_id, "step/loss")] == [1, 2, 3, 4]
    assert run.data.params == {"nepochs": "1", "extra": "True"}
    assert run.data.tags["changed.nepochs"] == "2"


def test_odd_records_do_not_stop_the_others(server, in_process, tmp_path):
    tracker = build_trackers(MLFLOW, tmp_path, {"long": "x" * 9000, "odd (name)": 1}, {"note": "y" * 9000})[-1]
    figures = {"loss/a(b)": 1.0, "nan": float("nan"), "n" * 300: 2.0}
    tracker.on_step(SimpleNamespace(epoch=0, batch=1, history={}), figures, 2)
    many = {f"val_loss/scan {number}": [float(number)] for number in range(1200)}
    tracker.on_epoch(SimpleNamespace(epoch=1, batch=0, history=many), {}, None)
    image = StitchedObject(np.ones((9, 9), np.complex64), np.ones((9, 9), np.float32), (0.0, 0.0))
    tracker.on_image(SimpleNamespace(epoch=1), image)
    (run_folders(tmp_path)[0] / "pictures" / "epoch_0001.png").unlink()
    with (run_folders(tmp_path)[0] / JOURNAL).open("a") as stream:
        stream.write("no JSON\n")
    tracker.finish("FAILED")
    assert in_process(tmp_path) == 0
    run = server.client().get_run(state_of(tmp_path).run_id)
    assert run.info.status == "FAILED"
    assert run.data.metrics["step/loss/a_b_"] == 1.0
    assert np.isnan(run.data.metrics["step/nan"])
    assert sum(name.startswith("val_loss/") for name in run.data.metrics) == 1200
    assert run.data.params["odd _name_"] == "1"
    assert len(run.data.params["long"]) == 6000
    assert ["epoch_0001.png" in text or "cannot be read" in text for text in state_of(tmp_path).refused] == [True] * 2


def test_a_deleted_run_is_not_revived(server, in_process, tmp_path):
    build_trackers(MLFLOW, tmp_path, {}, {})[-1].finish("FINISHED")
    assert in_process(tmp_path) == 0
    client, run_id = server.client(), state_of(tmp_path).run_id
    client.delete_run(run_id)
    build_trackers(MLFLOW, tmp_path, {}, {}, resume=True)[-1].finish("FINISHED")
    assert in_process(tmp_path) == delivery.FAILED
    assert "was deleted" in str(state_of(tmp_path).error)
    assert client.get_run(run_id).info.lifecycle_stage == "deleted"


def test_a_store_that_lost_the_run_gets_all_of_it(server, in_process, tmp_path):
    tracker = build_trackers(MLFLOW, tmp_path, {}, {})[-1]
    tracker.on_step(SimpleNamespace(epoch=0, batch=1, history={}), {"loss": 1.0}, 2)
    tracker.finish("FINISHED")
    journal = run_folders(tmp_path)[-1]
    Delivered(server.uri, "0" * 32, (journal / JOURNAL).stat().st_size).write(journal)
    assert in_process(tmp_path) == 0
    run = server.client().get_run(state_of(tmp_path).run_id)
    assert (run.data.metrics, run.info.status) == ({"step/loss": 1.0}, "FINISHED")


def test_a_store_that_comes_back_gets_the_rest(server, in_process, tmp_path):
    tracker = build_trackers(MLFLOW, tmp_path, {}, {})[-1]
    one = delivery.Delivery(run_folders(tmp_path)[-1], f"http://127.0.0.1:{free_port()}")
    assert not one.attempt()
    assert "refused" in str(state_of(tmp_path).error)
    one.uri = server.uri
    assert one.attempt()
    assert state_of(tmp_path).error is None
    tracker.on_step(SimpleNamespace(epoch=0, batch=1, history={}), {"loss": 1.0}, 2)
    assert one.attempt()
    assert server.client().get_run(state_of(tmp_path).run_id).data.metrics == {"step/loss": 1.0}


def test_two_deliveries_do_not_run_at_once(in_process, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "unused")
    tracker = build_trackers(MLFLOW, tmp_path, {}, {})[-1]
    tracker.finish("FINISHED")
    lock = delivery._lock(run_folders(tmp_path)[-1])
    assert lock is not None
    assert in_process(tmp_path) == delivery.BUSY
    lock.release()
    assert in_process(tmp_path) == delivery.FAILED  # the store "unused" is none


# -- a server that accepts connections and never answers ---------------------------------------------------------------


@contextmanager
def black_hole() -> Iterator[tuple[str, list[socket.socket]]]:
    """A listening socket whose connections are accepted, kept open and never answered."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                except OSError:  # closed
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", held
        listener.shutdown(socket.SHUT_RDWR)
    for connection in held:
        connection.close()


class SomebodyAsked(Tracker):
    """Holds the end of the first epoch until the server has been asked, so that training surely meets its silence."""

    def __init__(self, held: list[socket.socket]) -> None:
        self.held = held

    def on_epoch(self, progress: Any, figures: dict[str, float], model: Any) -> None:
        wait_for(lambda: self.held, "first request")


@pytest.mark.slow
def test_a_server_that_never_answers_does_not_stop_training(
    small_scan, untracked, config, tmp_path, monkeypatch, caplog, capsys
):
    monkeypatch.setattr("ptycho_ray.tracking.mlflow_tracker.SHORT_WAIT_S", 0.5)
    with black_hole() as (uri, held):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")  # the first request outlives the training
        trackers = build_trackers(MLFLOW, tmp_path, {}, {})
        results = train_cdi_model(small_scan, None, config, callbacks=[*trackers, SomebodyAsked(held)])
        assert_same_weights(weights(untracked["model_instance"]), weights(results["model_instance"]))
        assert state_of(tmp_path) == Delivered()  # not one record went anywhere, not one failed: all wait
        for tracker in trackers:
            tracker.finish("KILLED")
        assert "send them later" in caplog.text
        assert [r["figures"]["loss"] for r in journalled(tmp_path, "epoch")] == results["history"]["loss"]

        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        assert main(["mlflow-sync", str(tmp_path)]) == 1
        assert f"{uri}: {undelivered(run_folders(tmp_path)[0])} records" in capsys.readouterr().err
        with pytest.raises(InputError, match=rf"models:/x/1: {uri}: .*timed out"):
            load_inference_bundle("models:/x/1")


# -- loading by URI where there is nothing to load ---------------------------------------------------------------------


def test_an_unreachable_server_is_named(in_process, monkeypatch):
    uri = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match=rf"runs:/abc/model: {uri}: the model could not be fetched.*refused"):
        load_inference_bundle("runs:/abc/model")


def test_no_database_is_no_reason_to_make_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"models:/x/1.*no database.*mlflow\.db.*MLFLOW_TRACKING_URI"):
        load_inference_bundle("models:/x/1")
    assert not list(tmp_path.iterdir())


def test_a_missing_mlflow_is_named(monkeypatch):
    monkeypatch.setattr(stores, "has_mlflow", lambda: False)
    with pytest.raises(InputError, match=r"models:/x/1.*MLflow is not installed.*pip install"):
        load_inference_bundle("models:/x/1")


# -- the database beside the output folder -----------------------------------------------------------------------------


@pytest.mark.slow
def test_without_a_server_the_database_lies_beside_and_its_model_reconstructs(
    small_scan, untracked, config, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = Path("model")
    tracker = build_trackers(MLFLOW, folder, {}, {})[-1]
    tracker.on_step(SimpleNamespace(epoch=0, batch=1, history={}), {"loss": 1.0}, 1)
    facts = tracker.finish("FINISHED", save_inference_bundle(folder, untracked, config, {}))["mlflow"]
    assert facts["model"] == "models:/ptycho-ray/1"
    assert facts["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlartifacts", "mlflow.db", "model"]
    small_scan.to_file("scan.npz")
    for place, image in (("model", "local"), ("models:/ptycho-ray/1", "registered")):
        assert main(["reconstruct", "scan.npz", "--model-path", place, "--output-dir", image]) == 0
    with np.load("local/reconstruction.npz") as local, np.load("registered/reconstruction.npz") as registered:
        assert np.array_equal(local["object"], registered["object"])
    assert "models:/ptycho-ray/1" in Path("registered/result.json").read_text()
    assert main(["mlflow-sync", "elsewhere"]) == 2
    assert "no records" in capsys.readouterr().err


def test_trials_of_a_sweep_are_runs_below_it(server: Server, in_process: Callable[[Path], int], tmp_path: Path) -> None:
    tracker = MlflowTracker(tmp_path, {"trials": 2}, {})
    curve = [[2, 3.0], [4, 2.0]]
    tracker.on_trial(
        "trial-0000",
        TrialRecord(0, {"position_scale": 1.02}, "finished", 4, {"likelihood": 2.0}, curve, None, 1.0, 2.0),
    )
    tracker.on_trial(
        "trial-0001", TrialRecord(1, {"position_scale": 0.5}, "failed", error="diverged", began=2, ended=3)
    )
    tracker.finish("FINISHED")
    assert in_process(tmp_path) == 0
    client, parent = server.client(), state_of(tmp_path).run_id
    experiment = client.get_run(parent).info.experiment_id
    below = client.search_runs(
        [experiment], f"tags.`mlflow.parentRunId` = '{parent}'", order_by=["attributes.run_name"]
    )
    assert [(run.info.run_name, run.info.status) for run in below] == [
        ("trial-0000", "FINISHED"),
        ("trial-0001", "FAILED"),
    ]
    first, second = below
    assert (first.data.params["position_scale"], first.data.metrics["likelihood"]) == ("1.02", 2.0)
    objective = client.get_metric_history(first.info.run_id, "objective")
    assert [[point.step, point.value] for point in objective] == curve
    assert second.data.tags["trial.error"] == "diverged"
