"""``wts.h5.zip``: a trained model with everything that is needed to use it, in JSON and safetensors.

See ``docs/decisions/0003-bundle-format.md``. Reading a bundle never executes code from it.
"""

from __future__ import annotations

import hashlib
import json
import platform
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_ray import __version__
from ptycho_ray.config import PRETRAINED, ModelConfig, TrainingConfig
from ptycho_ray.errors import BundleError, ConfigurationError, InputError, MissingFileError
from ptycho_ray.files import atomic_path, jsonable
from ptycho_ray.tracking.fetch import fetched_bundle
from ptycho_ray.tracking.stores import is_mlflow_uri

if TYPE_CHECKING:  # what a file is, is said without torch
    from torch import Tensor

    from ptycho_ray.models.physics_informed import PhysicsInformedModel

FILE_NAME = "wts.h5.zip"
#: The model that comes with the program; docs/networks.md says how it was made.
PRETRAINED_FILE = Path(__file__).parent / "models" / "pretrained.wts.h5.zip"
#: What Ptychodus calls the model in a folder of its own.
PTYCHODUS_FILE_NAME = f"model.{FILE_NAME}"
SCHEMA_VERSION = 1
MANIFEST, WEIGHTS, PROBE = "manifest.json", "weights.safetensors", "probe.safetensors"
#: Both names of the reference; they share one set of weights, the second leaves out the diffraction.
MODEL_NAMES = ("autoencoder", "diffraction_to_obj")
MAX_MANIFEST_BYTES = 16 * 2**20
MAX_MEMBER_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Bundle:
    """A model read from or written to a file.

    Attributes:
        model: weights, probe, scales and normalisation.
        config: the training configuration.
        provenance: program versions, time, command, seed, data file and checksum: as recorded by the run.
        history: one list per figure, one number per epoch.
        ensemble_members: the further members of an ensemble, after ``model``.
    """

    model: PhysicsInformedModel
    config: TrainingConfig
    provenance: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, list[float]] = field(default_factory=dict)
    ensemble_members: tuple[PhysicsInformedModel, ...] = ()

    @property
    def models(self) -> tuple[PhysicsInformedModel, ...]:
        """All members of the ensemble, or the one model."""
        return (self.model, *self.ensemble_members)

    @property
    def sides(self) -> str:
        """Which sides of patterns it takes, in words: a network that sees the probe may take others than its own."""
        own = self.model.probe.shape[-1]
        return "a multiple of 8, at least 32" if self.takes(2 * own) else str(own)

    def takes(self, side: int) -> bool:
        """Whether it takes patterns of this side in pixels."""
        from ptycho_ray.models.registry import for_side

        own = self.model.probe.shape[-1]
        try:
            return side == own or side == for_side(replace(self.config.model, N=own), side).N
        except ConfigurationError:
            return False


def is_shipped(place: Path) -> bool:
    """Whether ``place`` names the model shipped with the package; a file or folder of that name takes precedence."""
    return place == Path(PRETRAINED) and not place.exists()


def names_only_a_model(place: str | Path) -> bool:
    """Whether ``place`` can be no file of another kind: 'pretrained', or a model in MLflow."""
    return is_mlflow_uri(place) or is_shipped(Path(place))


def bundle_path(place: str | Path) -> Path:
    """The bundle that ``place`` refers to: the file itself, or ``wts.h5.zip`` (``model.wts.h5.zip``) in that folder,
    or, for ``pretrained``, the one shipped with the package; MissingFileError if there is none."""
    place = Path(place)
    if is_shipped(place):
        return PRETRAINED_FILE
    path = place
    if place.is_dir():
        theirs = place / PTYCHODUS_FILE_NAME
        path = theirs if theirs.is_file() and not (place / FILE_NAME).is_file() else place / FILE_NAME
    if not path.is_file():
        raise MissingFileError(
            file=path, field="model", found="no such file", expected=f"a bundle {FILE_NAME} or its folder"
        )
    return path


def save_bundle(place: str | Path, bundle: Bundle) -> Path:
    """Write a bundle to a file, or as ``wts.h5.zip`` into a folder (any name that does not end in .zip); atomically."""
    import torch
    from safetensors.torch import save

    place = Path(place)
    path = place if place.suffix == ".zip" else place / FILE_NAME
    members: dict[str, bytes] = {}
    ensemble = []
    for number, model in enumerate(bundle.models):
        folder = f"members/{number + 1}/" if number else ""
        state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        probe = torch.view_as_complex(state.pop("probe_parts")).contiguous()
        members |= {folder + WEIGHTS: save(state), folder + PROBE: save({"probe": probe})}
        files = {"weights": folder + WEIGHTS, "probe": folder + PROBE}
        ensemble.append({**files, "normalisation": model.normalisation.to_dict()})
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "backend": "pytorch",
        "created_by": {"ptycho_ray": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "models": {name: {"weights": WEIGHTS, "probe": PROBE} for name in MODEL_NAMES},
        "config": jsonable(asdict(bundle.config)),
        "normalisation": bundle.model.normalisation.to_dict(),
        "ensemble": ensemble[1:],
        "provenance": jsonable(dict(bundle.provenance)),
        "history": jsonable(dict(bundle.history)),
        "members": {
            name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for name, content in members.items()
        },
    }
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(MANIFEST, json.dumps(manifest, indent=2))
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def load_bundle(place: str | Path, model_name: str = "diffraction_to_obj") -> Bundle:
    """Read a bundle from a file, a folder or MLflow (``runs:/RUN_ID/model``, ``models:/NAME/VERSION``).

    Raises:
        MissingFileError: no bundle there.
        InputError: MLflow is not installed, does not answer, or has no such run or model.
        KeyError: the bundle holds no model of that name.
        BundleError: not a bundle, truncated, tampered with, of a newer schema, or with weights of another model.
    """
    if is_mlflow_uri(place):
        with fetched_bundle(place) as path:
            return load_bundle(path, model_name)
    path = bundle_path(place)
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = _read_manifest(archive, path)
            if model_name not in manifest["models"]:
                raise KeyError(f"{path} holds no model {model_name!r}, only {sorted(manifest['models'])}")
            first = {**manifest["models"][model_name], "normalisation": manifest["normalisation"]}
            listed = [first, *manifest.get("ensemble", ())]
            config = _stored_config(manifest, path)
            models = [_read_model(archive, names, manifest, config.model, path) for names in listed]
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise BundleError(file=path, found=str(error), expected="a complete zip archive") from None
    return Bundle(models[0], config, manifest["provenance"], manifest["history"], tuple(models[1:]))


