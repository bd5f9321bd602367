"""``ptycho-ray compare``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.command_line import parse
from ptycho_ray.commands.common import FOLDER, IMAGE, SCAN, Common, Result
from ptycho_ray.errors import InputError
from ptycho_ray.files import jsonable, write_json


@dataclass(kw_only=True)
class Options(Common):
    """Put images of the same sample side by side, on common colour scales, with their figures in one table.

    They are compared with the true object of --truth or, without one, with the first image.

    Example: ptycho-ray compare image1 image2 --truth scan.npz --output-dir comparison
    """

    images: Annotated[tuple[Path, ...], tyro.conf.Positional, IMAGE]
    """Two or more reconstructions (one is enough with --truth): folders or reconstruction.npz files."""
    truth: Annotated[Path | None, SCAN] = None
    """A scan that holds the true object, or a reconstruction to be taken for the truth."""
    output_dir: Annotated[Path, FOLDER] = Path("comparison")
    """Where comparison.json, pictures and report go."""
    exact: bool = False
    """The geometry is known exactly: do not fit a shift."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray compare").options
    paths = list(options.images)
    reference = options.truth if options.truth is not None else (paths.pop(0) if paths else None)
    if reference is None or not paths:
        raise InputError(field="IMAGE", found=f"{len(options.images)} images", expected="two, or one and --truth")
    import numpy as np

    from ptycho_ray.commands.images import label_of, read_image
    from ptycho_ray.evaluation import evaluate_reconstruction
    from ptycho_ray.plotting import plot_frc, plot_objects, save_figure
    from ptycho_ray.report import Section, provenance, write_report

    truth = read_image(reference)
    rows, pictures, curves = [], {}, {}
    for path in paths:
        image, name = read_image(path), label_of(path)
        name = name if name not in pictures else str(path)
        origin = (image.origin_px[0] - truth.origin_px[0], image.origin_px[1] - truth.origin_px[1])
        found = evaluate_reconstruction(
            image.pixels, truth.pixels, origin_px=origin, region=image.region, register=not options.exact
        )
        pictures[name] = np.where(found.mask, found.aligned, np.nan)
        curves[name] = found.frc
        rows.append(
            {
                "image": name,
                "amplitude_mae": found.amplitude.mae,
                "phase_mae": found.phase.mae,
                "amplitude_psnr": found.amplitude.psnr,
                "phase_psnr": found.phase.psnr,
                "amplitude_ssim": found.amplitude.ssim,
                "phase_ssim": found.phase.ssim,
                "complex_nrmse": found.complex_nrmse,
                "frc50": found.frc.frc50,
            }
        )
    side_by_side = plot_objects({label_of(reference): np.where(truth.region, truth.pixels, np.nan), **pictures})
    frequencies = next(iter(curves.values())).frequency
    frc = plot_frc(frequencies, {n: np.interp(frequencies, c.frequency, c.correlation) for n, c in curves.items()})
    folder = options.output_dir
    save_figure(side_by_side, folder / "comparison_images.png")
    save_figure(frc, folder / "comparison_frc.png")
    report = write_report(
        folder / "comparison.html",
        title=f"Comparison with {reference}",
        sections=[
            Section("Figures", rows=rows, text="Phase in radians; FRC50 in cycles per pixel, at most 0.5."),
            Section("Images", pictures=[("On common colour scales, each aligned with the first.", side_by_side)]),
            Section("Fourier ring correlation", pictures=[("", frc)]),
            Section("Where it came from", facts=provenance(), folded=True),
        ],
    )
    result = {"reference": reference, "images": rows, "report": report}
    write_json(folder / "comparison.json", jsonable(result))
    return result
