"""The one workflow: from a measured scan to an image, in the steps and under the names of PtychoPINN's chain::

    setup_configuration -> load_data -> create_ptycho_data_container -> train_cdi_model
                        -> reassemble_cdi_image -> save_outputs
    run_cdi_example = train_cdi_model + reassemble_cdi_image

``docs/callchain.md`` has the TensorFlow counterpart of each. What we add is keyword-only; no state is kept between calls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ptycho_ray.automatic.reconstruct import plan_reconstruction, reconstruct_scan
from ptycho_ray.bundle import Bundle
from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.config.command_line import parse_arguments
from ptycho_ray.config.legacy import dataclass_to_legacy_dict, update_legacy_dict
from ptycho_ray.config.sources import load_yaml_config, setup_configuration
from ptycho_ray.data import PtychoDataContainer, RawData, calculate_intensity_scale, load_data
from ptycho_ray.data.groups import create_ptycho_data_container
from ptycho_ray.display.outputs import save_outputs
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.transfer import groups_to_reconstruct, model_for_groups, model_for_scan, physical_probe
from ptycho_ray.reconstruction.ensemble import mean_of_members
from ptycho_ray.reconstruction.inference import (
    groups_at_once,
    load_inference_bundle,
    load_inference_bundle_with_backend,
    predict_all,
    reconstruct,
)
from ptycho_ray.reconstruction.named_start import named_start
from ptycho_ray.reconstruction.recorder import ImageRecorder
from ptycho_ray.reconstruction.stitching import StitchedObject, reassemble_position
from ptycho_ray.refinement.solver import Progress, RefinementConfig, RefinementResult, refine
from ptycho_ray.training.checkpoint import CheckpointStore, FolderCheckpoints
from ptycho_ray.training.device import refuse_unavailable
from ptycho_ray.training.ensemble import train_members
from ptycho_ray.training.finish import Results, finish_training, save_inference_bundle, training_results
from ptycho_ray.training.health import WarningLogger
from ptycho_ray.training.loop import Callback, Trainer
from ptycho_ray.training.parallel import DataParallel
from ptycho_ray.training.scan_source import ScanSource
from ptycho_ray.training.scan_training import Scan, scans_to_train

__all__ = [
    "calculate_intensity_scale",
    "create_ptycho_data_container",
    "dataclass_to_legacy_dict",
    "groups_to_reconstruct",
    "load_data",
    "load_inference_bundle",
    "load_inference_bundle_with_backend",
    "load_yaml_config",
    "model_for_groups",
    "model_for_scan",
    "parse_arguments",
    "physical_probe",
    "plan_reconstruction",
    "reassemble_cdi_image",
    "reconstruct_scan",
    "refine_cdi_image",
    "run_cdi_example",
    "save_inference_bundle",
    "save_outputs",
    "scans_to_train",
    "setup_configuration",
    "starting_image",
    "train_cdi_model",
    "update_legacy_dict",
]

#: A trained model, or those of an ensemble.
Models = PhysicsInformedModel | Sequence[PhysicsInformedModel]
#: What a refinement can start from; a string or a path names an image or a trained model, 'flat' stands for None.
Start = StitchedObject | Bundle | PhysicsInformedModel | Sequence[PhysicsInformedModel] | str | Path | None
Stitch = Literal["probe", "crop"]


def train_cdi_model(
    train_data: Scan | Sequence[Scan],
    test_data: Scan | None,
    config: TrainingConfig,
    *,
    execution: ExecutionConfig | None = None,
    initial: PhysicsInformedModel | None = None,
    resume_from: Path | None = None,
    checkpoint_dir: Path | None = None,
    checkpoints: CheckpointStore | None = None,
    parallel: DataParallel | None = None,
    callbacks: Sequence[Callback] = (),
    keep_patches: bool = True,
) -> Results:
    """Train a model on the diffraction of one scan alone, or of several, and predict the patches of another.

    Several scans share one network; each keeps its own probe and scales.

    Args:
        train_data, test_data: scans or groups; the test set is reconstructed with the (first) training set's normalisation,
            by a network that sees the probe with the test set's own probe and normalisation.
        execution: device, precision, learning rate, checkpoints.
        initial: a model to start from instead of random weights; it is trained in place.
        resume_from: a checkpoint of this very run, of an ensemble the folder of its checkpoints; training continues as
            if it had never stopped.
        checkpoint_dir: folder for ``last`` and ``best``; none are written without.
        checkpoints: keeps the state in another way than in that folder.
        parallel: the place of this process among those that train together (``ptycho_ray.cluster.train``).
        callbacks: called after every step and every epoch; those that have ``on_image`` get the image of the (first) scan every
            ``execution.recon_log_every_n_epochs`` epochs.
        keep_patches: put the predicted patches of the whole test set into the results; they grow with the scan.

    Returns:
        The results dictionary of the reference (``docs/callchain.md``, section 3). After training on several scans
        ``models`` and ``validation_containers`` hold those of each by name, the other entries those of the first. With
        ``config.ensemble_members`` above 1 ``ensemble`` is the list of the models, the other entries are those of its first.
    """
    execution = execution or ExecutionConfig()
    refuse_unavailable(config, execution, parallel, checkpoints)
    if config.ensemble_members > 1:

        def train_one(number: int, member: TrainingConfig, **options: Any) -> Results:
            test = None if number else test_data  # the first member predicts the test set for all
            return train_cdi_model(train_data, test, member, execution=execution, keep_patches=keep_patches, **options)

        folders = {"checkpoint_dir": checkpoint_dir, "resume_from": resume_from}
        return train_members(train_one, config, **folders, initial=initial, callbacks=callbacks)
    scans = scans_to_train(train_data, config, initial)
    test = None if test_data is None else groups_to_reconstruct(scans[0].model, test_data, config)
    if checkpoints is None and checkpoint_dir is not None:
        checkpoints = FolderCheckpoints(checkpoint_dir, execution.checkpoint_save_top_k)
    pictured = [callback for callback in callbacks if hasattr(callback, "on_image")]
    if execution.recon_log_every_n_epochs and pictured:
        callbacks = [*callbacks, ImageRecorder(scans[0].container, config, execution, pictured)]
    if parallel is None:
        callbacks = [*callbacks, WarningLogger()]
    source = ScanSource(scans, config, execution)
    trainer = Trainer(source, config, execution, parallel=parallel, checkpoints=checkpoints, callbacks=callbacks)
    history = trainer.fit(resume_from)
    results = training_results(scans, history, trainer.progress.warnings)
    return finish_training(results, test, config, execution, keep_patches=keep_patches)


def reassemble_cdi_image(
    test_data: Scan,
    config: TrainingConfig,
    flip_x: bool = False,
    flip_y: bool = False,
    transpose: bool = False,
    M: int = 20,
    coord_scale: float = 1.0,
    *,
    model: Models,
    execution: ExecutionConfig | None = None,
    stitch: Stitch = "probe",
    refinement: RefinementConfig | None = None,
    keep_patches: bool = True,
    on_batch: Callable[[int, int], None] | None = None,
    on_refinement: Callable[[Progress], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, Results]:
    """Reconstruct a scan with a trained model and stitch it to one image; with ``refinement`` or
    ``config.refinement_iterations``, refine it (:func:`refine_cdi_image`).

    Args:
        test_data: the scan; its patterns are normalised with the constants the model was trained with. A network that sees
            the probe (``model.probe_conditioning``) gets the scan's own probe and constants.
        flip_x, flip_y: mirror the positions along columns or rows; ``transpose`` swaps the axes of the patches.
        M: with ``stitch="crop"``, side of the central piece of each object that is used.
        coord_scale: factor on the positions.
        model: the trained model (in the reference a module-level object), or those of an ensemble: then the image is their
            mean, and standard deviations are added (``docs/uncertainty.md``).
        stitch: "probe" puts every pattern's patch at its own position, weighted by the illumination, on a canvas of the
            scan's shape; "crop" is the reference's :func:`reassemble_position`.
        refinement: settings of the refinement; if None and ``config.refinement_iterations`` is not 0, the default ones with so
            many iterations.
        keep_patches: put the patches of all groups into the results (needed by "crop").
        on_batch, on_refinement: called after every batch of the network, and after every iteration of the refinement.

    A scan whose positions the model has learnt is reconstructed at the learnt positions.

    Returns:
        Amplitude and phase, float32 [H, W, 1], and a dictionary with ``obj_tensor_full``, ``global_offsets``,
        ``recon_amp``, ``recon_phase``, ``probe`` (the model's, [P, N, N]) and the stitched image; after a refinement
        ``refinement`` and the network's image as ``network_stitched``. Of an ensemble, ``member_images`` are the images of
        all; the other entries are those of the first member.

    Raises:
        ConfigurationError: a refinement of an image that is mirrored, transposed, scaled or stitched by "crop", or an
            ensemble stitched by "crop".
    """
    execution = execution or ExecutionConfig()
    if refinement is None and config.refinement_iterations:
        refinement = RefinementConfig(iterations=config.refinement_iterations, seed=config.seed)
    if isinstance(model, Sequence):
        if len(model) > 1:
            reconstruct_one = functools.partial(
                reassemble_cdi_image, flip_x=flip_x, flip_y=flip_y, transpose=transpose, coord_scale=coord_scale,
                execution=execution, stitch=stitch, refinement=refinement, on_batch=on_batch, on_refinement=on_refinement,
            )  # fmt: skip
            return mean_of_members(reconstruct_one, test_data, config, model, keep_patches)
        model = model[0]
    if refinement is not None and (flip_x or flip_y or transpose or coord_scale != 1.0 or stitch == "crop"):
        raise ConfigurationError(
            field="refinement_iterations",
            found=refinement.iterations,
            expected="0 for an image that is mirrored, transposed, scaled or stitched by 'crop'",
        )
    batch_size = groups_at_once(execution, config, model.probe_parts.device)
    container = groups_to_reconstruct(model, test_data, config)
    model = model_for_groups(model, container)
    if model.positions is not None:
        container = model.positions.correct(container)
    direction_yx = np.array([-1.0 if flip_y else 1.0, -1.0 if flip_x else 1.0]) * coord_scale
    results: Results = {"global_offsets": container.global_offsets, "pixel_size_m": container.raw.pixel_size_m}
    results["probe"] = model.probe.detach().cpu().numpy()
    if keep_patches or stitch == "crop":
        merged = results["obj_tensor_full"] = predict_all(model, container, batch_size)["reconstructed_obj"]
    if stitch == "crop":
        patches = merged.swapaxes(1, 2) if transpose else merged
        offsets = container.global_offsets * direction_yx[::-1, None]
        canvas = reassemble_position(patches, offsets, M)
    else:
        stitched = reconstruct(
            model, container, batch_size, direction_yx=direction_yx, transpose=transpose, on_batch=on_batch
        )
        if refinement is not None:
            results["network_stitched"] = stitched
            results["refinement"] = refine_cdi_image(
                container, refinement, start=stitched, device=model.probe_parts.device, on_progress=on_refinement
            )
            stitched = results["refinement"].stitched
        results["stitched"] = stitched
        canvas = stitched.image[..., None]
    results["stitched_obj"] = canvas
    results["recon_amp"], results["recon_phase"] = np.abs(canvas), np.angle(canvas)
    return results["recon_amp"], results["recon_phase"], results


def refine_cdi_image(
    scan: Scan,
    config: RefinementConfig | None = None,
    *,
    start: Start = None,
    device: torch.device | None = None,
    parallel: DataParallel | None = None,
    checkpoint: Path | None = None,
    resume: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
    on_image: Callable[[Progress, StitchedObject], None] | None = None,
    image_every: int = 0,
) -> RefinementResult:
    """Refine an image of a scan with the iterative solver, until its diffraction explains the patterns.

    Args:
        scan: patterns, positions and probe; of a container its whole scan.
        config: what is solved for, and how (``docs/refinement.md``).
        start: an image, a trained model or the name of either, see :func:`starting_image`; a flat object if None.
        device: where it is computed; on the processor if None.
        parallel: the place of this process among those that share every batch (``ptycho_ray.cluster.refine``).
        checkpoint: file in which the state is kept every ``config.check_every`` iterations and at the end.
        resume: go on from that file if it exists; else it is overwritten.
        on_progress, on_image: told after every iteration, and given the image every ``image_every`` iterations.

    Raises:
        InputError: the start or the checkpoint is not of this scan.
        Diverged: the loss grows however small the steps are.
    """
    raw = scan.raw if isinstance(scan, PtychoDataContainer) else scan
    return refine(
        raw, config, start=starting_image(start, raw), device=device, parallel=parallel, checkpoint=checkpoint,
        resume=resume, on_progress=on_progress, on_image=on_image, image_every=image_every,
    )  # fmt: skip


def starting_image(start: Start, scan: RawData) -> StitchedObject | None:
    """The image that ``start`` stands for: a string or path names an image or a trained model
    (:func:`ptycho_ray.reconstruction.named_start`); of a model it is what the model makes of the scan.

    Raises:
        ConfigurationError: there is nothing of that name.
        InputError: the file holds neither an image nor a model, or the model does not take the scan.
    """
    if isinstance(start, str | Path):
        start = named_start(start, scan)
    if start is None or isinstance(start, StitchedObject):
        return start
    if isinstance(start, Bundle):
        models, config = start.models, replace(start.config, refinement_iterations=0)
    else:
        models = (start,) if isinstance(start, PhysicsInformedModel) else tuple(start)
        config = TrainingConfig(model=models[0].config)
    stitched: StitchedObject = reassemble_cdi_image(scan, config, model=models, keep_patches=False)[2]["stitched"]
    return stitched


def run_cdi_example(
    train_data: Scan | Sequence[Scan],
    test_data: Scan | None,
    config: TrainingConfig,
    flip_x: bool = False,
    flip_y: bool = False,
    transpose: bool = False,
    M: int = 20,
    do_stitching: bool = False,
    *,
    execution: ExecutionConfig | None = None,
    stitch: Stitch = "probe",
    keep_patches: bool = True,
    train: Callable[..., Results] | None = None,
    reassemble: Callable[..., tuple[np.ndarray, np.ndarray, Results]] | None = None,
    **training_options: Any,
) -> tuple[np.ndarray | None, np.ndarray | None, Results]:
    """Train on one scan and, with ``do_stitching``, reconstruct the other; see the two functions it is made of, in whose place
    ``train`` and ``reassemble`` do it elsewhere (``ptycho_ray.cluster``).

    Returns:
        (amplitude or None, phase or None, results). Writes no file except the checkpoints that were asked for.
    """
    results = (train or train_cdi_model)(
        train_data, test_data, config, execution=execution, keep_patches=keep_patches, **training_options
    )
    if not do_stitching or test_data is None:
        return None, None, results
    amplitude, phase, stitched = (reassemble or reassemble_cdi_image)(
        results["test_container"], config, flip_x, flip_y, transpose, M,
        model=results["ensemble"] if "ensemble" in results else results["model_instance"],
        execution=execution, stitch=stitch, keep_patches=False,
    )  # fmt: skip
    if keep_patches:  # training has predicted them already
        stitched["obj_tensor_full"] = results["reconstructed_obj"]
    return amplitude, phase, results | stitched


def run_cdi_example_with_backend(*args: Any, **kwargs: Any) -> tuple[np.ndarray | None, np.ndarray | None, Results]:
    """:func:`run_cdi_example` with ``results["backend"]``; whatever ``config.backend`` says, PyTorch computes."""
    amplitude, phase, results = run_cdi_example(*args, **kwargs)
    return amplitude, phase, results | {"backend": "pytorch"}


def train_cdi_model_with_backend(*args: Any, **kwargs: Any) -> Results:
    """:func:`train_cdi_model` with ``results["backend"]``."""
    return train_cdi_model(*args, **kwargs) | {"backend": "pytorch"}
