"""The available models, by name and version. Changes on disk take effect without a notification."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from ptycho_ray.bundle import FILE_NAME, load_bundle, read_manifest
from ptycho_ray.errors import ConfigurationError, InputError, MissingFileError
from ptycho_ray.service.problems import Problem, from_error
from ptycho_ray.service.settings import ServiceSettings

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Model:
    """A bundle on disk.

    Attributes:
        name, version: how requests call it.
        path: the bundle.
        stamp: changes when the file does.
    """

    name: str
    version: str
    path: Path
    stamp: str

    @property
    def key(self) -> str:
        """A string that identifies exactly this model, in jobs and as the id by which Serve routes."""
        return f"{self.name}@{self.version}@{self.stamp}"


@dataclass(frozen=True)
class Checked:
    """The result of loading a bundle once: its manifest, the side of its probe in pixels and the sides of patterns that it
    takes, or why it cannot be used."""

    manifest: dict[str, Any] | None
    problem: Problem | None
    side: int | None = None
    sides: str | None = None


class ModelStore:
    """The models of a service.

    A version that cannot be loaded is never chosen: requests without a version get the newest one that can, so a corrupt
    bundle leaves the old version serving.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self.settings = settings
        self._checked: dict[Path, tuple[str, Checked]] = {}
        self._lock = Lock()
        for name in settings.models:
            if not NAME.fullmatch(name):
                raise ConfigurationError(field="models", found=repr(name), expected="letters, digits, '.', '_', '-'")

    def all(self) -> list[Model]:
        """Every version of every model, the newest of each first."""
        found = [model for name, place in self.settings.models.items() for model in _versions(name, place)]
        root = self.settings.model_root
        if root is not None and root.is_dir():
            for folder in sorted(root.iterdir()):
                if NAME.fullmatch(folder.name) and folder.name not in self.settings.models:
                    found += _versions(folder.name, folder)
        return found

    def usable(self) -> list[Model]:
        """The newest good version of each model, by name."""
        newest: dict[str, Model] = {}
        for model in self.all():
            if model.name not in newest and self.check(model).problem is None:
                newest[model.name] = model
        return list(newest.values())

    def choose(self, wanted: str | None) -> Model:
        """The model that a request refers to: NAME or NAME@VERSION; None if there is only one name.

        Raises:
            Problem: 422 if there is none, or several and none was named; 503 if its bundles cannot be loaded.
        """
        models = self.all()
        names = list(dict.fromkeys(model.name for model in models))
        if wanted is None and len(names) != 1:
            expected = names or "a model: start the service with one"
            raise Problem(422, "invalid", "Name a model.", {"field": "model", "found": "none", "expected": expected})
        name, at, version = (wanted or names[0]).partition("@")
        versions = [model for model in models if model.name == name and (not at or version == model.version)]
        if not versions:
            more = {"field": "model", "found": wanted, "expected": names or "none: this service has no model"}
            raise Problem(422, "invalid", f"There is no model {str(wanted)[:100]!r}.", more)
        for model in versions:
            if self.check(model).problem is None:
                return model
        raise Problem(
            503, "busy", f"No bundle of model {name!r} can be loaded.", {"field": "model", "found": wanted}, 60
        )

    def by_key(self, key: str) -> Model:
        """The model of a key; if its file has changed since, the present one of that name and version."""
        name, version, _ = key.split("@")
        for model in self.all():
            if (model.name, model.version) == (name, version):
                return model
        raise Problem(410, "gone", f"Model {name}@{version} is no longer there.", {"field": "model"})

    def check(self, model: Model) -> Checked:
        """Whether this bundle loads; it is tried once, and again when the file changes."""
        with self._lock:
            known = self._checked.get(model.path)
            if known is not None and known[0] == model.stamp:
                return known[1]
            try:
                bundle = load_bundle(model.path)
                side = int(bundle.model.probe.shape[-1])
                checked = Checked(read_manifest(model.path), None, side, bundle.sides)
            except (InputError, KeyError) as error:
                log.error("model %s@%s cannot be used: %s", model.name, model.version, error)
                checked = Checked(None, from_error(error))
            self._checked[model.path] = (model.stamp, checked)
            return checked


def _versions(name: str, place: Path) -> list[Model]:
    """The bundles of one model, newest version first: by number where versions are numbers ("2" before "10")."""
    if place.is_file() or (place / FILE_NAME).is_file():
        path = place if place.is_file() else place / FILE_NAME
        return [_model(name, "1", path)] if path.exists() else []
    if not place.is_dir():
        return []
    found = []
    for folder in place.iterdir():
        path = folder / FILE_NAME
        if NAME.fullmatch(folder.name) and path.is_file():
            try:
                found.append(_model(name, folder.name, path))
            except MissingFileError:
                continue
    return sorted(found, key=lambda model: _natural(model.version), reverse=True)


def _model(name: str, version: str, path: Path) -> Model:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise MissingFileError(file=path, field="model", found="nothing", expected="a bundle") from None
    stamp = hashlib.sha256(f"{path}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}".encode()).hexdigest()[:12]
    return Model(name, version, path, stamp)


def _natural(text: str) -> list[tuple[int, int, str]]:
    parts = re.findall(r"\d+|\D+", text)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
