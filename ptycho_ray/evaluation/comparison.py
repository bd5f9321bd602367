"""Comparison of images of one sample: registration, a table of metrics, a picture. No file is read here.

The images may come from any program: each is brought to the reference by a complex factor, a phase ramp and a shift of up to 16
pixels beyond its stated place (``ptycho_ray.evaluation``), and judged where it is covered.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError
from ptycho_ray.evaluation.quality import Evaluation, evaluate_reconstruction
from ptycho_ray.files import atomic_path

METRICS = ("mae", "mse", "psnr", "ssim", "ms_ssim", "frc50")


@dataclass(frozen=True)
class Placed:
    """A complex image [H, W], the pixels of it that count, and the place of its pixel (0, 0) in the scan's coordinates."""

    pixels: NDArray[np.complexfloating[Any, Any]]
    region: NDArray[np.bool_]
    origin_px: tuple[float, float] = (0.0, 0.0)


def compare(images: Mapping[str, Placed], reference: Placed, *, register: bool = True) -> dict[str, Evaluation]:
    """Every image against the reference, by name.

    Args:
        register: fit a shift too; without it the places are taken as exact.

    Raises:
        InputError: an image does not overlap the reference, or too little; the message names it.
    """
    truth = np.where(reference.region, reference.pixels, 0) if not reference.region.all() else reference.pixels
    found = {}
    for name, image in images.items():
        origin = (image.origin_px[0] - reference.origin_px[0], image.origin_px[1] - reference.origin_px[1])
        region = image.region & _seen(reference.region, origin, image.region.shape)
        try:
            found[name] = evaluate_reconstruction(
                image.pixels, truth, origin_px=origin, region=region, register=register
            )
        except InputError as error:
            raise InputError(f"cannot be compared: {error}", field=name) from None
    return found


def _seen(region: NDArray[np.bool_], origin_px: tuple[float, float], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The valid pixels of the reference, on the canvas of an image."""
    rows, columns = (
        np.round(np.arange(side) + start).astype(int) for side, start in zip(shape, origin_px, strict=True)
    )
    inside = ((rows >= 0) & (rows < region.shape[0]))[:, None] & ((columns >= 0) & (columns < region.shape[1]))
    clipped = region[np.clip(rows, 0, region.shape[0] - 1)[:, None], np.clip(columns, 0, region.shape[1] - 1)]
    return inside & clipped


def figures_of(found: Evaluation) -> dict[str, float]:
    """One line of the table: amplitude_mae, phase_mae and so on (phase in radians, FRC50 in cycles per pixel)."""
    row: dict[str, float] = {}
    for part in ("amplitude", "phase"):
        scores = getattr(found, part)
        row |= {f"{part}_{name}": float(getattr(scores, name)) for name in METRICS[:-1]}
        row[f"{part}_frc50"] = scores.frc.frc50
    shift = found.ambiguities.shift_px
    return row | {
        "complex_nrmse": found.complex_nrmse,
        "complex_frc50": found.frc.frc50,
        "shift_row_px": shift[0],
        "shift_column_px": shift[1],
        "pixels": found.n_pixels,
    }


def write_table(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as CSV, one column a key, atomically."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(rows)


def write_curves(path: Path, found: Mapping[str, Evaluation]) -> None:
    """Ring correlations as CSV: image, part, frequency, correlation, half-bit threshold."""
    rows = [
        {"image": name, "part": part, "frequency": f, "correlation": c, "half_bit": h}
        for name, of in found.items()
        for part, frc in (("complex", of.frc), ("amplitude", of.amplitude.frc), ("phase", of.phase.frc))
        for f, c, h in zip(frc.frequency.tolist(), frc.correlation.tolist(), frc.half_bit.tolist(), strict=True)
    ]
    write_table(path, rows)


def write_aligned(path: Path, found: Mapping[str, Evaluation]) -> None:
    """``NAME/image``, ``NAME/reference`` and ``NAME/compared`` (bool) of every image, on the image's canvas."""
    arrays: dict[str, Any] = {}
    for name, of in found.items():
        kept = {"image": of.aligned.astype(np.complex64), "reference": of.truth.astype(np.complex64)}
        arrays |= {f"{name}/{part}": values for part, values in (kept | {"compared": of.mask}).items()}
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)
