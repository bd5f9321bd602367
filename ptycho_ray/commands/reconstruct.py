"""``ptycho-ray reconstruct``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray import __version__
from ptycho_ray.commands.automatic import (
    SECTION,
    AutomaticOptions,
    asks_for_network,
    own_options,
    reconstruct_automatically,
    refinement_settings,
    refuse_without_network,
    section_of,
)
from ptycho_ray.commands.common import (
    FILE,
    FOLDER,
    SCAN,
    DeviceOptions,
    ProductOptions,
    Result,
    WorkerOptions,
    settings_by_source,
)
from ptycho_ray.commands.output import WritingOptions, file_to_write, folder_to_write
from ptycho_ray.config import InferenceConfig
from ptycho_ray.config.command_line import parse
from ptycho_ray.config.sources import resolve_config
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.files import atomic_path, jsonable, write_json
from ptycho_ray.refinement.config import RefinementConfig

# Settings of a reconstruction that replace those the model was trained with.
_GROUPING = ("neighbor_count", "enable_oversampling", "neighbor_pool_size")


@dataclass(kw_only=True)
class Options(ProductOptions, WritingOptions, AutomaticOptions, WorkerOptions, DeviceOptions):
    """Reconstruct a scan: what is unknown about it is decided by its patterns, then it is solved and judged. Settings of the
    solver that are given (--refinement.*) are kept and not decided. With --model-path, by a trained network: one forward
    pass, then stitching; with --refine, settings of the solver are those of the refinement.

    Example: ptycho-ray reconstruct scan.npz --refinement.probe-modes 2 --output-dir image
    """

    test_data_file: Annotated[Path | None, tyro.conf.Positional, SCAN] = None
    """The scan: NPZ, HDF5 or CXI."""
    model_path: Annotated[Path | None, FILE] = None
    """Use a trained network: wts.h5.zip, the folder that train wrote to, or 'pretrained' for the one shipped with the package
    (docs/networks.md). If neither this nor a setting of a network is given, no network is used (docs/automatic.md)."""
    plan: bool = False
    """Without a model: only decide, show what was decided and all trials, and end."""
    explain: bool = False
    """Without a model: also show all trials, with the reason for each choice."""
    config: Annotated[Path | None, FILE] = None
    """YAML file with settings."""
    refine: int | None = None
    """Short for --refinement-iterations."""
    input: Annotated[Path | None, FOLDER] = None
    """Instead of SCAN: a Ptychodus folder (diffraction.h5, product.h5, settings.ini, model.wts.h5.zip). See
    docs/ptychodus.md."""
    output: Annotated[Path | None, FOLDER] = None
    """Folder for the product; used with --input."""
    event_file: Annotated[Path | None, FILE] = None
    """Write events, one JSON object per line, to this file instead of standard output; used with --input."""


def run(words: Sequence[str]) -> Result:
    typed = parse(
        Options,
        words,
        prog="ptycho-ray reconstruct",
        config_class=InferenceConfig,
        with_model=False,
        sections={SECTION: RefinementConfig},
    )
    options = typed.options
    solver, given = section_of(typed)
    if options.input is not None:
        from ptycho_ray.commands.standard_folder import reconstruct_folder

        return reconstruct_folder(options, given, solver)
    inputs = options.inputs(options.test_data_file)
    if options.product is not None:
        file_to_write(options.product, overwrite=options.overwrite, inputs=inputs, field="product")
    network = asks_for_network(options, given)
    if network is None:
        if options.test_data_file is None:
            raise InputError(
                field="test_data_file", found="nothing", expected="a scan: ptycho-ray reconstruct scan.npz"
            )
        folder = Path(given.get("output_dir", InferenceConfig.output_dir))
        if not options.plan:  # which writes nothing
            folder = folder_to_write(folder, given="output_dir" in given, overwrite=options.overwrite, inputs=inputs)
        return reconstruct_automatically(
            options.test_data_file,
            folder,
            options.wishes(solver),
            only_plan=options.plan,
            explain=options.explain,
            product=options,
            workers=options,
            accelerator=given.get("execution.accelerator", "auto"),
        )
    refuse_without_network(own_options(options), network)
    if options.of_cluster():
        raise ConfigurationError(
            "the image of a network is made in one process, or in shards",
            field="--workers",
            found=f"given together with {network}",
            expected="one of the two",
            hint="ptycho-ray reconstruct-scans SCAN --model-path MODEL --workers N makes it in shards, on several workers",
        )
    if options.refine is not None:
        given.setdefault("refinement_iterations", options.refine)
    resolved = resolve_config(InferenceConfig, options.config, typed=given, with_model=False)
    settings, execution = resolved.config, resolved.execution
    folder = folder_to_write(
        settings.output_dir,
        given=resolved.was_given("output_dir"),
        overwrite=options.overwrite,
        inputs=options.inputs(settings.test_data_file),
    )
    import numpy as np

    from ptycho_ray import workflow
    from ptycho_ray.bundle import load_bundle
    from ptycho_ray.display.figures import plot_object
    from ptycho_ray.display.progress import BatchProgress, RefinementProgress
    from ptycho_ray.display.report import Section, provenance, write_report
    from ptycho_ray.display.scan_section import scan_section
    from ptycho_ray.training.device import resolve_device

    device = resolve_device(execution)
    bundle = load_bundle(settings.model_path)
    for model in bundle.models:
        model.to(device)
    chosen = {name: getattr(settings, name) for name in _GROUPING if resolved.was_given(name)}
    chosen["refinement_iterations"] = settings.refinement_iterations
    config = dataclasses.replace(bundle.config, output_dir=folder, **chosen)
    scan = workflow.load_data(
        settings.test_data_file,
        n_images=settings.n_groups,
        n_subsample=settings.n_subsample,
        subsample_seed=settings.subsample_seed,
        reading=options.reading,
    )
    amplitude, phase, results = workflow.reassemble_cdi_image(
        scan,
        config,
        model=bundle.models,
        execution=execution,
        refinement=refinement_settings(solver, settings.refinement_iterations, config.seed),
        keep_patches=settings.debug,
        on_batch=BatchProgress("reconstructing", force_bar=execution.enable_progress_bar),
        on_refinement=RefinementProgress(force_bar=execution.enable_progress_bar),
    )
    workflow.save_outputs(amplitude, phase, results, folder)
    if settings.debug:
        with atomic_path(folder / "patches.npz") as temporary:
            np.savez(temporary, **{name: results[name] for name in ("obj_tensor_full", "global_offsets")})
    stitched = results["stitched"]
    origin = provenance(seed=config.seed, data_files=[settings.test_data_file])
    origin |= {"model": str(settings.model_path), "settings_given": settings_by_source(resolved)}
    result: Result = {
        "image": folder / "reconstruction.npz",
        "report": folder / "report.html",
        "patterns": len(scan),
        "shape": list(stitched.image.shape),
        "origin_px": list(stitched.origin_px),
        "pixel_size_m": scan.pixel_size_m,
    }
    sections = []
    probe, positions = results["probe"], scan.positions_px
    if "refinement" in results:
        from ptycho_ray.display.refinement_report import refinement_facts, refinement_section

        result["refinement"] = refinement_facts(results["refinement"])
        sections.append(refinement_section(results["refinement"]))
        probe, positions = results["refinement"].probe, results["refinement"].positions_px
    if bundle.ensemble_members:
        from ptycho_ray.display.uncertainty_report import uncertainty_facts, uncertainty_section

        result["uncertainty"] = uncertainty_facts(stitched, len(bundle.models))
        sections.append(uncertainty_section(stitched, len(bundle.models), scan.pixel_size_m))
    if options.product is not None:
        remark = f"Reconstructed by ptycho_ray {__version__} with {settings.model_path}."
        result["product"] = options.write_product(scan, stitched.image, stitched.origin_px, remark)
    picture = plot_object(stitched.image, region=stitched.covered(), pixel_size_m=scan.pixel_size_m)
    write_report(
        result["report"],
        title=f"Reconstruction of {settings.test_data_file}",
        sections=[
            Section("Image", pictures=[("Amplitude and phase.", picture)], facts={"patterns": len(scan)}),
            *sections,
            scan_section(probe, positions, scan.pixel_size_m),
            Section("Provenance", facts=origin, folded=True),
            Section("Training of the model", facts=bundle.provenance, folded=True),
        ],
    )
    write_json(folder / "result.json", jsonable({**result, "provenance": origin}))
    return result
