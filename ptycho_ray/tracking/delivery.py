"""The process that sends a journal to MLflow: ``python -m ptycho_ray.tracking.delivery FOLDER [--follow]``.

Records are sent in order. Since an answer can get lost, each may be sent twice without harm: a metric carries the
time of its record (the store knows it by name, step, time and value), the run carries the key of its journal, a model
version the place of its file. The store therefore ends up complete and without repetitions, whatever was killed in between.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_ray.files import take_lock
from ptycho_ray.tracking import stores
from ptycho_ray.tracking.journal import JOURNAL, Delivered, JournalWriter, Record, read_journal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

#: Seconds between two looks at the journal, and longest pause after a failure.
POLL_S, LONGEST_PAUSE_S = 1.0, 30.0
#: What MLflow takes in one request.
MOST_METRICS = 1000
#: Answers that will be the same whenever one asks.
REFUSALS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
#: The tag by which a run is found again if the answer to its creation got lost.
KEY_TAG = "ptycho_ray.journal"
FAILED, BUSY = 1, 3


class Delivery:
    """Sends one journal to one store, starting at the offset in ``delivered.json``."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri = folder, uri
        self.state = Delivered.read(folder)
        self.client: MlflowClient | None = None
        self.artifacts = ""

    def attempt(self) -> bool:
        """Send all records; False, with ``state.error`` set, if that failed."""
        try:
            self._hand_on()
        except Exception as error:  # whatever a remote service and its storage can raise; see decision 0006
            self.client = None
            self.state.error = stores.short_error(error)
        else:
            if self.state.error is None:
                return True
            self.state.error = None
        self.state.write(self.folder)
        return self.state.error is None

    def _hand_on(self) -> None:
        client = self.client or self._connect()
        if client is None:
            return
        metrics: list[Metric] = []
        end = self.state.offset
        for record, behind in read_journal(self.folder, self.state.offset):
            if record["kind"] in ("step", "epoch"):
                metrics += _metrics(record)
                end = behind
                if len(metrics) >= MOST_METRICS:
                    self._hand_on_metrics(client, metrics, end)
                    metrics = []
                continue
            if metrics:
                self._hand_on_metrics(client, metrics, end)
                metrics = []
            self._hand_on_record(client, record)
            self._note(behind)
        if metrics:
            self._hand_on_metrics(client, metrics, end)

    def _note(self, offset: int) -> None:
        self.state.offset = offset
        self.state.write(self.folder)

    # -- the run -------------------------------------------------------------------------------------------------------

    def _connect(self) -> MlflowClient | None:
        """Find or make the run of this journal; None as long as the journal is empty."""
        from mlflow import MlflowClient

        first = next((record for record, _ in read_journal(self.folder) if record["kind"] == "begin"), None)
        if first is None:
            return None
        client = MlflowClient(tracking_uri=self.uri)
        known = self.state.run_id if self.state.tracking_uri == stores.without_password(self.uri) else ""
        run = _run_if_there(client, known) if known else None
        if run is None:
            experiment = self._experiment(client, first["experiment"])
            found = client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{first['key']}'")
            run = (
                found[0]
                if found
                else client.create_run(
                    experiment, start_time=first["time"], run_name=first["name"], tags={KEY_TAG: first["key"]}
                )
            )
            self.state = Delivered(stores.without_password(self.uri), run.info.run_id)
            self.state.write(self.folder)
        if run.info.lifecycle_stage != "active":
            raise RuntimeError(f"run {run.info.run_id} was deleted from the store")
        self.client, self.artifacts = client, run.info.artifact_uri
        return client

    def _experiment(self, client: MlflowClient, name: str) -> str:
        from mlflow.exceptions import MlflowException

        if found := client.get_experiment_by_name(name):
            return str(found.experiment_id)
        database = stores.database_file(self.uri)
        place = None
        if database is not None:  # else the files would go to the working folder of whoever comes first
            place = (database.parent / "mlartifacts" / stores.model_name(name)).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=place))
        except MlflowException as error:
            if error.error_code == "RESOURCE_ALREADY_EXISTS" and (found := client.get_experiment_by_name(name)):
                return str(found.experiment_id)  # another run was faster
            raise

    # -- records -------------------------------------------------------------------------------------------------------

    def _hand_on_metrics(self, client: MlflowClient, metrics: list[Metric], end: int) -> None:
        for start in range(0, len(metrics), MOST_METRICS):
            batch = metrics[start : start + MOST_METRICS]
            with self._noting_refusal(f"figures of steps {batch[0].step} to {batch[-1].step}"):
                client.log_batch(self.state.run_id, metrics=batch)
        self._note(end)

    def _hand_on_record(self, client: MlflowClient, record: Record) -> None:
        kind = record["kind"]
        actions = {
            "begin": self._begin,
            "picture": self._picture,
            "file": self._file,
            "model": self._model,
            "child": self._child,
            "end": self._end,
        }
        if kind not in actions:
            self.state.refused.append(f"a line of {JOURNAL} that cannot be read")
        elif "path" in record and not (self.folder / record["path"]).is_file():
            self.state.refused.append(f"{record['path']}: no longer there")
        else:
            patience = _patience(stores.FILE_TIMEOUT_S) if "path" in record else contextlib.nullcontext()
            with patience, self._noting_refusal(str(record.get("path", kind))):
                actions[kind](client, record)

    @contextlib.contextmanager
    def _noting_refusal(self, what: str) -> Iterator[None]:
        """Record a refusal that no later attempt would change, and continue."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            self.state.refused.append(f"{what}: {stores.short_error(error)}")

    def _begin(self, client: MlflowClient, record: Record) -> None:
        """Parameters and tags. A parameter cannot change in MLflow: a resumed run records changes in tags."""
        from mlflow.entities import Param, RunTag

        run = client.get_run(self.state.run_id)
        wanted = {stores.entity_name(name): text for name, text in record["parameters"].items()}
        there = run.data.params
        tags = {stores.entity_name(name): text for name, text in record["tags"].items()}
        tags |= {
            stores.entity_name(f"changed.{name}"): text
            for name, text in wanted.items()
            if name in there and not text.startswith(there[name])  # long values are kept in part
        }
        client.log_batch(
            self.state.run_id,
            params=[Param(name, text) for name, text in wanted.items() if name not in there],
            tags=[RunTag(name, text) for name, text in tags.items()],
        )
        if run.info.status != "RUNNING":
            client.update_run(self.state.run_id, status="RUNNING")

    def _picture(self, client: MlflowClient, record: Record) -> None:
        from PIL import Image

        start = f"images/{record['name']}+step+{record['step']}+"
        there = [file.path for file in client.list_artifacts(self.state.run_id, "images")]
        if any(path.replace("%", "+").startswith(start) and "compressed" in path for path in there):
            return  # MLflow gives a picture a new name each time
        with Image.open(self.folder / record["path"]) as picture:
            client.log_image(
                self.state.run_id, picture, key=record["name"], step=record["step"], timestamp=record["time"]
            )

    def _file(self, client: MlflowClient, record: Record) -> None:
        client.log_artifact(self.state.run_id, str(self.folder / record["path"]), artifact_path=record["to"])

    def _model(self, client: MlflowClient, record: Record) -> None:
        """The bundle as a file of the run and as a version of the registered model."""
        from mlflow.exceptions import MlflowException

        self._file(client, record)
        name = stores.model_name(client.get_experiment(client.get_run(self.state.run_id).info.experiment_id).name)
        source = f"{self.artifacts}/{record['to']}"
        versions = client.search_model_versions(f"run_id = '{self.state.run_id}'")
        version = next((v for v in versions if (v.name, v.source) == (name, source)), None)
        if version is None:
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            version = client.create_model_version(
                name, source, self.state.run_id, tags={"sha256": record["sha256"]}, await_creation_for=0
            )
        self.state.model = f"models:/{name}/{version.version}"

    def _child(self, client: MlflowClient, record: Record) -> None:
        """A trial of a sweep: a finished run below this one, found again by its key if the answer got lost."""
        from mlflow.entities import Metric, Param, RunTag

        parent = client.get_run(self.state.run_id)
        experiment, key = (
            parent.info.experiment_id,
            f"{parent.data.tags.get(KEY_TAG, self.state.run_id)}/{record['name']}",
        )
        found = client.search_runs([experiment], f"tags.`{KEY_TAG}` = '{key}'")
        tags = {KEY_TAG: key, "mlflow.parentRunId": self.state.run_id}
        run = found[0] if found else client.create_run(
            experiment, start_time=record["began"], run_name=record["name"], tags=tags
        )  # fmt: skip
        run_id, there = run.info.run_id, run.data.params
        objective = [Metric("objective", float(value), record["ended"], int(epoch)) for epoch, value in record["curve"]]
        last = [Metric(stores.entity_name(n), float(v), record["ended"], 0) for n, v in record["figures"].items()]
        parameters = {stores.entity_name(name): text for name, text in record["parameters"].items()}
        client.log_batch(
            run_id,
            metrics=[*objective, *last][:MOST_METRICS],
            params=[Param(name, text) for name, text in parameters.items() if name not in there],
            tags=[RunTag(stores.entity_name(name), text) for name, text in record["tags"].items()],
        )
        client.set_terminated(run_id, status=record["status"], end_time=record["ended"])

    def _end(self, client: MlflowClient, record: Record) -> None:
        client.set_terminated(self.state.run_id, status=record["status"], end_time=record["time"])


def _metrics(record: Record) -> list[Metric]:
    """A step's figures are called ``step/loss``, an epoch's ``loss``."""
    from mlflow.entities import Metric

    prefix = "step/" if record["kind"] == "step" else ""
    return [
        Metric(stores.entity_name(prefix + name), float(value), record["time"], record["step"])
        for name, value in record["figures"].items()
    ]


def _run_if_there(client: MlflowClient, run_id: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


@contextlib.contextmanager
def _patience(seconds: str) -> Iterator[None]:
    """Another timeout for the requests inside, unless the user has set one. The environment is this process's own."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name)
    if before == stores.REQUEST_TIMEOUT_S:
        os.environ[name] = seconds
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before


