"""``ptycho-ray train``."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ptycho_ray.command_line import parse
from ptycho_ray.commands.common import FILE, SCAN, Common, Result, settings_by_source, summary_of_history
from ptycho_ray.config import TrainingConfig
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.files import jsonable, require_file, write_json
from ptycho_ray.settings import Resolved, resolve_config

if TYPE_CHECKING:
    from ptycho_ray.data import RawData


@dataclass(kw_only=True)
class Options(Common):
    """Train a network on the diffraction patterns of a scan, then reconstruct a scan with it.

    No image of the sample is needed: the network learns to explain the measured diffraction. Values come from the
    built-in defaults, the --config file, environment variables such as PTYCHO_RAY_NEPOCHS, and the options typed here;
    later ones win. Where none of these gives N or n_groups, N is that of the file and all positions are used.

    Example: ptycho-ray train scan.npz --nepochs 30 --output-dir model
    """

    train_data_file: Annotated[Path | None, tyro.conf.Positional, SCAN] = None
    """The scan to train on: NPZ, HDF5 or CXI. It may also stand in the --config file."""
    test_data_file: Annotated[Path | None, SCAN] = None
    """Scan to reconstruct after training, if it is not the one trained on."""
    config: Annotated[Path | None, FILE] = None
    """YAML file with settings; configs/train/ has examples."""
    resume: bool = False
    """Go on with a run that was interrupted, from the checkpoint in --output-dir."""


def run(words: Sequence[str]) -> Result:
    typed = parse(Options, words, prog="ptycho-ray train", config_class=TrainingConfig)
    resolved = resolve_config(TrainingConfig, typed.options.config, typed=typed.settings)
    file = resolved.config.train_data_file
    if file is None:
        raise ConfigurationError(field="train_data_file", found="nothing", expected="the scan to train on")
    from ptycho_ray import workflow
    from ptycho_ray.progress import TrainingProgress
    from ptycho_ray.report import provenance
    from ptycho_ray.tracking import build_tracker

    scan = workflow.load_data(
        file, n_subsample=resolved.config.n_subsample, subsample_seed=resolved.config.subsample_seed
    )
    config = fitted_to_scan(resolved, scan)
    test_file = config.test_data_file or file
    test_scan = scan if test_file == file else workflow.load_data(test_file)
    folder, execution = config.output_dir, resolved.execution
    checkpoints = folder / "checkpoints"
    with contextlib.closing(TrainingProgress(config.nepochs, force_bar=execution.enable_progress_bar)) as progress:
        amplitude, phase, results = workflow.run_cdi_example(
            scan,
            test_scan,
            config,
            do_stitching=True,
            execution=execution,
            checkpoint_dir=checkpoints,
            resume_from=require_file(checkpoints / "last.safetensors", "--resume") if typed.options.resume else None,
            callbacks=[progress, *build_tracker(execution, folder)],
            keep_patches=False,
        )
    origin = provenance(seed=config.seed, data_files=sorted({file, test_file}))
    origin["settings_given"] = settings_by_source(resolved)
    bundle = workflow.save_inference_bundle(folder, results, config, origin)
    workflow.save_outputs(amplitude, phase, results, folder)
    result = {
        "model": bundle,
        "image": folder / "reconstruction.npz",
        "report": folder / "report.html",
        "training": summary_of_history(results["history"]),
        "held_out_diffraction": _held_out(results, execution.inference_batch_size or config.batch_size),
    }
    _write_report(result, results, config, origin, test_scan)
    write_json(folder / "result.json", jsonable(result))
    return result


def fitted_to_scan(resolved: Resolved[TrainingConfig], scan: RawData) -> TrainingConfig:
    """The configuration with the scan's N and all its positions, where no source said otherwise."""
    config = resolved.config
    if not resolved.was_given("model.N"):
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, N=scan.N))
    if not (resolved.was_given("n_groups") or resolved.was_given("n_images")):
        config = dataclasses.replace(config, n_groups=len(scan))
    return config


def _held_out(results: dict[str, Any], batch_size: int) -> Result | None:
    from ptycho_ray.reconstruction.inference import diffraction_r_factors

    if results["validation_container"] is None:
        return None
    network, flat = diffraction_r_factors(results["model_instance"], results["validation_container"], batch_size)
    return {
        "r_factor": float(network.mean()),
        "r_factor_of_a_flat_object": float(flat.mean()),
        "patterns": len(network),
    }


def _write_report(
    result: Result, results: dict[str, Any], config: TrainingConfig, origin: dict[str, Any], test_scan: RawData
) -> None:
    from ptycho_ray.plotting import plot_history, plot_object, plot_positions, plot_probe
    from ptycho_ray.report import Section, write_report

    stitched, pixel = results["stitched"], test_scan.pixel_size_m
    probe = results["model_instance"].probe.detach().cpu().numpy()
    settings = dataclasses.asdict(config)
    write_report(
        result["report"],
        title=f"Training on {config.train_data_file}",
        sections=[
            Section(
                "Image",
                f"Reconstruction of {test_scan.source} with the trained network.",
                pictures=[
                    ("Amplitude and phase.", plot_object(stitched.image, region=stitched.covered(), pixel_size_m=pixel))
                ],
            ),
            Section(
                "Training",
                facts={**result["training"], "held_out_diffraction": result["held_out_diffraction"]},
                pictures=[("Loss and learning rate.", plot_history(results["history"]))],
            ),
            Section(
                "Scan",
                pictures=[
                    ("Illumination: brightness is amplitude, colour is phase.", plot_probe(probe, pixel_size_m=pixel)),
                    ("Positions.", plot_positions(test_scan.positions_px, pixel_size_m=pixel)),
                ],
            ),
            Section("Settings", facts={**settings.pop("model"), **settings}, folded=True),
            Section("Where it came from", facts=origin, folded=True),
        ],
    )
