"""Recording without MLflow at work: the table, the journal, the guard, names, places and tags."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ptycho_ray.config import ExecutionConfig
from ptycho_ray.errors import ConfigurationError, TrainingInterrupted
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.tracking import CsvTracker, Quiet, Tracker, build_trackers, recorded, run_tags, stores
from ptycho_ray.tracking.journal import (
    JOURNAL,
    Delivered,
    JournalWriter,
    new_run_folder,
    read_journal,
    run_folders,
    undelivered,
)
from ptycho_ray.tracking.mlflow_tracker import MlflowTracker
from ptycho_ray.tracking.sweep_record import TrialRecord
from ptycho_ray.workflow import train_cdi_model

MLFLOW = ExecutionConfig(logger_backend="mlflow")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "has_mlflow", lambda: False)


def progress(epoch: int, batch: int = 0, **history: list[float]) -> Any:
    return SimpleNamespace(epoch=epoch, batch=batch, history=history)


def stitched() -> StitchedObject:
    image = np.exp(1j * np.linspace(0, 1, 400)).reshape(20, 20).astype(np.complex64)
    return StitchedObject(image, np.ones((20, 20), np.float32), (0.0, 0.0))


def records(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    return [record for record, _ in read_journal(folder) if not kinds or record["kind"] in kinds]


def weights(results: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in results["model_instance"].state_dict().items()}


def assert_same_weights(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


# -- which trackers there are ------------------------------------------------------------------------------------------


def test_the_table_has_every_epoch_once(small_scan, tiny_config, tmp_path):
    history = train_cdi_model(
        small_scan, None, tiny_config, callbacks=build_trackers(ExecutionConfig(), tmp_path, {}, {})
    )["history"]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,loss,")
    assert [float(line.split(",")[1]) for line in lines[1:]] == history["loss"]
    assert not (tmp_path / "tracking").exists()


def test_none_is_none(tmp_path):
    assert build_trackers(ExecutionConfig(logger_backend="none"), tmp_path, {}, {}) == []


def test_a_tracker_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"logger_backend.*tensorboard.*csv.*mlflow"):
        build_trackers(ExecutionConfig(logger_backend="tensorboard"), tmp_path, {}, {})


def test_the_training_process_never_imports_mlflow(tmp_path):
    program = f"""
import sys
from pathlib import Path
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.tracking import build_trackers
import ptycho_ray.workflow
import ptycho_ray.tracking.mlflow_tracker
ptycho_ray.tracking.mlflow_tracker.SHORT_WAIT_S = 0.0
for tracker in build_trackers(ExecutionConfig(logger_backend="mlflow"), Path({str(tmp_path)!r}), {{}}, {{}}):
    tracker.finish("KILLED")
