"""The MLflow tracker: writes the journal and supervises the process that sends it."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_ray.files import sha256_of
from ptycho_ray.tracking import stores
from ptycho_ray.tracking.journal import Delivered, JournalWriter, new_run_folder, read_journal, run_folders, undelivered
from ptycho_ray.tracking.trackers import Status, Tracker

if TYPE_CHECKING:
    from ptycho_ray.reconstruction.stitching import StitchedObject
    from ptycho_ray.tracking.sweep_record import TrialRecord

log = logging.getLogger(__name__)

#: Seconds between two looks at how the delivery fares.
LOOK_EVERY_S = 2.0
#: Seconds that a finished run waits for its last records to arrive: while they do, and if they do not (or nobody waits).
WAIT_S, SHORT_WAIT_S = 60.0, 5.0


class MlflowTracker(Tracker):
    """Records parameters, figures, pictures and the trained model, for MLflow.

    Args:
        folder: the output folder of the run; everything is kept in its ``tracking``.
        parameters, tags: facts about the run; a nested mapping in ``parameters`` becomes dotted names.
        resume: continue the run recorded last in ``folder``; what it has recorded already is not recorded again.

    Raises:
        OSError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, parameters: Mapping[str, Any], tags: Mapping[str, str], *, resume: bool = False
    ) -> None:
        self.output = folder
        self.uri = stores.tracking_uri(folder)
        self.steps = self.epochs = self.images = self.models = 0
        earlier = run_folders(folder) if resume else []
        self.trials: set[str] = set()
        key, experiment = uuid.uuid4().hex, stores.experiment_name()
        if earlier:
            self.run_folder = earlier[-1]
            first = self._remember(self.run_folder)
            key, experiment = first.get("key", key), first.get("experiment", experiment)
        else:
            self.run_folder = new_run_folder(folder)
        self.journal = JournalWriter(self.run_folder)
        self.journal.write(
            "begin",
            key=key,
            experiment=experiment,
            name=folder.resolve().name,
            parameters=stores.flat(parameters),
            tags={name: str(value) for name, value in tags.items()},
        )
        state = Delivered.read(self.run_folder)
        if state.error:  # of an earlier process
            state.error = None
            state.write(self.run_folder)
        self.warned, self._next_look = False, 0.0
        self.delivery: subprocess.Popen[bytes] | None = None
        if stores.has_mlflow():
            self.delivery = start_delivery(self.run_folder, self.uri)
        else:
            self._warn("MLflow is not installed")

    def _remember(self, run_folder: Path) -> dict[str, Any]:
        """Read the journal of a resumed run and return its first record."""
        first: dict[str, Any] = {}
        for record, _ in read_journal(run_folder):
            kind = record["kind"]
            if kind == "begin":
                first = first or record
            elif kind == "step":
                self.steps = max(self.steps, record["step"])
            elif kind == "epoch":
                self.epochs = max(self.epochs, record["step"])
            elif kind == "picture":
                self.images = max(self.images, record["step"])
            elif kind == "model":
                self.models += 1
            elif kind == "child":
                self.trials.add(record["name"])
        return first

    def on_step(self, progress: Any, figures: dict[str, float], steps_in_epoch: int) -> None:
        """Record the figures of a step, numbered by the batches since the beginning; unless recorded already."""
        step = progress.epoch * steps_in_epoch + progress.batch
        if step > self.steps:
            self.journal.write("step", step=step, figures={name: float(value) for name, value in figures.items()})
            self.steps = step
        self._look()

    def on_epoch(self, progress: Any, figures: dict[str, float], model: Any) -> None:
        """Record the figures of every epoch that is not in the journal yet."""
        for epoch in range(self.epochs + 1, progress.epoch + 1):
            known = {name: values for name, values in progress.history.items() if len(values) >= epoch}
            self.journal.write(
                "epoch", step=epoch, figures={n: float(values[epoch - 1]) for n, values in known.items()}
            )
            self.epochs = epoch
        self._look()

    def on_image(self, progress: Any, stitched: StitchedObject) -> None:
        """Draw amplitude and phase and record the picture."""
        from ptycho_ray.display.figures import plot_object, save_figure

        if progress.epoch <= self.images:
            return
        path = self.run_folder / "pictures" / f"epoch_{progress.epoch:04}.png"
        save_figure(plot_object(stitched.image, region=stitched.covered(), title=f"epoch {progress.epoch}"), path)
        self._record_file("picture", path, name="reconstruction", step=progress.epoch)
        self.images = progress.epoch

    def on_trial(self, name: str, trial: TrialRecord) -> None:
        """Record a trial as a child run: parameters, figures, and the first objective epoch by epoch."""
        if name in self.trials:
            return
        self.trials.add(name)
        self.journal.write(
            "child",
            name=name,
            parameters=stores.flat(trial.parameters),
            figures={figure: float(value) for figure, value in trial.figures.items()},
            curve=trial.curve,
            status="FAILED" if trial.status == "failed" else "FINISHED",
            tags={"trial.status": trial.status, **({"trial.error": trial.error} if trial.error else {})},
            began=int(trial.began * 1000),
            ended=int(trial.ended * 1000),
        )
        self._look()

    def finish(self, status: Status, bundle: Path | None = None, files: Sequence[Path] = ()) -> dict[str, Any]:
        """Record the results and the end; wait a bounded time for the delivery, then say what is left.

        Files are kept by a hard link (a copy where there are none), so that a later run in the same folder does not
        change what this one has to deliver.
        """
        try:
            for path in files:
                self._record_file("file", self._kept(path, "results"), to="results")
            if bundle is not None:
                self.models += 1
                to = "model" if self.models == 1 else f"model-{self.models}"
                self._record_file("model", self._kept(bundle, to), to=to, sha256=sha256_of(bundle))
            self.journal.write("end", status=status)
        finally:
            self.journal.close()
            self._wait(SHORT_WAIT_S if status == "KILLED" else WAIT_S)
        return self._outcome()

    def _record_file(self, kind: str, path: Path, **content: Any) -> None:
        self.journal.write(kind, path=path.relative_to(self.run_folder).as_posix(), **content)

    def _kept(self, path: Path, to: str) -> Path:
        kept = self.run_folder / to / path.name
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.unlink(missing_ok=True)
        try:
            os.link(path, kept)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, kept)
        return kept

    def _look(self) -> None:
        """Warn once if sending fails; it is retried."""
        if self.warned or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + LOOK_EVERY_S
        if error := self._error():
            self._warn(error)

    def _error(self) -> str | None:
        if self.delivery is None:
            return "MLflow is not installed"
        if self.delivery.poll() not in (None, 0):
            reported = Delivered.read(self.run_folder).error
            return reported or f"the sending process stopped with exit code {self.delivery.returncode}"
        return Delivered.read(self.run_folder).error

    def _warn(self, error: str) -> None:
        where = stores.without_password(self.uri)
        log.warning("%s: %s. The run continues; its records are kept in %s", where, error, self.run_folder)
        self.warned = True

    def _wait(self, longest: float) -> None:
        """Wait for the sending process to end, for a limited time, shorter if it fails anyway."""
        if self.delivery is None:
            return
        assert self.delivery.stdin is not None
        self.delivery.stdin.close()  # tells it that nothing more comes
        start, told = time.monotonic(), False
        try:
            while self.delivery.poll() is None:
                waited = time.monotonic() - start
                if waited > (min(longest, SHORT_WAIT_S) if Delivered.read(self.run_folder).error else longest):
                    break
                if waited > 2 and not told:
                    print(f"sending the last records to MLflow, at most {longest:.0f} s ...", file=sys.stderr)
                    told = True
                time.sleep(0.05)
        finally:
            if self.delivery.poll() is None:
                self.delivery.kill()  # at any moment: what it has not written down is delivered again
            self.delivery.wait()

    def _outcome(self) -> dict[str, Any]:
        state, left = Delivered.read(self.run_folder), undelivered(self.run_folder)
        facts: dict[str, Any] = {
            "tracking_uri": stores.without_password(self.uri),
            "run_id": state.run_id or None,
            "model": state.model,
        }
        if left:
            command = f"ptycho-ray mlflow-sync {shlex.quote(str(self.output))}"
            reason = f" ({self._error()})" if self._error() else ""
            log.warning("%d records are not in MLflow yet%s; send them later: %s", left, reason, command)
            facts |= {"records_left": left, "to_send_them": command}
        for text in state.refused:
            log.warning("MLflow refused a record: %s", text)
        return {"mlflow": facts}


def start_delivery(run_folder: Path, uri: str, *, follow: bool = True) -> subprocess.Popen[bytes]:
    """Start the process that sends a journal; with ``follow`` until its standard input is closed, else once.

    It is a separate process because MLflow takes its timeouts from the environment only, and because importing it and
    setting up a database would compete with training for the interpreter. It has its own session, so that Ctrl-C
    interrupts the training and not the delivery of its last records.
    """
    words = [sys.executable, "-m", "ptycho_ray.tracking.delivery", str(run_folder), *(["--follow"] if follow else [])]
    with (run_folder / "delivery.log").open("ab") as output:
        return subprocess.Popen(
            words,
            env=stores.environment(uri),
            stdin=subprocess.PIPE if follow else subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
