"""``ptycho-ray refine``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ptycho_ray.commands.common import (
    FILE,
    FOLDER,
    SCAN,
    DeviceOptions,
    ReadingOptions,
    Result,
    WorkerOptions,
    solver_settings,
    tell,
)
from ptycho_ray.commands.output import WritingOptions, folder_to_write
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.config.command_line import parse
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.files import atomic_path, digests_in_threads, jsonable, write_json
from ptycho_ray.refinement.config import RefinementConfig

if TYPE_CHECKING:
    from ptycho_ray.reconstruction.stitching import StitchedObject
    from ptycho_ray.refinement.solver import Progress

CHECKPOINT = "refinement.safetensors"


@dataclass(kw_only=True)
class Options(ReadingOptions, WritingOptions, WorkerOptions, DeviceOptions):
    """Refine an image of a scan with an iterative solver: object, probe, positions and other unknowns.

    Example: ptycho-ray refine scan.npz --from flat --probe-modes 2 --position-start 3 --output-dir image
    """

    scan: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan: NPZ, HDF5 or CXI."""
    begin: Annotated[str, tyro.conf.arg(name="from", metavar="MODEL|IMAGE|flat|direct")] = "flat"
    """What to start from: a trained model (its bundle or folder, or 'pretrained', the one shipped with the package), an image
    (a reconstruction.npz or its folder), 'flat', or 'direct', the phase of a weak object in one linear step (4D-STEM)."""
    output_dir: Annotated[Path, FOLDER] = Path("refinement_outputs")
    """Output folder."""
    config: Annotated[Path | None, FILE] = None
    """YAML file with settings of the refinement."""
    resume: bool = False
    """Resume from the checkpoint in the output folder; without one the refinement begins anew."""
    picture_every: int = 0
    """Write a figure of the image to the output folder every N iterations; 0 for never."""
    half_data: bool = False
    """Also refine two halves of the data and report their Fourier ring correlation (takes twice the time)."""
    uncertainty: bool = False
    """Also determine error bars of amplitude and phase at every pixel, and --half-data (takes 3.6 times the time)."""


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
        settings = solver_settings(options.config) | settings
    config = RefinementConfig(**settings)
    if options.picture_every < 0:
        raise ConfigurationError(field="--picture-every", found=options.picture_every, expected="0 or more")
    tell("loading the program")
    import numpy as np

    from ptycho_ray import workflow
    from ptycho_ray.data.raw_data import write_refined
    from ptycho_ray.display.depth import save_depth
    from ptycho_ray.display.figures import plot_object, save_figure
    from ptycho_ray.display.prior_report import save_prior
    from ptycho_ray.display.progress import RefinementProgress
    from ptycho_ray.display.refinement_report import refinement_facts, refinement_section
    from ptycho_ray.display.report import Section, provenance, write_report
    from ptycho_ray.display.scan_section import scan_section
    from ptycho_ray.refinement.solver import Diverged, half_data_agreement
    from ptycho_ray.refinement.tile_files import is_begun
    from ptycho_ray.training.device import resolve_device

    cluster = options.of_cluster()
    if options.split == "tiles" and options.uncertainty:
        raise ConfigurationError(
            field="--uncertainty", found="a scan in tiles", expected="a scan that fits into one process (--split data)"
        )
    execution = ExecutionConfig(accelerator=options.device or "auto")
    device = None if options.workers is not None else resolve_device(execution)
    default = Path(Options.output_dir)
    folder = folder_to_write(
        options.output_dir,
        given=options.output_dir != default,
        overwrite=options.overwrite,
        resume=options.resume,
        inputs=[*options.inputs(options.scan), Path(options.begin)],
    )
    if options.resume and not is_begun(folder / CHECKPOINT):
        tell(f"nothing to resume in {folder}: the refinement begins anew")
    scan = workflow.load_data(options.scan, reading=options.reading)

    def draw(progress: Progress, now: StitchedObject) -> None:
        picture = plot_object(now.image, region=now.covered(), pixel_size_m=scan.pixel_size_m)
        save_figure(picture, folder / f"iteration_{progress.iteration:04d}.png")

    refine: Callable[..., Any] = functools.partial(workflow.refine_cdi_image, device=device)
    digests_of: Callable[..., list[bytes]] = digests_in_threads
    if options.workers is not None:
        from ptycho_ray.cluster.refine import refine_on_cluster
        from ptycho_ray.cluster.whole_scan import digests_on_cluster

        if options.uncertainty:  # replicas of the refinement need the whole scan
            cluster["split"] = "data"
        execution = dataclasses.replace(execution, **cluster)
        refine = functools.partial(refine_on_cluster, execution=execution, tell=tell)
        digests_of = functools.partial(digests_on_cluster, execution, tell)
    start = workflow.starting_image(options.begin, scan)
    with contextlib.closing(RefinementProgress()) as progress:
        found = refine(
            scan, config, start=start, checkpoint=folder / CHECKPOINT, resume=options.resume, on_progress=progress,
            on_image=draw, image_every=options.picture_every,
        )  # fmt: skip
    found.stitched.save(folder / "reconstruction.npz", scan.pixel_size_m)
    refined = write_refined(scan.at(found.positions_px, found.probe), folder)
    parts = {
        "intensity": found.intensity,
        "slices": found.slices if config.slices > 1 else None,
        "background": found.background,
    }
    with atomic_path(folder / "further_unknowns.npz") as temporary:
        np.savez_compressed(temporary, **{name: value for name, value in parts.items() if value is not None})
    halves, bars = None, None
    if options.uncertainty:
        from ptycho_ray.data.inspection import photons_per_unit
        from ptycho_ray.display.uncertainty_report import error_bars_facts, error_bars_section
        from ptycho_ray.refinement.error_bars import error_bars_and_halves
        from ptycho_ray.refinement.solver import Refinement

        finished = Refinement(
            scan, config if found.prior is None else found.prior.settings(config), start=start, device=device
        )
        finished.resume(folder / CHECKPOINT)
        unit, generator = photons_per_unit(scan), np.random.default_rng((config.seed, 7))
        bars = error_bars_and_halves(finished, scan, unit, generator, tell, start=start)
        if bars is not None:
            bars.of(found.stitched).save(folder / "reconstruction.npz", scan.pixel_size_m)
            halves = bars.halves
    elif options.half_data:
        try:
            halves = half_data_agreement(scan, config, found, start=start, device=device)
        except Diverged as error:
            tell(f"no comparison of two halves of the data: {error}")
    origin = provenance(seed=config.seed, data_files=[options.scan], digests_of=digests_of)
    origin |= {"from": options.begin, "settings": dataclasses.asdict(config)}
    result: Result = {
        "image": folder / "reconstruction.npz",
        "refined_scan": refined,
        "report": folder / "report.html",
        "patterns": len(scan),
        **refinement_facts(found),
    }
    if halves is not None:
        result["half_data"] = halves.to_dict()
    if bars is not None:
        result["uncertainty"] = error_bars_facts(bars)
    of_slices, depth = save_depth(found, folder, scan.pixel_size_m)
    files, prior = save_prior(found, folder, scan.pixel_size_m, bars)
    result |= of_slices | files
    picture = plot_object(found.stitched.image, region=found.stitched.covered(), pixel_size_m=scan.pixel_size_m)
    write_report(
        result["report"],
        title=f"Refinement of {options.scan}",
        sections=[
            Section("Image", pictures=[("Amplitude and phase.", picture)]),
            *depth,
            *prior,
            refinement_section(found, halves if bars is None else None),
            *([] if bars is None else [error_bars_section(bars, scan.pixel_size_m)]),
            scan_section(found.probe, found.positions_px, scan.pixel_size_m),
            Section("Provenance", facts=origin, folded=True),
        ],
    )
    write_json(folder / "result.json", jsonable({**result, "provenance": origin}))
    return result
