"""``ptycho-ray info``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ptycho_ray.command_line import parse
from ptycho_ray.commands.common import FILE, Common, Result, describe_scan, summary_of_history
from ptycho_ray.errors import InputError

if TYPE_CHECKING:
    from ptycho_ray.config import ModelConfig


@dataclass(kw_only=True)
class Options(Common):
    """Tell what is in a file: a scan (NPZ, HDF5, CXI), a trained model or a reconstructed image.

    Example: ptycho-ray info scan.h5
    """

    file: Annotated[Path | None, tyro.conf.Positional, FILE] = None
    """A file, the folder that train or reconstruct wrote to, or a model in MLflow (models:/NAME/VERSION)."""
    architectures: bool = False
    """Instead of a file: every network there is, with its parameters and operations."""
    N: int = 64
    """With architectures: side of a pattern."""
    gridsize: int = 1
    """With architectures: patterns are taken in groups of gridsize x gridsize."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray info").options
    if options.architectures != (options.file is None):
        raise InputError(
            field="FILE", found=options.file or "nothing", expected="a file, or --architectures without one"
        )
    if options.file is None:
        return _architectures(options.N, options.gridsize)
    from ptycho_ray.commands.images import find_image, read_image
    from ptycho_ray.data import load_data
    from ptycho_ray.tracking import is_mlflow_uri

    path = options.file
    if is_mlflow_uri(path) or (path / "wts.h5.zip").is_file() or path.suffix == ".zip":
        from ptycho_ray.bundle import read_manifest
        from ptycho_ray.config import ModelConfig

        manifest = read_manifest(path)
        history = summary_of_history(manifest["history"]) if manifest["history"] else None
        kept = {name: manifest[name] for name in ("created_by", "created_at", "config", "normalisation", "provenance")}
        cost = _cost(ModelConfig(**manifest["config"]["model"]))
        return {"file": path, "kind": "trained model", "network": cost, **kept, "training": history}
    if (found := find_image(path)) is not None:
        image = read_image(found)
        shape = list(image.pixels.shape)
        return {"file": found, "kind": "reconstructed image", "shape": shape, "origin_px": image.origin_px}
    return {"file": path, "kind": "scan", **describe_scan(load_data(path))}


def _architectures(n: int, gridsize: int) -> Result:
    from ptycho_ray.config import ModelConfig
    from ptycho_ray.models.registry import ARCHITECTURES

    configs = [ModelConfig(N=n, gridsize=gridsize, architecture=name) for name in ARCHITECTURES]  # type: ignore[arg-type]
    return {"N": n, "gridsize": gridsize, "architectures": [_cost(config) for config in configs]}


def _cost(config: ModelConfig) -> Result:
    """Parameters, and operations for one group of patterns."""
    from ptycho_ray.models.cost import network_cost

    return {"architecture": config.architecture, **asdict(network_cost(config))}
