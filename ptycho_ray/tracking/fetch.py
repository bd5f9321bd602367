"""Models by URI: ``runs:/RUN_ID/model`` and ``models:/NAME/VERSION`` become a local file for as long as it is read.

MLflow runs in a separate process (``python -m ptycho_ray.tracking.fetch URI FOLDER``), for the reasons of decision
0006: short timeouts without touching the environment of the caller.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptycho_ray.errors import BundleError, InputError
from ptycho_ray.tracking import stores

INSTALL = "Install it: pip install 'ptycho-ray[cluster]'"


@contextmanager
def fetched_bundle(place: str | Path) -> Iterator[Path]:
    """Yield the model file that a ``runs:/`` or ``models:/`` URI refers to, in a folder that is removed afterwards.
    ``runs:/RUN_ID`` alone refers to the last model of that run. The store is ``MLFLOW_TRACKING_URI``, or
    ``mlflow.db`` in the working folder.

    Raises:
        InputError: MLflow is not installed, the store does not answer, or it has no such run or model.
        BundleError: the file is not a bundle. Errors of the reader inside the block name the URI.
    """
    uri, store = stores.as_mlflow_uri(place), stores.reading_uri()
    shown = stores.without_password(store)
    if not stores.has_mlflow():
        raise InputError(
            file=uri, field="model", found="MLflow is not installed", expected="MLflow, to look it up", hint=INSTALL
        )
    database = stores.database_file(store)
    if database is not None and not database.is_file():
        raise InputError(
            file=uri,
            field="model",
            found=f"no database {database}",
            expected="an MLflow store",
            hint="Set MLFLOW_TRACKING_URI to a server (http://...) or to a database (sqlite:////FOLDER/mlflow.db)",
        )
    with tempfile.TemporaryDirectory(prefix="ptycho-ray-") as folder:
        answer = _ask(uri, store, folder)
        if problem := answer.get("not_found"):
            raise InputError(file=uri, field="model", found=problem, expected=f"a run or model in {shown}")
        if problem := answer.get("error"):
            raise InputError("the model could not be fetched", file=uri, field=shown, found=problem)
        if "path" not in answer:
            raise BundleError(
                file=uri, field="model", found=f"files {answer['files']}", expected="one bundle (a file *.zip)"
            )
        try:
            yield Path(answer["path"])
        except BundleError as error:
            raise BundleError(
                file=uri, field=error.field, found=error.found, expected=error.expected, hint=error.hint
            ) from None


def _ask(uri: str, store: str, folder: str) -> dict[str, str]:
    """The answer of the other process: ``path``, or ``files``, ``not_found`` or ``error``."""
    words = [sys.executable, "-m", "ptycho_ray.tracking.fetch", uri, folder]
    done = subprocess.run(words, env=stores.environment(store), capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"error": (done.stderr.strip().splitlines() or ["nothing"])[-1]}
    answer: dict[str, str] = json.loads(lines[-1])
    return answer


def fetch(uri: str, folder: str) -> dict[str, str]:
    """Download only the bundle that ``uri`` refers to into ``folder``."""
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts, list_artifacts
    from mlflow.exceptions import MlflowException

    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"
    try:
        if uri.startswith("runs:/"):
            run_id, _, path = uri.removeprefix("runs:/").partition("/")
            client = MlflowClient()
            client.get_run(run_id)  # tells a missing run from a missing file
            if not path:
                uri = f"runs:/{run_id}/{_last_model([file.path for file in client.list_artifacts(run_id)])}"
        if not uri.endswith(".zip"):
            files = [Path(file.path).name for file in list_artifacts(uri)]
            bundles = [name for name in files if name.endswith(".zip")]
            if len(bundles) != 1:
                return {"files": str(files[:5])}
            uri = f"{uri}/{bundles[0]}"
        return {"path": download_artifacts(uri, dst_path=folder)}
    except MlflowException as error:
        missing = error.error_code in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND", "INVALID_PARAMETER_VALUE")
        return {"not_found" if missing else "error": stores.short_error(error)}


def _last_model(names: list[str]) -> str:
    """``model-3`` of ``model``, ``model-2`` and ``model-3``; ``model`` if there is none."""
    numbers = [int(found[1] or 1) for name in names if (found := re.fullmatch(r"model(?:-(\d+))?", name))]
    last = max(numbers, default=1)
    return "model" if last == 1 else f"model-{last}"


if __name__ == "__main__":
    print(json.dumps(fetch(*sys.argv[1:])))
