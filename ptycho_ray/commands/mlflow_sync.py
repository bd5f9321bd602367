"""``ptycho-ray mlflow-sync`` (formerly ``deliver``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.commands.common import FOLDER, Common, Result
from ptycho_ray.config.command_line import parse
from ptycho_ray.errors import InputError, MissingFileError


@dataclass(kw_only=True)
class Options(Common):
    """Send the records of a run to MLflow that have not been sent yet.

    The records go to the server or database that MLFLOW_TRACKING_URI names, else to the one that the run used. Records
    that have arrived are not sent again.

    Example: ptycho-ray mlflow-sync model
    """

    folder: Annotated[Path, tyro.conf.Positional, FOLDER]
    """The output folder of the run."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray mlflow-sync").options
    from ptycho_ray.tracking import delivery, stores
    from ptycho_ray.tracking.fetch import INSTALL
    from ptycho_ray.tracking.journal import Delivered, read_journal, run_folders, undelivered
    from ptycho_ray.tracking.mlflow_tracker import start_delivery

    folders = run_folders(options.folder)
    if not folders:
        raise MissingFileError(
            file=options.folder / "tracking",
            found="no records",
            expected="those of a run with --execution.logger-backend mlflow",
        )
    if not stores.has_mlflow():
        raise InputError("MLflow is not installed", hint=INSTALL)
    runs, problems = [], []
    for folder in folders:
        ends = [record for record, _ in read_journal(folder) if record["kind"] in ("begin", "end")]
        if not ends:
            continue  # killed before its first record
        before = Delivered.read(folder)
        uri = stores.tracking_uri(options.folder)
        if not os.environ.get("MLFLOW_TRACKING_URI") and before.tracking_uri:
            uri = before.tracking_uri
        process = start_delivery(folder, uri, follow=False)
        try:
            code = process.wait()
        finally:
            process.kill()  # after Ctrl-C
        state, left = Delivered.read(folder), undelivered(folder)
        shown = stores.without_password(uri)
        if code:
            reason = "another process is sending them" if code == delivery.BUSY else state.error or f"see {folder}"
            problems.append(f"{shown}: {left} records of {folder} were not sent: {reason}")
            continue
        runs.append(
            {
                "run_id": state.run_id,
                "tracking_uri": shown,
                "model": state.model,
                "status": ends[-1].get("status", "still going on, or cut off"),
                "refused": len(state.refused),
            }
        )
    if problems:
        raise ConnectionError("; ".join(problems))
    return {"records": options.folder / "tracking", "runs": runs}
