"""``ptycho-ray compare``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ptycho_ray.commands.common import FOLDER, IMAGE, SCAN, DeviceOptions, ReadingOptions, Result
from ptycho_ray.commands.output import WritingOptions, folder_to_write
from ptycho_ray.config.command_line import parse
from ptycho_ray.errors import InputError
from ptycho_ray.files import jsonable, write_json

if TYPE_CHECKING:
    import torch

    from ptycho_ray.data import RawData
    from ptycho_ray.reconstruction.images import Image


@dataclass(kw_only=True)
class Options(ReadingOptions, WritingOptions, DeviceOptions):
    """Compare images of the same sample: figures of merit in one table, pictures on common colour scales.

    The reference is the true object of --truth, else that of --scan, else the first image. Images of other programs are
    aligned by registration; they must have the orientation of the scan.

    Example: ptycho-ray compare image1 theirs.ptyr --truth scan.npz --output-dir comparison
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, IMAGE] = ()
    """Reconstructions: folders or reconstruction.npz files, results of other programs in any format of docs/formats.md and,
    with --scan, trained models (wts.h5.zip, its folder, or 'pretrained')."""
    truth: Annotated[Path | None, SCAN] = None
    """A scan that holds the true object, or a reconstruction to be used as ground truth."""
    scan: Annotated[Path | None, SCAN] = None
    """The scan: trained models are applied to it, and the R-factor of its patterns is reported for each image, with the probe
    and positions of the refined_scan.npz beside it, if there is one."""
    n_subsample: int | None = None
    """Use only this many patterns of --scan, drawn at random."""
    subsample_seed: int | None = None
    """Seed of this random selection."""
    output_dir: Annotated[Path, FOLDER] = Path("comparison")
    """Folder for comparison.json, metrics.csv, pictures and report."""
    exact: bool = False
    """The geometry is known exactly: fit no shift."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray compare").options
    paths = list(options.images)
    if not paths or (len(paths) == 1 and options.truth is None and options.scan is None):
        raise InputError(
            field="IMAGE",
            found=f"{len(paths)} images",
            expected="two, or one and --truth, or --scan with its true object",
        )
    from ptycho_ray import workflow
    from ptycho_ray.api.judging import side_by_side
    from ptycho_ray.bundle import is_shipped
    from ptycho_ray.display.comparison_figures import plot_comparison, plot_ring_correlations
    from ptycho_ray.display.figures import save_figure
    from ptycho_ray.display.report import Section, provenance, write_report
    from ptycho_ray.evaluation import comparison
    from ptycho_ray.reconstruction.images import Image, label_of
    from ptycho_ray.refinement.explained_image import as_refined

    device = options.resolved_device()
    given = options.output_dir != Options.output_dir
    inputs = [*options.inputs(options.scan), options.truth, *paths]
    folder = folder_to_write(options.output_dir, given=given, overwrite=options.overwrite, inputs=inputs)
    scan = None
    if options.scan is not None:
        scan = workflow.load_data(
            options.scan,
            n_subsample=options.n_subsample,
            subsample_seed=options.subsample_seed,
            reading=options.reading,
        )
        whole = scan if options.n_subsample is None else workflow.load_data(options.scan, reading=options.reading)
    middle = _middle(scan, options.truth, paths)
    names = _names([label_of(path) for path in paths], paths)
    images: dict[str, Image] = {}
    extra_columns: dict[str, Result] = {}
    scans: dict[str, RawData] = {}
    for name, path in zip(names, paths, strict=True):
        images[name], extra_columns[name] = _read(path, scan, middle, device)
        if scan is not None:
            refined = whole if is_shipped(path) else as_refined(whole, path)
            scans[name] = scan if refined is whole else refined
    reference = None
    if options.truth is not None:
        label, reference = label_of(options.truth), _read(options.truth, None, middle, device)[0]
    elif scan is not None and scan.object_truth is not None:
        truth = scan.object_truth
        label, reference = label_of(Path(scan.source)), Image(truth, truth != 0)
    else:
        label = names[0]
    if reference is None and len(images) < 2:
        raise InputError(file=options.scan, field="object", found="none", expected="a true object, or --truth")
    rows, found = side_by_side(images, reference, scans, exact=options.exact, device=device)
    for row in rows:
        row |= extra_columns[row["image"]]
    pictures = plot_comparison(found, label)
    rings = plot_ring_correlations(found)
    save_figure(pictures, folder / "comparison_images.png")
    save_figure(rings, folder / "comparison_frc.png")
    comparison.write_table(folder / "metrics.csv", rows)
    comparison.write_curves(folder / "frc_curves.csv", found)
    comparison.write_aligned(folder / "aligned.npz", found)
    files = [path for path in (*paths, options.truth, options.scan) if path is not None and path.is_file()]
    report = write_report(
        folder / "comparison.html",
        title=f"Comparison with {label}",
        sections=[
            Section("Figures", rows=rows, text="Phase in radians; FRC50 in cycles per pixel, at most 0.5."),
            Section("Images", pictures=[("On common colour scales, each aligned with the first.", pictures)]),
            Section("Fourier ring correlation", pictures=[("", rings)]),
            Section("Provenance", facts=provenance(data_files=files), folded=True),
        ],
    )
    result: Result = {"reference": label, "images": rows, "table": folder / "metrics.csv", "report": report}
    write_json(folder / "comparison.json", jsonable(result))
    return result


def _names(labels: list[str], paths: list[Path]) -> list[str]:
    """A name of its own for each image: its label, or its path where two have the same."""
    names = [label if labels.count(label) == 1 else str(path) for label, path in zip(labels, paths, strict=True)]
    if len(set(names)) < len(names):
        raise InputError(field="IMAGE", found=f"{names} with one twice", expected="different images")
    return names


def _middle(scan: RawData | None, truth: Path | None, paths: list[Path]) -> tuple[float, float]:
    """The middle of what was scanned, by the scan, the scan of the truth, or the first image of our own."""
    import numpy as np

    from ptycho_ray.data.contents import default_max_bytes
    from ptycho_ray.data.loading import read_both
    from ptycho_ray.reconstruction.images import find_image, read_image

    positions = None if scan is None else scan.positions_px
    if positions is None and truth is not None and truth.is_file() and find_image(truth) is None:
        fields = read_both(truth, None, default_max_bytes())
        positions = None if fields.positions_in_metres or fields.frames is None else fields.positions
    if positions is not None:
        low, high = positions.min(axis=0), positions.max(axis=0)
        return float(low[0] + high[0]) / 2, float(low[1] + high[1]) / 2
    for path in paths if truth is None else [truth, *paths]:
        if find_image(path) is not None:
            image = read_image(path)
            sides = [np.flatnonzero(image.region.any(axis=axis)) for axis in (1, 0)]
            row, column = ((side[0] + side[-1]) / 2 + o for side, o in zip(sides, image.origin_px, strict=True))
            return float(row), float(column)
    return 0.0, 0.0


def _read(path: Path, scan: RawData | None, middle: tuple[float, float], device: torch.device) -> tuple[Image, Result]:
    """An image, and the seconds that a trained model took for it."""
    from ptycho_ray.bundle import FILE_NAME, bundle_path, is_shipped
    from ptycho_ray.reconstruction.images import Image, find_image, read_any_image

    bundle = path / FILE_NAME if path.is_dir() else bundle_path(path) if is_shipped(path) else path
    is_model = bundle.is_file() and bundle.name.endswith(".zip")
    if is_model and scan is None and find_image(path) is None:
        raise InputError(file=path, found="a trained model", expected="an image, or --scan SCAN to apply the model to")
    if not is_model or scan is None:
        return read_any_image(path, middle), {}
    from ptycho_ray import workflow
    from ptycho_ray.bundle import load_bundle

    loaded = load_bundle(bundle)
    for model in loaded.models:
        model.to(device)
    began = time.perf_counter()
    _, _, results = workflow.reassemble_cdi_image(scan, loaded.config, model=loaded.models, keep_patches=False)
    seconds = time.perf_counter() - began
    stitched = results["stitched"]
    return Image(stitched.image, stitched.covered(), stitched.origin_px), {"seconds": round(seconds, 3)}