def _stored_config(manifest: Mapping[str, Any], path: Path) -> TrainingConfig:
    try:
        settings = dict(manifest["config"])
        return TrainingConfig(**{**settings, "model": ModelConfig(**settings["model"])})
    except (InputError, KeyError, TypeError) as error:
        raise _incomplete(path, error) from None


def _read_model(
    archive: zipfile.ZipFile, names: Mapping[str, Any], manifest: Mapping[str, Any], config: ModelConfig, path: Path
) -> PhysicsInformedModel:
    """One model, or one member of an ensemble; ``names`` are its weights, probe and normalisation."""
    import torch

    from ptycho_ray.data.normalisation import Normalisation
    from ptycho_ray.models.physics_informed import PhysicsInformedModel
    from ptycho_ray.models.scan_positions import ScanPositions

    weights = _read_tensors(archive, names["weights"], manifest, path)
    probe = _read_tensors(archive, names["probe"], manifest, path)["probe"]
    try:
        model = PhysicsInformedModel(config, Normalisation.from_dict(names["normalisation"]), probe)
        model.positions = ScanPositions.shaped_like(weights)
        model.load_state_dict({**weights, "probe_parts": torch.view_as_real(probe)})
    except (InputError, KeyError, TypeError, RuntimeError) as error:
        raise _incomplete(path, error) from None
    return model.eval()


def _incomplete(path: Path, error: Exception) -> BundleError:
    return BundleError(file=path, field="content", found=str(error).replace("\n", " "), expected="a complete model")


def read_manifest(place: str | Path) -> dict[str, Any]:
    """The manifest alone: what a bundle is, without loading it. ``place`` as in :func:`load_bundle`."""
    if is_mlflow_uri(place):
        with fetched_bundle(place) as path:
            return read_manifest(path)
    path = bundle_path(place)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_manifest(archive, path)
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise BundleError(file=path, found=str(error), expected="a complete zip archive") from None


def _read_manifest(archive: zipfile.ZipFile, path: Path) -> dict[str, Any]:
    names = archive.namelist()
    if MANIFEST not in names:
        if any(name.endswith((".dill", ".pkl", ".pth", ".pt")) for name in names):
            raise BundleError(
                file=path,
                field=MANIFEST,
                found="pickled members, which can execute code",
                expected="a bundle of ptycho_ray",
                hint="Bundles of PtychoPINN cannot be loaded; train the model again",
            )
        raise BundleError(file=path, field=MANIFEST, found=f"members {names[:5]}", expected="a bundle of ptycho_ray")
    if archive.getinfo(MANIFEST).file_size > MAX_MANIFEST_BYTES:
        raise BundleError(
            file=path,
            field=MANIFEST,
            found=f"{archive.getinfo(MANIFEST).file_size} bytes",
            expected=f"at most {MAX_MANIFEST_BYTES}",
        )
    try:
        manifest = json.loads(archive.read(MANIFEST))
        version = manifest["schema_version"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise BundleError(file=path, field=MANIFEST, found=repr(error), expected="JSON with a schema_version") from None
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise BundleError(
            file=path,
            field="schema_version",
            found=version,
            expected=f"at most {SCHEMA_VERSION}",
            hint="Update ptycho_ray to read it",
        )
    required = {"backend", "models", "config", "normalisation", "provenance", "history", "members"}
    if missing := sorted(required - set(manifest)):
        raise BundleError(
            file=path, field=MANIFEST, found=f"no entry {missing[0]!r}", expected=f"entries {sorted(required)}"
        )
    if manifest["backend"] != "pytorch":
        raise BundleError(file=path, field="backend", found=manifest["backend"], expected="'pytorch'")
    return manifest


def _read_tensors(archive: zipfile.ZipFile, name: str, manifest: Mapping[str, Any], path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    listed = manifest["members"].get(name)
    if listed is None or name not in archive.namelist():
        raise BundleError(file=path, field=name, found="no such member", expected="the member that the manifest lists")
    size = archive.getinfo(name).file_size
    if size != listed["bytes"] or size > MAX_MEMBER_BYTES:
        raise BundleError(
            file=path, field=name, found=f"{size} bytes", expected=f"{listed['bytes']} bytes as the manifest says"
        )
    content = archive.read(name)
    digest = hashlib.sha256(content).hexdigest()
    if digest != listed["sha256"]:
        raise BundleError(
            file=path,
            field=name,
            found=f"SHA-256 {digest[:12]}...",
            expected=f"{listed['sha256'][:12]}... as the manifest says",
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise BundleError(file=path, field=name, found=str(error), expected="safetensors") from None
