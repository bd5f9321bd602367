"""``ptycho-ray evaluate``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ptycho_ray.commands.common import FOLDER, IMAGE, SCAN, DeviceOptions, ReadingOptions, Result
from ptycho_ray.commands.output import check_writable
from ptycho_ray.config.command_line import parse
from ptycho_ray.files import jsonable, write_json


@dataclass(kw_only=True)
class Options(ReadingOptions, DeviceOptions):
    """Measure the quality of an image.

    Always: consistency with the diffraction patterns of the scan. If the scan holds the true object: errors of
    amplitude and phase, SSIM and Fourier ring correlation, after fitting a global scale, a phase ramp and a sub-pixel
    shift (ambiguities of diffraction). For the image of an ensemble: whether its standard deviations match the errors.

    Example: ptycho-ray evaluate image scan.npz
    """

    image: Annotated[Path, tyro.conf.Positional, IMAGE]
    """The reconstruction: a folder that train or reconstruct wrote to, or its reconstruction.npz."""
    scan: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan that was reconstructed, with or without ground truth."""
    output_dir: Annotated[Path | None, FOLDER] = None
    """Folder for evaluation.json, pictures and report; that of the image if not given."""
    exact: bool = False
    """The geometry is known exactly: fit no shift."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray evaluate").options
    from ptycho_ray.api.judging import judge
    from ptycho_ray.data import load_data
    from ptycho_ray.display.figures import plot_frc, plot_objects, save_figure
    from ptycho_ray.display.report import Section, provenance, write_report
    from ptycho_ray.display.uncertainty_report import calibration_sections
    from ptycho_ray.reconstruction.images import label_of, read_image

    device = options.resolved_device()
    folder = options.output_dir or (options.image if options.image.is_dir() else options.image.parent)
    check_writable(folder, "output_dir")
    image, scan = read_image(options.image), load_data(options.scan, reading=options.reading)
    pixel = scan.pixel_size_m
    figures, found = judge(options.image, scan, exact=options.exact, device=device)
    result: Result = {"image": options.image, "scan": options.scan, "pixel_size_m": pixel, **figures}
    sections = [Section("Consistency with the data", facts=figures["diffraction"])]
    if found is not None:
        import numpy as np

        pair = {
            "truth": np.where(found.mask, found.truth, np.nan),
            label_of(options.image): np.where(found.mask, found.aligned, np.nan),
        }
        pictures = plot_objects(pair, pixel_size_m=pixel, aligned=True)
        curves = plot_frc(
            found.frc.frequency,
            {
                "complex": found.frc.correlation,
                "amplitude": found.amplitude.frc.correlation,
                "phase": found.phase.frc.correlation,
            },
            half_bit=found.frc.half_bit,
            pixel_size_m=pixel,
        )
        save_figure(pictures, folder / "evaluation_images.png")
        save_figure(curves, folder / "evaluation_frc.png")
        rows = [
            {
                "of": kind,
                **{name: getattr(of, name) for name in ("mae", "psnr", "ssim", "ms_ssim")},
                "frc50": of.frc.frc50,
            }
            for kind, of in (("amplitude", found.amplitude), ("phase", found.phase))
        ]
        sections += [
            Section(
                "Agreement with the ground truth",
                "Phase in radians; frc50 in cycles per pixel, at most 0.5.",
                rows=rows,
            ),
            Section("Ground truth and image", "Aligned, on common colour scales.", pictures=[("", pictures)]),
            Section("Fourier ring correlation", pictures=[("", curves)]),
            *calibration_sections(image, found, result, folder),
            Section("All figures", facts=result["truth"], folded=True),
        ]
    sections.append(Section("Provenance", facts=provenance(data_files=[options.scan]), folded=True))
    result["report"] = write_report(
        folder / "evaluation.html", title=f"Evaluation of {options.image}", sections=sections
    )
    write_json(folder / "evaluation.json", jsonable(result))
    return result


def as_text(result: Mapping[str, Any]) -> Iterator[str]:
    """For people: what the image explains, and its errors with their units; --json and the report have every figure."""
    found = result["diffraction"]
    if "times_noise" in found:
        noise = found["times_noise"]
        said = "as far as the noise allows" if noise < WELL else "in part" if noise < BADLY else "badly"
        yield f"the patterns are explained {said}: {noise:.2f} times the photon noise on {found['patterns']} patterns"
    floor = f", of noise alone {found['r_factor_of_noise']:.4f}" if "r_factor_of_noise" in found else ""
    yield f"R-factor     {found['r_factor']:.4f} (of a flat object {found['r_factor_of_a_flat_object']:.4f}{floor})"
    truth = result.get("truth")
    if truth is None:
        yield "truth        none in the scan: --truth of 'ptycho-ray compare' takes another image as reference"
    else:
        for kind, unit in (("amplitude", ""), ("phase", " rad")):
            of = truth[kind]
            yield f"{kind:12} mean error {of['mae']:.4f}{unit}, SSIM {of['ssim']:.3f}, PSNR {of['psnr']:.1f} dB"
        half = truth["frc"]["frc50_resolution_px"]
        size = result["pixel_size_m"]
        if half is not None:
            length = f"{half:.3g} px" if size is None else f"{half * size * 1e9:.3g} nm"
            yield f"resolution   {length} half period, where the ring correlation with the truth falls to 1/2"
    if "uncertainty" in result or "calibration" in result:
        yield "error bars   judged in the report"
    yield f"report       {result['report']}"


#: Multiples of the photon noise up to which an image explains its patterns, and from which it does not.
WELL, BADLY = 1.5, 3.0
