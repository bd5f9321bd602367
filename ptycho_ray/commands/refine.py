"""``ptycho-ray refine``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ptycho_ray.commands.common import FILE, FOLDER, SCAN, Common, Result
from ptycho_ray.config.command_line import parse
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.files import atomic_path, jsonable, write_json
from ptycho_ray.refinement.config import RefinementConfig

if TYPE_CHECKING:
    from ptycho_ray.data import RawData
    from ptycho_ray.reconstruction.stitching import StitchedObject

FLAT = "flat"
CHECKPOINT = "refinement.safetensors"


@dataclass(kw_only=True)
class Options(Common):
    """Refine an image of a scan with an iterative solver: object, probe, positions and other unknowns.

    Example: ptycho-ray refine scan.npz --from flat --probe-modes 2 --position-start 3 --output-dir image
    """

    scan: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan: NPZ, HDF5 or CXI."""
    begin: Annotated[str, tyro.conf.arg(name="from", metavar="MODEL|IMAGE|flat")] = FLAT
    """Initial image: a trained model (its bundle or folder), an image (a reconstruction.npz or its folder), or 'flat'."""
    output_dir: Annotated[Path, FOLDER] = Path("refinement_outputs")
    """Output folder."""
    config: Annotated[Path | None, FILE] = None
    """YAML file with settings of the refinement."""
    resume: bool = False
    """Resume from the checkpoint in the output folder."""
    picture_every: int = 0
    """Write a figure of the image to the output folder every N iterations; 0 for never."""
    half_data: bool = False
    """Also refine two halves of the data and report their Fourier ring correlation (takes twice the time)."""


def run(words: Sequence[str]) -> Result:
    typed = parse(
        Options,
        words,
        prog="ptycho-ray refine",
        config_class=RefinementConfig,
        with_model=False,
        with_execution=False,
    )
    options = typed.options
    settings = {name: value for name, value in typed.settings.items() if name != "config"}
    if options.config is not None:
        from ptycho_ray.config.sources import load_yaml_config

        settings = load_yaml_config(options.config) | settings
    config = RefinementConfig(**settings)
    import numpy as np

    from ptycho_ray.data import load_data
    from ptycho_ray.display.figures import plot_object, plot_positions, save_figure
    from ptycho_ray.display.progress import RefinementProgress
    from ptycho_ray.display.refinement_report import refinement_facts, refinement_section
    from ptycho_ray.display.report import Section, provenance, write_report
    from ptycho_ray.refinement.solver import Refinement, half_data_agreement

    scan = load_data(options.scan)
    start = starting_image(options.begin, scan)
    folder = options.output_dir
    checkpoint = folder / CHECKPOINT
    refinement = Refinement(scan, config, start=start)
    if options.resume and checkpoint.exists():
        refinement.resume(checkpoint)
    told = RefinementProgress()
    for progress in refinement:
        told(progress)
        if progress.iteration % config.check_every == 0 or progress.iteration == config.iterations:
            refinement.save(checkpoint)
        if options.picture_every and progress.iteration % options.picture_every == 0:
            now = refinement.stitched()
            save_figure(
                plot_object(now.image, region=now.covered(), pixel_size_m=scan.pixel_size_m),
                folder / f"iteration_{progress.iteration:04d}.png",
            )
    told.close()
    found = refinement.result()
    halves = half_data_agreement(scan, config, found, start=start) if options.half_data else None
    found.stitched.save(folder / "reconstruction.npz")
    with atomic_path(folder / "refined_scan.npz") as temporary:
        parts: dict[str, Any] = {
            "probe": found.probe,
            "positions_px": found.positions_px,
            "intensity": found.intensity,
        }
        if config.slices > 1:
            parts["slices"] = found.slices
        if found.background is not None:
            parts["background"] = found.background
        np.savez_compressed(temporary, **parts)
    origin = provenance(seed=config.seed, data_files=[options.scan])
    origin |= {"from": options.begin, "settings": dataclasses.asdict(config)}
    result: Result = {
        "image": folder / "reconstruction.npz",
        "probe_and_positions": folder / "refined_scan.npz",
        "report": folder / "report.html",
        "patterns": len(scan),
        **refinement_facts(found),
    }
    if halves is not None:
        result["half_data"] = halves.to_dict()
    picture = plot_object(found.stitched.image, region=found.stitched.covered(), pixel_size_m=scan.pixel_size_m)
    probe = plot_object(found.probe[0])
    write_report(
        result["report"],
        title=f"Refinement of {options.scan}",
        sections=[
            Section("Image", pictures=[("Amplitude and phase.", picture)]),
            refinement_section(found, halves),
            Section(
                "Probe and positions",
                pictures=[
                    ("The brightest probe mode.", probe),
                    ("Positions.", plot_positions(found.positions_px, pixel_size_m=scan.pixel_size_m)),
                ],
            ),
            Section("Provenance", facts=origin, folded=True),
        ],
    )
    write_json(folder / "result.json", jsonable({**result, "provenance": origin}))
    return result


def starting_image(begin: str, scan: RawData) -> StitchedObject | None:
    """The image that ``begin`` names: None for 'flat', a file's, or what a trained model makes of the scan."""
    if begin == FLAT:
        return None
    from ptycho_ray import workflow
    from ptycho_ray.bundle import load_bundle
    from ptycho_ray.reconstruction.images import find_image, read_image
    from ptycho_ray.reconstruction.stitching import StitchedObject

    place = Path(begin)
    if find_image(place) is not None and not (place / "wts.h5.zip").exists():
        image = read_image(place)
        return StitchedObject(image.pixels, image.region.astype("float32"), image.origin_px)
    if not place.exists() and ":/" not in begin:
        raise ConfigurationError(field="from", found=begin, expected="'flat', a trained model or an image")
    bundle = load_bundle(begin if ":/" in begin else place)
    config = dataclasses.replace(bundle.config, refinement_iterations=0)
    _, _, results = workflow.reassemble_cdi_image(scan, config, model=bundle.model, keep_patches=False)
    stitched: StitchedObject = results["stitched"]
    return stitched
