"""The figures of an image: the reference's metric as it is, and ours, which takes the global phase out first."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from benchmarks.field.cases import Case, Window
from ptycho_ray.evaluation import calibration_of, eval_reconstruction, evaluate_reconstruction
from ptycho_ray.reconstruction.stitching import StitchedObject

#: The reference's PSNR has the peak 255 whatever the data: so many dB more than with the peak 1.
PEAK_DB = 20 * math.log10(255)
#: Standard deviations that hold 70 % of a normal distribution.
NOMINAL_STD = 1.0364
Image = NDArray[np.complexfloating]


def figures_of(case: Case, image: StitchedObject) -> dict[str, dict[str, float]]:
    """All figures of an image by line of the page, means over the windows; not a number where one is not defined."""
    lines = {case.group or case.name: case.windows} | case.further
    return {line: mean_of(list(_of_windows(case, image, windows))) for line, windows in lines.items()}


def mean_of(found: list[dict[str, float]]) -> dict[str, float]:
    """The mean of every figure."""
    return {name: float(np.mean([figures[name] for figures in found])) for name in found[0]}


def _of_windows(case: Case, image: StitchedObject, windows: Iterable[Window]) -> Iterable[dict[str, float]]:
    origin = (round(image.origin_px[0]), round(image.origin_px[1]))
    for window in windows:
        own = tuple(slice(low - o, high - o) for low, high, o in zip(window[::2], window[1::2], origin, strict=True))
        region = np.zeros(image.image.shape, dtype=bool)
        region[own] = True
        if not case.register:
            seen, truth = image.image[own], _cut(case.truth, window)
            ours, theirs = _with_one_phase(seen, truth), seen
            yield _named("reference", theirs, truth) | _named("ours", ours, truth) | _bars(image, own, ours, truth)
            continue
        found = evaluate_reconstruction(
            image.image, case.truth, origin_px=image.origin_px, region=region, register=True
        )
        aligned, truth = found.aligned[own], found.truth[own]
        yield _named("reference", aligned, truth) | _named("ours", aligned, truth)


def _cut(image: Image, window: Window) -> Image:
    top, bottom, left, right = window
    return image[top:bottom, left:right]


def _with_one_phase(image: Image, truth: Image) -> Image:
    """The image times the unit number that brings it nearest to the truth."""
    inner = np.vdot(image, truth)
    return image * (inner / abs(inner) if inner else 1.0)


def _named(name: str, image: Image, truth: Image) -> dict[str, float]:
    """The reference's figures of an image, PSNR with the peak 1; of ours also the relative complex error after
    a complex factor."""
    with np.errstate(invalid="ignore", divide="ignore"):  # an image without contrast
        found = eval_reconstruction(image, truth)
    row = {}
    for k, part in enumerate(("amplitude", "phase")):
        row |= {f"{name}_{part}_{figure}": float(found[figure][k]) for figure in ("mae", "ssim", "frc50")}
        row[f"{name}_{part}_psnr"] = float(found["psnr"][k]) - PEAK_DB
    if name == "ours":
        factor = np.vdot(image, truth) / np.vdot(image, image)
        row["ours_complex_error"] = float(np.linalg.norm(factor * image - truth) / np.linalg.norm(truth))
    return row


def _bars(image: StitchedObject, own: tuple[slice, ...], seen: Image, truth: Image) -> dict[str, float]:
    """How well error bars tell the errors: share within the nominal 70 % interval, rank correlation."""
    if image.amplitude_std is None or image.phase_std is None:
        return {}
    factor = np.vdot(seen, truth) / np.vdot(seen, seen)  # diffraction leaves it open
    errors = np.abs(factor * seen) - np.abs(truth), np.angle(factor * seen * truth.conj())
    stds = abs(factor) * image.amplitude_std[own], image.phase_std[own]
    row = {}
    for part, error, std in zip(("amplitude", "phase"), errors, stds, strict=True):
        row[f"{part}_coverage"] = float(np.mean(np.abs(error) <= NOMINAL_STD * std))
        row[f"{part}_rank"] = float(calibration_of(error.ravel(), std.ravel()).rank_correlation)
    return row