print([name for name in ("mlflow", "sqlalchemy", "requests") if name in sys.modules])
"""
    environment = {**stores.environment("http://127.0.0.1:9"), "OMP_NUM_THREADS": "1"}
    environment["PYDANTIC_DISABLE_PLUGINS"] = (
        "__all__"  # other packages hang theirs into pydantic, with what they import
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- a tracker cannot hurt a run ---------------------------------------------------------------------------------------


class Broken(Tracker):
    def on_step(self, progress: Any, figures: dict[str, float], steps_in_epoch: int) -> None:
        raise KeyError("step")

    def on_epoch(self, progress: Any, figures: dict[str, float], model: Any) -> None:
        raise OSError("epoch")

    def on_image(self, progress: Any, stitched: StitchedObject) -> None:
        raise ZeroDivisionError

    def finish(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        raise RuntimeError("end")


def test_a_tracker_that_raises_everywhere_changes_no_weight(small_scan, tiny_config, caplog):
    broken = Quiet(Broken())
    plain = weights(train_cdi_model(small_scan, None, tiny_config))
    tracked = weights(train_cdi_model(small_scan, None, tiny_config, callbacks=[broken]))
    broken.on_image(progress(1), stitched())
    assert broken.finish("FINISHED") == {}
    assert_same_weights(plain, tracked)
    assert [record.message for record in caplog.records if "Broken" in record.message] == [
        "Broken cannot record (KeyError: 'step'); the run continues"
    ]


class Ends(Tracker):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def finish(self, status: Any, bundle: Path | None = None, files: Any = ()) -> dict[str, Any]:
        self.seen.append((status, bundle, list(files)))
        return {"run_id": "7"}


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ArithmeticError, "FAILED"), (TrainingInterrupted, "KILLED")]
)
def test_the_record_ends_as_the_run_does(error, status):
    tracker = Ends()
    with contextlib.suppress(ArithmeticError, KeyboardInterrupt), recorded([tracker, Tracker()]) as made:
        made.bundle, made.files = Path("wts.h5.zip"), [Path("report.html")]
        if error is not None:
            raise error(None)
    assert tracker.seen == [(status, Path("wts.h5.zip"), [Path("report.html")])]
    assert made.facts == {"run_id": "7"}


def test_ctrl_c_inside_a_tracker_gets_through(monkeypatch):
    tracker = Tracker()
    monkeypatch.setattr(tracker, "on_step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        Quiet(tracker).on_step(progress(0, 1), {}, 1)


def test_without_mlflow_everything_is_kept_and_one_warning_says_so(no_mlflow, tmp_path, caplog):
    trackers = build_trackers(MLFLOW, tmp_path, {"model": {"N": 64}, "seed": 0}, {"data": "x"})
    for tracker in trackers:
        tracker.on_step(progress(0, 1), {"loss": 2.0}, 4)
        tracker.on_epoch(progress(1, loss=[1.5], val_loss=[1.75]), {}, None)
        tracker.on_image(progress(1), stitched())
    assert [record.message for record in caplog.records] == [
        f"sqlite:///{tmp_path.parent}/mlflow.db: MLflow is not installed. "
        f"The run continues; its records are kept in {run_folders(tmp_path)[0]}"
    ]
    caplog.clear()
    facts = trackers[1].finish("FINISHED")["mlflow"]
    assert facts["records_left"] == 5
    assert f"ptycho-ray mlflow-sync {tmp_path}" in caplog.text
    begin, step, epoch, picture, end = records(run_folders(tmp_path)[0])
    assert (begin["parameters"], begin["tags"]) == ({"model.N": "64", "seed": "0"}, {"data": "x"})
    assert (step["step"], step["figures"]) == (1, {"loss": 2.0})
    assert (epoch["step"], epoch["figures"]) == (1, {"loss": 1.5, "val_loss": 1.75})
    assert (run_folders(tmp_path)[0] / picture["path"]).read_bytes().startswith(b"\x89PNG")
    assert end["status"] == "FINISHED"
    assert (tmp_path / "metrics.csv").read_text().splitlines() == ["epoch,loss,val_loss", "1,1.5,1.75"]


def test_a_folder_that_cannot_be_written_costs_a_warning(no_mlflow, tmp_path, caplog):
    (tmp_path / "tracking").write_text("in the way")
    assert len(build_trackers(MLFLOW, tmp_path, {}, {})) == 1
    assert "the run continues" in caplog.text


# -- the journal -------------------------------------------------------------------------------------------------------


def test_a_line_that_was_cut_off_is_not_read_and_then_replaced(tmp_path):
    journal = JournalWriter(tmp_path)
    journal.write("step", step=1, figures={"loss": 0.1})
    journal.close()
    with (tmp_path / JOURNAL).open("ab") as stream:
        stream.write(b'{"kind": "step", "st')
    assert [record["step"] for record in records(tmp_path)] == [1]
    journal = JournalWriter(tmp_path)
    journal.write("step", step=2, figures={"loss": 0.2})
    journal.close()
    assert [record["step"] for record in records(tmp_path)] == [1, 2]


def test_a_failed_write_leaves_whole_lines(tmp_path, monkeypatch):
    journal = JournalWriter(tmp_path)
    journal.write("step", step=1, figures={})
    real = journal._file

    class FullDisk:
        def write(self, line: bytes) -> int:
            return real.write(line[:10])

        def truncate(self, size: int) -> None:
            real.truncate(size)

    monkeypatch.setattr(journal, "_file", FullDisk())
    with pytest.raises(OSError, match="only 10 of"):
        journal.write("step", step=2, figures={})
    monkeypatch.setattr(journal, "_file", real)
    journal.write("step", step=3, figures={})
    assert [record["step"] for record in records(tmp_path)] == [1, 3]


def test_numbers_come_back_exactly(tmp_path):
    figures = {"a": 0.1 + 0.2, "b": 1e-300, "nan": float("nan"), "inf": float("-inf")}
    journal = JournalWriter(tmp_path)
    journal.write("step", step=1, figures=figures)
    assert repr(records(tmp_path)[0]["figures"]) == repr(figures)


def test_undelivered_counts_what_lies_behind_the_offset(tmp_path):
    journal = JournalWriter(tmp_path)
    journal.write("step", step=1, figures={})
    first = (tmp_path / JOURNAL).stat().st_size
    journal.write("step", step=2, figures={})
    assert undelivered(tmp_path) == 2
    Delivered("uri", "run", first).write(tmp_path)
    assert undelivered(tmp_path) == 1
    (tmp_path / "delivered.json").write_text("{")
    assert undelivered(tmp_path) == 2


def test_run_folders_of_one_second_are_in_order(tmp_path):
    folders = [new_run_folder(tmp_path) for _ in range(3)]
    for folder in folders:
        JournalWriter(folder).close()
    assert run_folders(tmp_path) == folders


def test_a_resumed_run_records_only_what_is_new(no_mlflow, tmp_path):
    first = MlflowTracker(tmp_path, {"nepochs": 1}, {})
    for batch in (1, 2, 3):
        first.on_step(progress(0, batch), {"loss": float(batch)}, 4)
    first.journal.close()  # killed in its third step; the checkpoint is older
    second = MlflowTracker(tmp_path, {"nepochs": 2}, {}, resume=True)
    for batch in (2, 3, 4):
        second.on_step(progress(0, batch), {"loss": float(batch)}, 4)
    second.on_epoch(progress(1, loss=[2.5]), {}, None)
    second.on_image(progress(1), stitched())
    second.on_image(progress(1), stitched())
    second.on_epoch(progress(2, loss=[2.5, 1.5]), {}, None)
    (folder,) = run_folders(tmp_path)
    assert [record["step"] for record in records(folder, "step")] == [1, 2, 3, 4]
    assert [record["step"] for record in records(folder, "epoch")] == [1, 2]
    assert len(records(folder, "picture")) == 1
    begins = records(folder, "begin")
    assert len(begins) == 2
    assert begins[0]["key"] == begins[1]["key"]


def test_epochs_from_before_tracking_are_recorded_too(no_mlflow, tmp_path):
    tracker = MlflowTracker(tmp_path, {}, {}, resume=True)
    tracker.on_epoch(progress(3, loss=[3.0, 2.0, 1.0]), {}, None)
    assert [(r["step"], r["figures"]["loss"]) for r in records(tracker.run_folder, "epoch")] == [(1, 3), (2, 2), (3, 1)]


def test_a_new_run_in_the_same_folder_is_another_run(no_mlflow, tmp_path):
    one, other = (MlflowTracker(tmp_path, {}, {}) for _ in range(2))
    assert one.run_folder != other.run_folder
    assert records(one.run_folder)[0]["key"] != records(other.run_folder)[0]["key"]


def test_trials_of_a_sweep_are_recorded_once(no_mlflow, tmp_path):
    good = TrialRecord(
        0, {"position_scale": 1.02}, "finished", 4, {"likelihood": 2.0}, [[2, 3.0], [4, 2.0]], None, 1.0, 2.0
    )
    bad = TrialRecord(1, {"position_scale": 0.5}, "failed", error="diverged", began=2.0, ended=3.0)
    tracker = MlflowTracker(tmp_path, {}, {})
    for trial in (good, bad, good):
        tracker.on_trial(f"trial-{trial.number:04}", trial)
    tracker.finish("FINISHED")
    MlflowTracker(tmp_path, {}, {}, resume=True).on_trial("trial-0000", good)
    children = records(run_folders(tmp_path)[0], "child")
    assert [child["name"] for child in children] == ["trial-0000", "trial-0001"]
    assert children[0]["curve"] == [[2, 3.0], [4, 2.0]]
    assert (children[1]["status"], children[1]["tags"]["trial.error"]) == ("FAILED", "diverged")


def test_the_kept_model_is_that_of_its_run(no_mlflow, tmp_path):
    bundle = tmp_path / "wts.h5.zip"
    tracker = MlflowTracker(tmp_path, {}, {})
    for number, content in enumerate((b"first", b"second"), start=1):
        (tmp_path / "new").write_bytes(content)
        (tmp_path / "new").replace(bundle)  # as every file of a run is written
        tracker.finish("FINISHED", bundle, [])
        to = "model" if number == 1 else "model-2"
        record = records(tracker.run_folder, "model")[-1]
        assert (record["to"], record["sha256"]) == (to, hashlib.sha256(content).hexdigest())
        tracker = MlflowTracker(tmp_path, {}, {}, resume=True)
    kept = [(tracker.run_folder / record["path"]).read_bytes() for record in records(tracker.run_folder, "model")]
    assert kept == [b"first", b"second"]


# -- names, places, tags -----------------------------------------------------------------------------------------------


def test_the_default_database_lies_beside_the_output_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert stores.tracking_uri(Path("model")) == f"sqlite:///{tmp_path}/mlflow.db" == stores.reading_uri()
    assert stores.tracking_uri(Path("runs/a")) == stores.tracking_uri(Path("runs/b"))
    assert stores.tracking_uri(Path("/mounted")) == "sqlite:////mounted/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///here.db")
    assert stores.tracking_uri(Path("model")) == f"sqlite:///{tmp_path}/here.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host:5000/path")
    assert stores.tracking_uri(Path("model")) == "https://me:secret@host:5000/path"
    assert stores.without_password(stores.reading_uri()) == "https://host:5000/path"


def test_no_password_is_written_down(no_mlflow, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host:5000")
    facts = MlflowTracker(tmp_path, {}, {}).finish("FINISHED")
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert "secret" not in written + json.dumps(facts) + caplog.text


def test_timeouts_can_be_set_by_the_user(monkeypatch):
    assert stores.environment("x")["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "7")
    given = stores.environment("x")
    assert (given["MLFLOW_HTTP_REQUEST_MAX_RETRIES"], given["MLFLOW_TRACKING_URI"]) == ("7", "x")
    assert given["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("val_loss/scan 1.h5", "val_loss/scan 1.h5"),
        ("loss/a(b)%", "loss/a_b__"),
        ("/loss//x/../y", "_/loss/_/x/_/y"),
        ("x" * 300, "x" * 250),
    ],
)
def test_names_that_mlflow_takes(name, expected):
    assert stores.entity_name(name) == expected


def test_the_model_has_the_name_of_the_experiment(monkeypatch):
    assert stores.model_name(stores.experiment_name()) == "ptycho-ray"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "beamline/7: 'ID'")
    assert stores.model_name(stores.experiment_name()) == "beamline-7- -ID-"


@pytest.mark.parametrize(
    ("place", "uri"),
    [
        ("runs:/abc/model", "runs:/abc/model"),
        (Path("runs:/abc/model"), "runs:/abc/model"),
        (Path("models://name/1"), "models:/name/1"),
        ("models:/name@best", "models:/name@best"),
    ],
)
def test_uris_survive_being_a_path(place, uri):
    assert stores.is_mlflow_uri(place)
    assert stores.as_mlflow_uri(place) == uri


@pytest.mark.parametrize("place", ["model", Path("runs/1"), Path("models"), "wts.h5.zip", Path("/runs:/x")])
def test_files_are_no_uris(place):
    assert not stores.is_mlflow_uri(place)


def test_tags_say_where_a_run_came_from(tmp_path):
    origin = {"ptycho_ray": "1.0", "command": "ptycho-ray train", "data": {"a/scan.h5": "11", "b/scan.h5": "22"}}
    tags = run_tags(origin)
    assert (tags["ptycho_ray.version"], tags["mlflow.source.name"]) == ("1.0", "ptycho-ray train")
    assert (tags["data.scan.h5.sha256"], tags["data.scan.h5.2.sha256"]) == ("11", "22")


def test_the_commit_is_that_of_the_program(tmp_path, monkeypatch):
    def git(*words: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
        done = subprocess.run(["git", "-C", str(tmp_path), *identity, *words], capture_output=True, text=True)
        return done.stdout.strip()

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(stores, "__file__", str(package / "tracking" / "stores.py"))
    assert stores.git_tags() == {}  # no repository
    git("init", "--quiet")
    (tmp_path / "other").write_text("")
    git("add", "other")
    git("commit", "--quiet", "-m", "a repository in which the program is merely installed")
    assert stores.git_tags() == {}
    git("add", ".")
    git("commit", "--quiet", "-m", "its own repository")
    assert stores.git_tags() == {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "git.changed_files": "no"}
    (package / "__init__.py").write_text("changed")
    assert stores.git_tags()["git.changed_files"] == "yes"


def test_a_slow_look_at_the_delivery_reports_its_first_error_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("ptycho_ray.tracking.mlflow_tracker.LOOK_EVERY_S", 0.0)
    quiet = SimpleNamespace(poll=lambda: None, returncode=None)
    monkeypatch.setattr("ptycho_ray.tracking.mlflow_tracker.start_delivery", lambda *_: quiet)
    tracker = MlflowTracker(tmp_path, {}, {})
    with caplog.at_level(logging.WARNING):
        for batch in range(1, 4):
            tracker.on_step(progress(0, batch), {"loss": 1.0}, 9)
            Delivered(error="no route to host").write(tracker.run_folder)
    assert caplog.text.count("no route to host") == 1


def test_csv_tracker_is_a_callback_of_the_loop(tmp_path):
    tracker = CsvTracker(tmp_path / "table.csv")
    tracker.on_step(progress(0, 1), {"loss": 1.0}, 2)
    tracker.on_image(progress(1), stitched())
    assert tracker.finish("FAILED") == {}
    assert not tracker.path.exists()
