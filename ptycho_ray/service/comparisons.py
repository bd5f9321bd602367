"""Two results of one sample beside each other, aligned as ``ptycho-ray compare`` does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_ray.errors import InputError
from ptycho_ray.evaluation.comparison import Placed, compare, figures_of
from ptycho_ray.files import jsonable
from ptycho_ray.service.job_results import RESULT, covered_window
from ptycho_ray.service.layers import Layer, write_layers


def compared_file(first: Path, second: Path) -> Path:
    """The aligned images of two jobs, given by their folders, made if they are not there yet.

    Raises:
        InputError: they have different pixels, or do not overlap.
        FileNotFoundError: a result is no longer kept.
    """
    path = first / f"compared-{second.name}.npz"
    if not path.exists():
        _compare(first, second, path)
    return path


def _compare(first: Path, second: Path, path: Path) -> None:
    placed: list[Placed] = []
    pixels: list[float | None] = []
    for folder in (first, second):
        with np.load(folder / RESULT, allow_pickle=False) as result:
            origin = result["origin_px"]
            covered, _ = covered_window(result)
            placed.append(Placed(result["object"], covered, (float(origin[0]), float(origin[1]))))
            pixels.append(float(result["pixel_size_m"]) if "pixel_size_m" in result else None)
    first_m, second_m = pixels
    if first_m is not None and second_m is not None and not math.isclose(first_m, second_m, rel_tol=1e-3):
        raise InputError(field="pixel_size_m", found=pixels, expected="two images with the same pixels")
    found = compare({"second": placed[1]}, placed[0])["second"]
    rows, columns = (np.flatnonzero(found.mask.any(axis=axis)) for axis in (1, 0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    mask, ours, theirs = found.mask[window], found.truth[window], found.aligned[window]
    differences = {
        "amplitude difference": (np.abs(theirs) - np.abs(ours), ""),
        "phase difference": (np.angle(theirs * ours.conj()), "rad"),
    }
    layers = [
        Layer(name, np.where(mask, image, 0).astype(np.complex64), "comparison", first_m)
        for name, image in (("first", ours), ("second", theirs))
    ]
    for name, (values, unit) in differences.items():
        layers.append(Layer(name, np.where(mask, values, np.nan).astype(np.float32), "comparison", first_m, unit=unit))
    facts: dict[str, Any] = {"figures": figures_of(found), "frc": found.frc.to_dict(curve=True)}
    write_layers(path, layers, jsonable(facts))
