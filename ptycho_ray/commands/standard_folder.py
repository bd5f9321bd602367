"""``ptycho-ray train|reconstruct --input DIR --output DIR``: a Ptychodus folder in, a Ptychodus folder out.

A training folder may hold ``train_data.npz`` instead, or one NPZ file of another name, as our Ptychodus library exports
it.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_ray import __version__
from ptycho_ray.bundle import FILE_NAME, PTYCHODUS_FILE_NAME
from ptycho_ray.commands.automatic import asks_for_network, own_options, refinement_settings, refuse_without_network
from ptycho_ray.commands.common import Result, settings_by_source
from ptycho_ray.commands.output import RESULTS, folder_to_write, keep_inputs
from ptycho_ray.commands.training import settings_of, way_of_training
from ptycho_ray.config import ExecutionConfig, InferenceConfig, TrainingConfig
from ptycho_ray.config.sources import Resolved, resolve_config, setting_names
from ptycho_ray.data.formats.ptychodus_folder import read_standard_folder, reconstructed, with_positions
from ptycho_ray.data.formats.ptychodus_product import DIFFRACTION_FILE, PRODUCT_FILE, Product, write_product
from ptycho_ray.errors import ConfigurationError, MissingFileError, to_type
from ptycho_ray.files import jsonable, write_json
from ptycho_ray.interop.ptychodus.events import EventStream, event_stream
from ptycho_ray.interop.ptychodus.options import (
    CHECKPOINT_INTERVAL,
    CONFIG_FILE,
    RECORD_IMAGES,
    SETTINGS_FILE,
    SOLVER,
    read_ini,
    solver_settings,
)
from ptycho_ray.refinement.config import RefinementConfig

if TYPE_CHECKING:
    import torch

    from ptycho_ray.commands import reconstruct, train
    from ptycho_ray.data import RawData
    from ptycho_ray.reconstruction.stitching import StitchedObject

TRAIN_DATA = "train_data.npz"


def train_folder(options: train.Options, typed: Mapping[str, Any]) -> Result:
    """Train on the scan of a folder; writes the model and, from the standard layout, the product and its checkpoints."""
    keep_inputs(options.event_file, _files(options.input), "event_file")
    with event_stream(options.event_file) as events:
        folder, output = _folders(options, "train", resume=options.resume)
        from ptycho_ray.training.settings_of_scans import fitted_to_scans

        scan, product = _training_scan(folder)
        given = {**settings_of(options), **typed, "output_dir": output, "train_data_file": Path(scan.source)}
        resolved = _resolved(TrainingConfig, folder, options.config, given)
        config, execution = fitted_to_scans(resolved, [scan]), resolved.execution
        way = way_of_training(options, dataclasses.replace(resolved, config=config))
        from ptycho_ray import workflow
        from ptycho_ray.display.progress import TrainingProgress
        from ptycho_ray.display.report import provenance
        from ptycho_ray.tracking import build_trackers, recorded, run_tags

        origin = provenance(seed=config.seed, data_files=_files(folder))
        origin["settings_given"] = settings_by_source(resolved)
        follower = TrainingEvents(events, config.nepochs, output, product, scan)
        events.emit(
            "started",
            **_identity("train", scan),
            num_epochs=config.nepochs,
            model_output=output / PTYCHODUS_FILE_NAME,
            product_output=output / PRODUCT_FILE if product else None,
        )
        settings = {**dataclasses.asdict(config), "execution": dataclasses.asdict(execution)}
        trackers = build_trackers(execution, output, settings, run_tags(origin), resume=way.goes_on)
        with recorded(trackers) as record:
            progress = TrainingProgress(config.nepochs, force_bar=execution.enable_progress_bar)
            amplitude, phase, results = workflow.run_cdi_example(
                scan,
                scan,
                config,
                do_stitching=True,
                execution=execution,
                keep_patches=False,
                train=way.train,
                reassemble=way.reassemble,
                callbacks=[progress, follower, *trackers],
            )
            progress.close()
            model = workflow.save_inference_bundle(output / PTYCHODUS_FILE_NAME, results, config, origin)
            workflow.save_outputs(amplitude, phase, results, output)
            record.bundle, record.files = model, [output / "reconstruction.npz"]
        history = results["history"]
        from ptycho_ray.api.scans import summary_of_history

        result: Result = {"model": model, "training": summary_of_history(history)}
        if product is not None:
            remark = f"ptycho_ray {__version__}: network trained on this scan, {len(history['loss'])} epochs."
            probe = results["model_instance"].probe.detach().cpu().numpy()
            result["product"] = _write(
                output / PRODUCT_FILE, product, results["stitched"], probe, history["loss"], remark
            )
        write_json(output / "result.json", jsonable({**result, "provenance": origin}))
        events.emit(
            "finished", epoch=len(history["loss"]), cancelled=False, path=result.get("product"), model=result["model"]
        )
    return result if options.event_file else {}  # standard output has the events and nothing else


def reconstruct_folder(options: reconstruct.Options, typed: Mapping[str, Any], solver: Mapping[str, Any]) -> Result:
    """Reconstruct the scan of a folder with a trained model: that of ``--model-path``, or the one in the folder. If there is
    none and nothing of a network is asked for, automatically; ``solver`` are settings of the solver that were given."""
    keep_inputs(options.event_file, _files(options.input), "event_file")
    with event_stream(options.event_file) as events:
        folder, output = _folders(options, "reconstruct")
        scan, product = read_standard_folder(folder)
        from ptycho_ray.training.device import resolve_device

        network = asks_for_network(options, typed) or next(
            (name for name in (PTYCHODUS_FILE_NAME, FILE_NAME) if (folder / name).exists()), None
        )
        if network is None:
            device = resolve_device(ExecutionConfig(accelerator=typed.get("execution.accelerator", "auto")))
            return _reconstruct_automatically(options, scan, product, solver, output, events, device)
        refuse_without_network(own_options(options), network)
        given = {"model_path": folder, **typed, "test_data_file": Path(scan.source), "output_dir": output}
        if options.refine is not None:
            given.setdefault("refinement_iterations", options.refine)
        resolved = _resolved(InferenceConfig, folder, options.config, given)
        from ptycho_ray import workflow
        from ptycho_ray.bundle import load_bundle
        from ptycho_ray.display.report import provenance

        device = resolve_device(resolved.execution)
        bundle = load_bundle(resolved.config.model_path)
        for model in bundle.models:
            model.to(device)
        iterations = resolved.config.refinement_iterations
        epochs = max(1, iterations)
        events.emit(
            "started", **_identity("reconstruct", scan), num_epochs=epochs, product_output=output / PRODUCT_FILE
        )
        amplitude, phase, results = workflow.reassemble_cdi_image(
            scan,
            dataclasses.replace(bundle.config, output_dir=output, refinement_iterations=iterations),
            model=bundle.models,
            execution=resolved.execution,
            keep_patches=False,
            refinement=refinement_settings(solver, iterations, bundle.config.seed),
            on_batch=ProgressEvents(events),
            on_refinement=lambda now: events.emit("epoch", epoch=now.iteration, num_epochs=epochs, loss=now.loss),
        )
        workflow.save_outputs(amplitude, phase, results, output)
        origin = provenance(seed=bundle.config.seed, data_files=_files(folder))
        origin["model"] = str(resolved.config.model_path)
        remark = f"ptycho_ray {__version__}: one pass of the network {resolved.config.model_path}"
        result: Result = {"product": output / PRODUCT_FILE, "patterns": len(scan)}
        probe: np.ndarray = scan.probe
        losses: list[float] = []
        if "refinement" in results:
            from ptycho_ray.display.refinement_report import refinement_facts

            found = results["refinement"]
            result["refinement"] = refinement_facts(found)
            probe, losses = found.probe, [progress.loss for progress in found.history]
            remark += f", refined by {len(losses)} iterations"
        _write(result["product"], product, results["stitched"], probe, losses, f"{remark}.")
        write_json(output / "result.json", jsonable({**result, "provenance": origin}))
        events.emit("finished", epoch=epochs, cancelled=False, path=result["product"], model=resolved.config.model_path)
    return result if options.event_file else {}


def _reconstruct_automatically(
    options: reconstruct.Options,
    scan: RawData,
    product: Product,
    solver: Mapping[str, Any],
    output: Path,
    events: EventStream,
    device: torch.device,
) -> Result:
    from ptycho_ray import workflow
    from ptycho_ray.display.automatic_report import save_automatic
    from ptycho_ray.display.report import provenance

    assert options.input is not None
    name = next((name for name in ("plan", "explain", "workers") if getattr(options, name)), None)
    if name is not None:
        raise ConfigurationError(
            field=f"--{name}", found="given together with --input", expected="ptycho-ray reconstruct SCAN"
        )
    ini = read_ini(options.input / SETTINGS_FILE)
    seed = ini.get("seed", 0) if options.seed is None else options.seed
    settings = {**solver_settings(ini.get(SOLVER)), **solver}
    RefinementConfig(**settings)
    iterations = 1

    def follow(now: Any) -> None:
        nonlocal iterations
        iterations = now.iterations
        events.emit("epoch", epoch=now.iteration, num_epochs=iterations, loss=now.loss)

    events.emit(
        "started", **_identity("reconstruct", scan), num_epochs=iterations, product_output=output / PRODUCT_FILE
    )
    made = workflow.reconstruct_scan(
        scan,
        tell=lambda line: events.emit("decided", text=line),
        on_progress=follow,
        device=device,
        **options.wishes(settings) | {"seed": seed},
    )
    found = made.refinement
    moved = with_positions(product, made.scan.scan_index, found.positions_px, scan.N)
    remark = f"ptycho_ray {__version__}, automatic: {made.verdict.sentence}."
    losses = [progress.loss for progress in found.history]
    _write(output / PRODUCT_FILE, moved, found.stitched, found.probe, losses, remark)
    more = {"product": output / PRODUCT_FILE}
    origin = provenance(seed=seed, data_files=_files(options.input))
    result = save_automatic(made, output, str(options.input), origin, more)
    events.emit("finished", epoch=iterations, cancelled=False, path=more["product"], verdict=made.verdict.sentence)
    return result if options.event_file else {}


class TrainingEvents:
    """Reports epochs and writes intermediate images as ``product.NNNNNN.h5`` (a ``Callback`` of the training loop)."""

    def __init__(
        self, events: EventStream, n_epochs: int, output: Path, product: Product | None, scan: RawData
    ) -> None:
        self.events, self.n_epochs, self.output, self.product, self.scan = events, n_epochs, output, product, scan
        self.losses: list[float] = []

    def on_step(self, progress: Any, figures: dict[str, float], steps_in_epoch: int) -> None:
        """Does nothing: only epochs are reported."""

    def on_epoch(self, progress: Any, figures: dict[str, float], model: Any) -> None:
        self.losses = progress.history["loss"]
        event = {name: figures[name] for name in ("loss", "val_loss", "learning_rate") if name in figures}
        self.events.emit("epoch", epoch=progress.epoch, num_epochs=self.n_epochs, **event)

    def on_image(self, progress: Any, stitched: StitchedObject) -> None:
        if self.product is None:
            return
        path = self.output / f"product.{progress.epoch:06d}.h5"
        remark = f"ptycho_ray {__version__}: a checkpoint after epoch {progress.epoch}."
        _write(path, self.product, stitched, self.scan.probe, progress.history["loss"], remark)
        self.events.emit("checkpoint", epoch=progress.epoch, path=path)


def _folders(options: reconstruct.Options | train.Options, command: str, *, resume: bool = False) -> tuple[Path, Path]:
    """The folders to read and to write. InputError as for every command that writes, and for options of reading, which the
    files of Ptychodus leave no use for."""
    folder, output = options.input, options.output
    assert folder is not None
    if options.reading.chosen():
        words = options.reading.words()
        raise ConfigurationError(
            field="--input",
            found=f"given together with {' '.join(words)}",
            expected="a folder whose files are read as they are",
            hint=to_type(folder / DIFFRACTION_FILE, *words, program=command),
        )
    if not folder.is_dir():
        raise MissingFileError(file=folder, field="--input", found="no folder", expected="a Ptychodus folder")
    if output is None or output.resolve() == folder.resolve():
        raise ConfigurationError(
            field="--output", found=output or "nothing", expected="a folder for the results other than --input"
        )
    results = (*RESULTS, PRODUCT_FILE, PTYCHODUS_FILE_NAME)
    folder_to_write(output, given=True, overwrite=options.overwrite, resume=resume, field="--output", results=results)
    output.mkdir(parents=True, exist_ok=True)
    return folder, output


def _training_scan(folder: Path) -> tuple[RawData, Product | None]:
    exported = [folder / TRAIN_DATA] if (folder / TRAIN_DATA).is_file() else sorted(folder.glob("*.npz"))
    if exported and not (folder / DIFFRACTION_FILE).is_file():
        from ptycho_ray.data import load_data

        if len(exported) > 1:
            raise MissingFileError(
                file=folder, found=f"{len(exported)} NPZ files", expected=f"{TRAIN_DATA}, or one file"
            )
        return load_data(exported[0]), None
    return read_standard_folder(folder)


def _files(folder: Path | None) -> list[Path]:
    assert folder is not None
    names = (DIFFRACTION_FILE, PRODUCT_FILE, SETTINGS_FILE, TRAIN_DATA)
    return [folder / name for name in names if (folder / name).is_file()]


def _resolved(cls: Any, folder: Path, yaml_path: Path | None, typed: Mapping[str, Any]) -> Resolved[Any]:
    """All settings; those of ``settings.ini`` that this kind of work does not have are left out."""
    ini = {RECORD_IMAGES: CHECKPOINT_INTERVAL, **read_ini(folder / SETTINGS_FILE)}
    further = ini.pop(CONFIG_FILE, None)
    known = setting_names(cls)
    with_model = cls is TrainingConfig
    wanted = {name: value for name, value in ini.items() if name in known and not _of_others(name, with_model)}
    return resolve_config(
        cls,
        yaml_path or further,
        typed=typed,
        with_model=with_model,
        host=wanted,
        host_name=str(folder / SETTINGS_FILE),
    )


def _of_others(setting: str, training: bool) -> bool:
    """Settings that only apply to training."""
    return not training and setting.startswith(("model.", "execution.devices", "execution.recon_log"))


def _identity(action: str, scan: RawData) -> dict[str, Any]:
    return {"pid": os.getpid(), "action": action, "version": __version__, "num_patterns": len(scan), "N": scan.N}


class ProgressEvents:
    """Reports, at most twice a second, how many groups are done (the ``on_batch`` of a reconstruction)."""

    def __init__(self, events: EventStream) -> None:
        self.events, self.told = events, 0.0

    def __call__(self, done: int, total: int) -> None:
        if done == total or time.monotonic() - self.told > 0.5:
            self.told = time.monotonic()
            self.events.emit("progress", done=done, total=total)


def _write(
    path: Path, product: Product, stitched: StitchedObject, probe: np.ndarray, losses: Sequence[float], remark: str
) -> Path:
    write_product(path, reconstructed(product, stitched.image, stitched.origin_px, probe, losses, remark))
    return path