def _close_for_lost_run(folder: Path) -> None:
    """Write the end that a run could not write itself because it was killed."""
    kinds = [record["kind"] for record, _ in read_journal(folder) if record["kind"] in ("begin", "end")]
    if kinds and kinds[-1] == "begin":
        journal = JournalWriter(folder)
        journal.write("end", status="KILLED")
        journal.close()


def _lock(folder: Path) -> object | None:
    """A lock that lasts as long as this process or what is returned; None if another process has it."""
    try:
        return take_lock(folder / "delivery.lock")
    except OSError:  # a disk without locks; two deliveries only do the same work twice
        return object()


def deliver(folder: Path, uri: str, over: threading.Event, *, persistent: bool) -> int:
    """Send the records of the journal and new ones, until ``over``. With ``persistent``, a first failure at the end
    is retried once. Returns an exit code: 0 all arrived, FAILED, or BUSY if another process is at it.
    """
    lock, delivery, failed, pause = None, None, False, POLL_S
    while True:
        last = over.is_set()
        lock = lock or _lock(folder)
        if lock and not delivery:
            delivery = Delivery(folder, uri)
        failed_before, failed = failed, not (delivery and delivery.attempt())
        if last and not failed:
            return 0
        if last and (failed_before or not persistent):
            return FAILED if delivery else BUSY
        pause = min(pause * 2, LONGEST_PAUSE_S) if failed else POLL_S
        if last:
            time.sleep(POLL_S)
        else:
            over.wait(pause)


def main(words: list[str]) -> int:
    folder, follow = Path(words[0]), "--follow" in words
    over = threading.Event()
    if follow:
        if hasattr(os, "nice"):
            os.nice(5)  # training comes first
        threading.Thread(target=_listen, args=(folder, over), daemon=True).start()
    else:
        over.set()
    return deliver(folder, os.environ["MLFLOW_TRACKING_URI"], over, persistent=follow)


def _listen(folder: Path, over: threading.Event) -> None:
    """Wait until the tracker closes our standard input, or its process is gone."""
    try:
        sys.stdin.buffer.read()
        _close_for_lost_run(folder)
    finally:
        over.set()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
