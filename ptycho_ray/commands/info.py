"""``ptycho-ray info``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.command_line import parse
from ptycho_ray.commands.common import FILE, Common, Result, describe_scan, summary_of_history


@dataclass(kw_only=True)
class Options(Common):
    """Tell what is in a file: a scan (NPZ, HDF5, CXI), a trained model or a reconstructed image.

    Example: ptycho-ray info scan.h5
    """

    file: Annotated[Path, tyro.conf.Positional, FILE]
    """A file, the folder that train or reconstruct wrote to, or a model in MLflow (models:/NAME/VERSION)."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray info").options
    from ptycho_ray.commands.images import find_image, read_image
    from ptycho_ray.data import load_data
    from ptycho_ray.tracking import is_mlflow_uri

    path = options.file
    if is_mlflow_uri(path) or (path / "wts.h5.zip").is_file() or path.suffix == ".zip":
        from ptycho_ray.bundle import read_manifest

        manifest = read_manifest(path)
        history = summary_of_history(manifest["history"]) if manifest["history"] else None
        kept = {name: manifest[name] for name in ("created_by", "created_at", "config", "normalisation", "provenance")}
        return {"file": path, "kind": "trained model", **kept, "training": history}
    if (found := find_image(path)) is not None:
        image = read_image(found)
        shape = list(image.pixels.shape)
        return {"file": found, "kind": "reconstructed image", "shape": shape, "origin_px": image.origin_px}
    return {"file": path, "kind": "scan", **describe_scan(load_data(path))}
