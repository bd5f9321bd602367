"""MLflow's stores, the environment of the processes that connect to them, and the tags that describe a run."""

from __future__ import annotations

import contextlib
import getpass
import importlib.util
import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

DEFAULT_NAME = "ptycho-ray"
DATABASE = "mlflow.db"

#: Seconds that a request may take, and one that carries a file.
REQUEST_TIMEOUT_S, FILE_TIMEOUT_S = "10", "60"


def has_mlflow() -> bool:
    """True if MLflow is installed; this does not import it."""
    return importlib.util.find_spec("mlflow") is not None


def is_mlflow_uri(place: str | Path) -> bool:
    """True for ``runs:/...`` and ``models:/...``, also as a Path (which leaves one slash of several)."""
    return re.match(r"(runs|models):/", _text(place)) is not None


def as_mlflow_uri(place: str | Path) -> str:
    """The URI with one slash after its scheme, as MLflow wants it."""
    return re.sub(r":/+", ":/", _text(place), count=1)


def _text(place: str | Path) -> str:
    return place.as_posix() if isinstance(place, Path) else place


def tracking_uri(output: Path) -> str:
    """The store for the run of an output folder: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` next to the folder.

    Runs whose output folders lie side by side share a database. With ``--output-dir model`` it is the one in the working
    folder, where ``mlflow ui`` looks. An output folder at the root of the file system, which is often a mounted volume,
    holds the database itself.
    """
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return _absolute(given)
    output = output.resolve()
    folder = output if output.parent == Path(output.anchor) else output.parent
    return f"sqlite:///{folder / DATABASE}"


def reading_uri() -> str:
    """The store for loading a model: ``MLFLOW_TRACKING_URI``, or ``mlflow.db`` in the working folder."""
    return _absolute(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DATABASE}")


def database_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for any other store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def _absolute(uri: str) -> str:
    """The URI, with the path of a database made absolute."""
    path = database_file(uri)
    return uri if path is None else f"sqlite:///{path.absolute()}"


def without_password(uri: str) -> str:
    """The URI for files and messages."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def environment(uri: str) -> dict[str, str]:
    """The environment of a process that speaks to MLflow: short timeouts and no telemetry unless set otherwise.
    MLflow reads them only from there. The URI is in it too, for a command line shows passwords to every user of a
    machine.
    """
    return {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": REQUEST_TIMEOUT_S,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        **os.environ,
        "MLFLOW_TRACKING_URI": uri,
    }


def short_error(error: BaseException) -> str:
    """An error of MLflow in one line. For a request without an answer, the network error suffices."""
    if "failed with exception" in str(error):
        while error.__cause__ or error.__context__:
            error = error.__cause__ or error.__context__  # type: ignore[assignment]
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else text[:300] + " ..."


def experiment_name() -> str:
    """``MLFLOW_EXPERIMENT_NAME``, or ``ptycho-ray``."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or DEFAULT_NAME


def model_name(experiment: str) -> str:
    """The registered model has the name of the experiment, without the characters that a model's must not have."""
    return re.sub(r"[/:'\"]", "-", experiment).strip() or DEFAULT_NAME


def entity_name(name: str) -> str:
    """``name`` as MLflow allows it for parameters, metrics and tags: no special characters, no relative paths, at
    most 250 characters."""
    parts = (re.sub(r"[^\w.\- /:]", "_", name)).split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)[:250]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Parameters as text, those of an inner mapping under ``outer.inner``."""
    items: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            items |= flat(value, f"{prefix}{name}.")
        else:
            items[f"{prefix}{name}"] = str(value)
    return items


def run_tags(origin: Mapping[str, Any]) -> dict[str, str]:
    """Tags from the provenance of a run (``ptycho_ray.display.report.provenance``): program, git commit, command, user, data.

    The SHA-256 of each data file stands under ``data.NAME.sha256``. There is a git commit only if the program runs from a
    checkout of its own repository.
    """
    tags = {
        "ptycho_ray.version": str(origin.get("ptycho_ray", "")),
        "mlflow.source.name": str(origin.get("command", "")),
        "mlflow.source.type": "LOCAL",
        **git_tags(),
    }
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container without user names
        tags["mlflow.user"] = getpass.getuser()
    seen: Counter[str] = Counter()
    for file, checksum in origin.get("data", {}).items():
        name = Path(file).name
        seen[name] += 1
        again = f".{seen[name]}" if seen[name] > 1 else ""
        tags[f"data.{name}{again}.sha256"] = str(checksum)
    return {name: value for name, value in tags.items() if value}


def git_tags() -> dict[str, str]:
    """The commit that is checked out, and whether files differ from it; nothing outside a checkout of this program."""
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return {}
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    if not commit:
        return {}
    return {"mlflow.source.git.commit": commit, "git.changed_files": "yes" if changes else "no"}


def _git(*words: str) -> str | None:
    folder = Path(__file__).parents[1]
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
