"""How good images are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_ray.data import RawData
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.interactive import Reconstruction, as_scan

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from ptycho_ray.evaluation import Evaluation
    from ptycho_ray.reconstruction.images import Image

    Shown = Reconstruction | Image | NDArray[np.complexfloating[Any, Any]] | str | Path


def evaluate(
    image: Shown, scan: RawData | str | Path | None = None, *, exact: bool = False, device: str = "auto"
) -> dict[str, Any]:
    """The figures of ``ptycho-ray evaluate --json``: under ``diffraction`` how well the image explains the patterns, and, if
    the scan holds the true object, the errors against it under ``truth``.

    Args:
        image: a reconstruction, or a file or folder that holds one.
        scan: the scan; that of the reconstruction if not given.
        exact: the geometry is known exactly: fit no shift.
        device: where it is computed: auto, cpu, cuda, cuda:1, mps.
    """
    from ptycho_ray.config import ExecutionConfig
    from ptycho_ray.training.device import resolve_device

    if scan is None:
        if not isinstance(image, Reconstruction):
            raise ConfigurationError(field="scan", found="nothing", expected="a scan, or its file, beside an image")
        raw = image.refined_scan
    else:
        raw = as_scan(scan)
    return judge(image, raw, exact=exact, device=resolve_device(ExecutionConfig(accelerator=device)))[0]


def judge(
    image: Shown, scan: RawData, *, exact: bool = False, device: torch.device | None = None
) -> tuple[dict[str, Any], Evaluation | None]:
    """The figures, and the comparison with the true object, if the scan has one."""
    from ptycho_ray.evaluation import evaluate_reconstruction
    from ptycho_ray.refinement.explained_image import explained_diffraction

    shown = image_of(image)
    figures: dict[str, Any] = {"diffraction": explained_diffraction(shown, as_found_with(image, scan), device)}
    if scan.object_truth is None:
        return figures, None
    found = evaluate_reconstruction(
        shown.pixels, scan.object_truth, origin_px=shown.origin_px, region=shown.region, register=not exact
    )
    return figures | {"truth": found.to_dict()}, found


def compare(
    images: Mapping[str, Shown] | Sequence[Shown],
    *,
    truth: Shown | RawData | None = None,
    scan: RawData | str | Path | None = None,
    exact: bool = False,
) -> list[dict[str, Any]]:
    """One row of figures for each image against a reference, as ``ptycho-ray compare --json`` gives them under ``images``.

    Args:
        images: by name, or in a list.
        truth: the reference, an image or a scan that holds its object; if not given that of ``scan``, else the first image.
        scan: also the R-factor of its patterns for each image.
        exact: the geometry is known exactly: fit no shift.
    """
    given = dict(images) if isinstance(images, Mapping) else {f"image {k + 1}": each for k, each in enumerate(images)}
    raw = None if scan is None else as_scan(scan)
    shown = {name: image_of(each) for name, each in given.items()}
    reference = None
    if truth is not None:
        reference = image_of(truth)
    elif raw is not None and raw.object_truth is not None:
        reference = image_of(raw)
    elif len(shown) < 2:
        raise ConfigurationError(field="images", found=f"{len(shown)}", expected="two, or one and truth or scan")
    scans = {} if raw is None else {name: as_found_with(each, raw) for name, each in given.items()}
    return side_by_side(shown, reference, scans, exact=exact)[0]


def side_by_side(
    images: Mapping[str, Image],
    reference: Image | None,
    scans: Mapping[str, RawData],
    *,
    exact: bool = False,
    device: torch.device | None = None,
) -> tuple[list[dict[str, Any]], dict[str, Evaluation]]:
    """A row of figures for each image against ``reference``, or against the first image if that is None, and the comparisons
    behind them. ``scans`` are those whose patterns each image has to explain, by its name."""
    from ptycho_ray.evaluation import comparison
    from ptycho_ray.refinement.explained_image import explained_diffraction

    compared = dict(images)
    if reference is None:
        reference = compared.pop(next(iter(compared)))
    placed = {name: comparison.Placed(each.pixels, each.region, each.origin_px) for name, each in compared.items()}
    against = comparison.Placed(reference.pixels, reference.region, reference.origin_px)
    found = comparison.compare(placed, against, register=not exact)
    rows = []
    for name, evaluation in found.items():
        row = {"image": name, **comparison.figures_of(evaluation)}
        if name in scans:
            row["r_factor"] = explained_diffraction(compared[name], scans[name], device)["r_factor"]
        rows.append(row)
    return rows, found


def as_found_with(image: Shown, scan: RawData) -> RawData:
    """The scan with the probe and the positions that were found with an image, if they were kept with it."""
    from ptycho_ray.refinement.explained_image import as_refined, if_of_the_same_scan

    if isinstance(image, str | Path):
        return as_refined(scan, Path(image))
    return if_of_the_same_scan(image.refined_scan, scan) if isinstance(image, Reconstruction) else scan


def image_of(given: Shown | RawData) -> Image:
    """The complex image of a reconstruction, a file, a scan with a known object, or an array [H, W]."""
    from ptycho_ray.reconstruction.images import Image, read_image

    if isinstance(given, Image):
        return given
    if isinstance(given, Reconstruction):
        return Image(given.image, given.stitched.covered(), given.origin_px)
    if isinstance(given, RawData):
        if given.object_truth is None:
            raise ConfigurationError(field="truth", found="a scan without a true object", expected="one with it")
        return Image(given.object_truth, given.object_truth != 0)
    if isinstance(given, str | Path):
        return read_image(Path(given))
    if isinstance(given, np.ndarray) and given.ndim == 2 and np.iscomplexobj(given):
        return Image(given.astype(np.complex64), np.isfinite(given) & (given != 0))
    found = f"an array of {given.dtype} {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
    raise ConfigurationError(field="image", found=found, expected="a reconstruction, a file, or a complex array [H, W]")
