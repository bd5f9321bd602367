"""``ptycho-ray train``."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
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
    settings_by_source,
)
from ptycho_ray.commands.output import WritingOptions, folder_to_write
from ptycho_ray.commands.scan_list import scans_in
from ptycho_ray.commands.training import Way, settings_of, way_of_training
from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.config.command_line import parse
from ptycho_ray.config.sources import resolve_config
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.files import jsonable, write_json

if TYPE_CHECKING:
    from ptycho_ray.data import RawData
    from ptycho_ray.display.training_report import TrainedScan


@dataclass(kw_only=True)
class Options(ReadingOptions, WritingOptions, DeviceOptions):
    """Train a network on the diffraction patterns of a scan, then reconstruct a scan with it. No image of the sample
    is needed: the network learns to reproduce the measured diffraction. Values come from the built-in defaults, the
    --config file, environment variables such as PTYCHO_RAY_NEPOCHS, and the command line; later ones take
    precedence. If none of these gives N or n_groups, N is taken from the file and all positions are used; if none
    chooses a network, it is the one that docs/networks.md recommends, with 5 epochs.

    With several scans, or a folder of scans, one network is trained on all of them; each scan keeps its own probe and scales.

    Example: ptycho-ray train scan.npz --nepochs 30 --workers 2 --output-dir model
    """

    scans: Annotated[tuple[Path, ...], tyro.conf.Positional, SCAN] = ()
    """The scan to train on (NPZ, HDF5 or CXI), several, or a folder of them. They may also be given in the --config file."""
    test_data_file: Annotated[Path | None, SCAN] = None
    """Scan to reconstruct after training, if not the one trained on."""
    config: Annotated[Path | None, FILE] = None
    """YAML file with settings; configs/train/ has examples."""
    init: Annotated[Path | None, FILE] = None
    """Short for --initial-model: 'pretrained', or the bundle of an earlier training."""
    workers: Annotated[str | None, tyro.conf.arg(metavar="N")] = None
    """Train with N workers on a Ray cluster: on this machine unless execution.address or RAY_ADDRESS name another.
    'auto' uses all available devices; 1:4 continues with the remaining ones of 4 workers when some are lost."""
    ray: bool = False
    """Train on a Ray cluster even with a single worker."""
    ensemble: Annotated[int | None, tyro.conf.arg(metavar="K")] = None
    """Short for --ensemble-members: train K networks, in parallel with --workers; their spread is the uncertainty of
    the image."""
    resume: bool = False
    """Resume an interrupted run from the checkpoint in --output-dir. On a cluster the same command resumes by itself."""
    start_anew: bool = False
    """On a cluster: do not resume an unfinished run that is found there."""
    input: Annotated[Path | None, FOLDER] = None
    """Instead of SCAN: a Ptychodus folder (diffraction.h5, product.h5, settings.ini), or one with train_data.npz.
    See docs/ptychodus.md."""
    output: Annotated[Path | None, FOLDER] = None
    """Folder for model, product and checkpoints; used with --input."""
    event_file: Annotated[Path | None, FILE] = None
    """Write events, one JSON object per line, to this file instead of standard output; used with --input."""


def run(words: Sequence[str]) -> Result:
    typed = parse(Options, words, prog="ptycho-ray train", config_class=TrainingConfig)
    options = typed.options
    if options.input is not None:
        from ptycho_ray.commands.standard_folder import train_folder

        return train_folder(options, typed.settings)
    resolved = resolve_config(TrainingConfig, options.config, typed=typed.settings | settings_of(options))
    files, execution = training_files(resolved.config), resolved.execution
    folder = folder_to_write(
        resolved.config.output_dir,
        given=resolved.was_given("output_dir"),
        overwrite=options.overwrite,
        resume=options.resume,
        inputs=[*options.inputs(*files, resolved.config.test_data_file), resolved.config.initial_model],
    )
    resolved = dataclasses.replace(resolved, config=dataclasses.replace(resolved.config, output_dir=folder))
    way = way_of_training(options, resolved)
    from ptycho_ray import workflow
    from ptycho_ray.api.scans import summary_of_history
    from ptycho_ray.display.progress import TrainingProgress, first_look
    from ptycho_ray.display.report import provenance
    from ptycho_ray.display.training_report import TrainedScan, write_training_report
    from ptycho_ray.tracking import build_trackers, recorded, run_tags
    from ptycho_ray.training.settings_of_scans import fitted_to_scans

    scans = [
        workflow.load_data(
            file,
            n_subsample=resolved.config.n_subsample,
            subsample_seed=resolved.config.subsample_seed,
            reading=options.reading,
        )
        for file in files
    ]
    config = fitted_to_scans(resolved, scans)
    test_file = config.test_data_file
    test_scan = (
        None if test_file is None or test_file in files else workflow.load_data(test_file, reading=options.reading)
    )
    every_file = sorted({*files, *([test_file] if test_file else [])})
    origin = provenance(seed=config.seed, data_files=every_file, digests_of=way.digests_of)
    origin["settings_given"] = settings_by_source(resolved)
    settings = {**dataclasses.asdict(config), "execution": dataclasses.asdict(execution)}
    trackers = build_trackers(execution, folder, settings, run_tags(origin), resume=way.goes_on)
    quicker = first_look(config.nepochs, sum(len(scan) * scan.N**2 for scan in scans))
    with (
        recorded(trackers) as record,
        contextlib.closing(
            TrainingProgress(config.nepochs, first_look=quicker, force_bar=execution.enable_progress_bar)
        ) as progress,
    ):
        how: dict[str, Any] = {"execution": execution, "callbacks": [progress, *trackers]}
        if len(scans) == 1:
            seen = test_scan or scans[0]
            amplitude, phase, results = workflow.run_cdi_example(
                scans[0],
                seen,
                config,
                do_stitching=True,
                keep_patches=False,
                train=way.train,
                reassemble=way.reassemble,
                **how,
            )
            images = [TrainedScan("", seen, amplitude, phase, results)]
        else:
            results = way.train(scans, None, config, keep_patches=False, **how)
            images = list(_image_of_each(results, scans, test_scan, config, execution, way))
        bundle = workflow.save_inference_bundle(folder, results, config, origin)
        for image in images:
            if image.name:
                workflow.save_inference_bundle(folder / image.name, image.results, config, origin)
            workflow.save_outputs(image.amplitude, image.phase, image.results, folder / image.name)
        result: Result = {
            "model": bundle,
            "image": folder / images[0].name / "reconstruction.npz",
            "report": folder / "report.html",
            "training": summary_of_history(results["history"]) | _warnings(results),
            **_held_out_figures(results, execution.inference_batch_size or config.batch_size),
        }
        if config.ensemble_members > 1:
            from ptycho_ray.display.uncertainty_report import uncertainty_facts

            result["uncertainty"] = uncertainty_facts(images[0].results["stitched"], config.ensemble_members)
        write_training_report(result, images, results, config, origin)
        record.bundle, record.files = bundle, [result["report"], result["image"]]
    result |= record.facts
    write_json(folder / "result.json", jsonable(result))
    return result


def training_files(config: TrainingConfig) -> list[Path]:
    """The scans to train on; a folder stands for all scans in it."""
    if config.train_data_file is None:
        raise ConfigurationError(
            field="train_data_file",
            found="nothing",
            expected="the scan to train on",
            hint="Type: ptycho-ray train SCAN, or train_data_file in the --config file",
        )
    files: list[Path] = []
    for place in (config.train_data_file, *config.further_train_data_files):
        files += scans_in(place, "train_data_file") if place.is_dir() else [place]
    return files


def _image_of_each(
    results: Result,
    scans: Sequence[RawData],
    test_scan: RawData | None,
    config: TrainingConfig,
    execution: ExecutionConfig,
    way: Way,
) -> Iterator[TrainedScan]:
    """Every scan reconstructed with the shared network inside its own physics; last the test scan, if there is one."""
    from ptycho_ray import workflow
    from ptycho_ray.display.training_report import TrainedScan

    ensembles = results.get("ensembles") or {name: [model] for name, model in results["models"].items()}
    triples = [(name, models, scan) for (name, models), scan in zip(ensembles.items(), scans, strict=True)]
    if test_scan is not None:
        first = next(iter(ensembles.values()))
        models = [workflow.model_for_scan(model, test_scan, config) for model in first]
        triples.append((f"test-{Path(test_scan.source).stem}", models, test_scan))
    for name, models, scan in triples:
        amplitude, phase, stitched = way.reassemble(scan, config, model=models, execution=execution, keep_patches=False)
        of_scan = {**stitched, "model_instance": models[0], "ensemble": models}
        yield TrainedScan(name, scan, amplitude, phase, results | of_scan)


def _warnings(results: Result) -> Result:
    """What the training has warned of, if it has."""
    return {"warnings": results["warnings"]} if results["warnings"] else {}


def _held_out_figures(results: Result, batch_size: int) -> Result:
    """How well the patterns that were kept out of training are explained, for one scan or in a line for each."""
    from ptycho_ray.reconstruction.inference import diffraction_r_factors

    rows = []
    for name, container in results["validation_containers"].items():
        if container is None:
            rows.append({"scan": name})
            continue
        network, flat = diffraction_r_factors(results["models"][name], container, batch_size)
        figures = {"r_factor": float(network.mean()), "r_factor_of_a_flat_object": float(flat.mean())}
        rows.append({"scan": name, **figures, "patterns": len(network)})
    if len(rows) > 1:
        return {"scans": rows}
    rows[0].pop("scan")
    return {"held_out_diffraction": rows[0] or None}
