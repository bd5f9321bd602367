"""The one workflow: from a measured scan to an image, in the steps and under the names of PtychoPINN's chain.

    setup_configuration -> load_data -> create_ptycho_data_container -> train_cdi_model
                        -> reassemble_cdi_image -> save_outputs
    run_cdi_example = train_cdi_model + reassemble_cdi_image

``docs/callchain.md`` lists every function with its TensorFlow counterpart. What we add to the reference's arguments is
keyword-only. Nothing here keeps state between calls.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from ptycho_ray.bundle import Bundle, load_bundle, save_bundle
from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.config.legacy import dataclass_to_legacy_dict, update_legacy_dict
from ptycho_ray.config.sources import load_yaml_config, setup_configuration
from ptycho_ray.data import (
    Normalisation,
    PtychoDataContainer,
    RawData,
    calculate_intensity_scale,
    group_indices,
    legacy_group_indices,
    load_data,
)
from ptycho_ray.data.corrections import apply_corrections
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.files import write_json
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.models.registry import for_side
from ptycho_ray.models.scan_positions import ScanPositions
from ptycho_ray.reconstruction.ensemble import combine, on_one_canvas
from ptycho_ray.reconstruction.inference import DiffractionToObject, predict_all, reconstruct
from ptycho_ray.reconstruction.recorder import ImageRecorder
from ptycho_ray.reconstruction.stitching import StitchedObject, reassemble_position
from ptycho_ray.refinement.solver import Progress, RefinementConfig, refine
from ptycho_ray.training.checkpoint import CheckpointStore, FolderCheckpoints
from ptycho_ray.training.ensemble import train_members
from ptycho_ray.training.health import WarningLogger
from ptycho_ray.training.initial import initial_network
from ptycho_ray.training.loop import Callback, Trainer
from ptycho_ray.training.parallel import DataParallel
from ptycho_ray.training.scan_training import ScanTraining, distinct_names
from ptycho_ray.training.split import split_groups

__all__ = [
    "calculate_intensity_scale",
    "create_ptycho_data_container",
    "dataclass_to_legacy_dict",
    "load_data",
    "load_inference_bundle",
    "load_yaml_config",
    "reassemble_cdi_image",
    "run_cdi_example",
    "save_inference_bundle",
    "save_outputs",
    "setup_configuration",
    "train_cdi_model",
    "update_legacy_dict",
]

log = logging.getLogger(__name__)

Results = dict[str, Any]
#: A trained model, or those of an ensemble.
Models = PhysicsInformedModel | Sequence[PhysicsInformedModel]
Scan = RawData | PtychoDataContainer
Stitch = Literal["probe", "crop"]

#: Our figures under the names that Keras gave the reference's losses.
REFERENCE_NAMES = {
    "loss": "loss",
    "nll": "pred_intensity_loss",
    "mae": "intensity_scaler_inv_loss",
    "tv": "trimmed_obj_loss",
}


def create_ptycho_data_container(
    data: Scan, config: TrainingConfig, *, normalisation: Normalisation | None = None
) -> PtychoDataContainer:
    """Group a scan as the configuration says; a container passes through untouched.

    The scan is first corrected as the configuration says (``ptycho_ray.data.corrections``). Without ``normalisation`` this is a
    training set: at most ``config.n_groups`` groups, and the scales are measured on
    them. With the normalisation of a training set it is a set to reconstruct: every pattern is the seed of a group.

    Raises:
        TypeError: ``data`` is neither a RawData nor a container.
        InputError: pattern side and configuration differ, or the scan is too small for the groups.
    """
    if isinstance(data, PtychoDataContainer):
        return data
    if not isinstance(data, RawData):
        raise TypeError(f"data must be a RawData or a PtychoDataContainer, not a {type(data).__name__}")
    data = apply_corrections(data, config)
    n, model = len(data), config.model
    if model.N != data.N:
        raise InputError(
            file=data.source or None, field="N", found=f"patterns of side {data.N}", expected=f"N = {model.N}"
        )
    n_groups = n
    if normalisation is None and config.n_groups is not None:
        n_groups = config.n_groups if config.enable_oversampling else min(config.n_groups, n)
    common: dict[str, Any] = {
        "neighbor_count": config.neighbor_count,
        "enable_oversampling": config.enable_oversampling,
        "neighbor_pool_size": config.neighbor_pool_size,
        "sequential": config.sequential_sampling,
    }
    if config.group_random_stream == "numpy_legacy":
        members = legacy_group_indices(data.positions_px, model.gridsize, n_groups, seed=config.seed, **common)
    else:
        members = group_indices(
            data.positions_px,
            model.gridsize,
            n_groups,
            generator=np.random.default_rng(config.seed),
            include_seed_point=config.include_seed_point,
            **common,
        )
    if normalisation is None:
        normalisation = Normalisation.from_groups(data, members, config)
    return PtychoDataContainer.from_groups(data, members, normalisation)


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
        keep_patches: put the predicted patches of the whole test set into the results. Without them, memory does not grow
            with the scan.

    Returns:
        The results dictionary of the reference (``docs/callchain.md``, section 3). After training on several scans
        ``models`` and ``validation_containers`` hold those of each by name, the other entries those of the first. With
        ``config.ensemble_members`` above 1 ``ensemble`` is the list of the models, the other entries are those of its first.
    """
    execution = execution or ExecutionConfig()
    if config.ensemble_members > 1:
        if checkpoints is not None or parallel is not None:
            raise ConfigurationError(
                "the members of an ensemble are trained one by one",
                field="ensemble_members", found=config.ensemble_members, expected="1 for what a single worker does",
            )  # fmt: skip
        train_one = functools.partial(
            train_cdi_model, train_data, test_data, execution=execution, keep_patches=keep_patches
        )
        return train_members(
            train_one, config, checkpoint_dir=checkpoint_dir, resume_from=resume_from, initial=initial,
            callbacks=callbacks,
        )  # fmt: skip
    _refuse_unavailable(config, execution, parallel)
    scans = scans_to_train(train_data, config, initial)
    test = None
    if test_data is not None:
        test = groups_to_reconstruct(scans[0].model, test_data, config)
    if checkpoints is None and checkpoint_dir is not None:
        checkpoints = FolderCheckpoints(checkpoint_dir, execution.checkpoint_save_top_k)
    pictured = [callback for callback in callbacks if hasattr(callback, "on_image")]
    if execution.recon_log_every_n_epochs and pictured:
        callbacks = [*callbacks, ImageRecorder(scans[0].container, config, execution, pictured)]
    if parallel is None:
        callbacks = [*callbacks, WarningLogger()]
    trainer = Trainer(scans, config, execution, parallel=parallel, checkpoints=checkpoints, callbacks=callbacks)
    history = trainer.fit(resume_from)
    results = training_results(scans, history, trainer.progress.warnings)
    if test is not None and keep_patches:
        model = model_for_groups(scans[0].model, test)
        results |= predict_all(model, test, execution.inference_batch_size or config.batch_size)
        results["stitched_obj"] = None
    return results | {"test_container": test}


def scans_to_train(
    train_data: Scan | Sequence[Scan], config: TrainingConfig, initial: PhysicsInformedModel | None = None
) -> list[ScanTraining]:
    """Group every scan, hold out its validation groups, and build the network inside the physics of each."""
    listed = [train_data] if isinstance(train_data, RawData | PtychoDataContainer) else train_data
    containers = [create_ptycho_data_container(data, config) for data in listed]
    names = distinct_names([container.raw.source for container in containers])
    scans: list[ScanTraining] = []
    for number, (name, container) in enumerate(zip(names, containers, strict=True)):
        generator = np.random.default_rng((config.seed, 1, number) if number else (config.seed, 1))
        learning, validation = split_groups(container, config.validation_fraction, generator)
        if validation is None and config.validation_fraction:
            log.warning(
                "%s is too small to hold out groups for validation; training continues without validation",
                name or "the scan",
            )
        if number == 0 and initial is not None:
            model = initial
        else:
            network = scans[0].model.network if scans else None
            if network is None and config.initial_model is not None:
                network = initial_network(config)
            with _seeded(config.seed):
                model = PhysicsInformedModel(config.model, container.normalisation, physical_probe(container), network)
        if model.positions is None or not model.positions.knows(container.raw):
            model.positions = ScanPositions.of(container.raw) if config.positions_trainable else None
        scans.append(ScanTraining(name, model, container, learning, validation))
    return scans


def model_for_scan(model: PhysicsInformedModel, data: RawData, config: TrainingConfig) -> PhysicsInformedModel:
    """The network of ``model`` inside the physics of another scan: its probe, and the scales measured on it."""
    return _model_inside(model, create_ptycho_data_container(data, config))


def _model_inside(model: PhysicsInformedModel, container: PtychoDataContainer) -> PhysicsInformedModel:
    """A network that sees the probe has the same amplitude scale for all probes: the correction of the object scale
    learnt in training then applies to the other scan too."""
    config = for_side(model.config, container.N)
    other = PhysicsInformedModel(config, container.normalisation, physical_probe(container), model.network)
    other.network_dtype = model.network_dtype
    if model.config.probe_conditioning != "none":
        learned = float(model.object_scale.detach()) / model.normalisation.object_scale
        with torch.no_grad():
            other.log_object_scale.add_(math.log(learned))
    return other.to(model.probe_parts.device)


def groups_to_reconstruct(model: PhysicsInformedModel, data: Scan, config: TrainingConfig) -> PtychoDataContainer:
    """All groups of a scan, with the scales of the model; for a network that sees the probe with the scan's own."""
    normalisation = model.normalisation
    if model.config.probe_conditioning != "none" and isinstance(data, RawData):
        config = replace(config, model=for_side(config.model, data.N))
        normalisation = create_ptycho_data_container(data, config).normalisation
    return create_ptycho_data_container(data, config, normalisation=normalisation)


def model_for_groups(model: PhysicsInformedModel, container: PtychoDataContainer) -> PhysicsInformedModel:
    """The model that reconstructs these groups. Only a network that sees the probe goes into the physics of another scan;
    groups with the very scales of the model are of the scan that the model knows, perhaps with a better probe."""
    if model.config.probe_conditioning == "none" or container.normalisation == model.normalisation:
        return model
    return _model_inside(model, container)


def training_results(
    scans: Sequence[ScanTraining], history: dict[str, list[float]], warnings: Sequence[str] = ()
) -> Results:
    """The results dictionary of a training, without anything of a test set."""
    return {
        "warnings": list(warnings),
        "history": _reference_history(history),
        "history_epochs": list(range(len(history["loss"]))),
        "model_instance": scans[0].model,
        "models": {scan.name: scan.model for scan in scans},
        "validation_containers": {scan.name: scan.validation for scan in scans},
        "train_container": scans[0].container,
        "validation_container": scans[0].validation,
        "test_container": None,
    }


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
    keep_patches: bool = True,
    on_batch: Callable[[int, int], None] | None = None,
    on_refinement: Callable[[Progress], None] | None = None,
) -> tuple[np.ndarray, np.ndarray, Results]:
    """Reconstruct a scan with a trained model and stitch it to one image; with ``config.refinement_iterations``, refine it.

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
        keep_patches: put the patches of all groups into the results (needed by "crop").
        on_batch, on_refinement: called after every batch of the network, and after every iteration of the refinement.

    A scan whose positions the model has learnt is reconstructed at the learnt positions.

    Returns:
        Amplitude and phase, float32 [H, W, 1], and a dictionary with ``obj_tensor_full``, ``global_offsets``,
        ``recon_amp``, ``recon_phase`` and the stitched image; after a refinement ``refinement`` and the network's image
        as ``network_stitched``. Of an ensemble, ``member_images`` are the images of all; the other entries are those of the
        first member.

    Raises:
        ConfigurationError: a refinement of an image that is mirrored, transposed, scaled or stitched by "crop", or an
            ensemble stitched by "crop".
    """
    execution = execution or ExecutionConfig()
    if isinstance(model, Sequence):
        if len(model) > 1:
            reconstruct_one = functools.partial(
                reassemble_cdi_image, flip_x=flip_x, flip_y=flip_y, transpose=transpose, coord_scale=coord_scale,
                execution=execution, stitch=stitch, on_batch=on_batch, on_refinement=on_refinement,
            )  # fmt: skip
            return _mean_of_members(reconstruct_one, test_data, config, model, keep_patches)
        model = model[0]
    if config.refinement_iterations and (flip_x or flip_y or transpose or coord_scale != 1.0 or stitch == "crop"):
        raise ConfigurationError(
            field="refinement_iterations",
            found=config.refinement_iterations,
            expected="0 for an image that is mirrored, transposed, scaled or stitched by 'crop'",
        )
    batch_size = execution.inference_batch_size or config.batch_size
    container = groups_to_reconstruct(model, test_data, config)
    model = model_for_groups(model, container)
    if model.positions is not None:
        container = model.positions.correct(container)
    direction_yx = np.array([-1.0 if flip_y else 1.0, -1.0 if flip_x else 1.0]) * coord_scale
    results: Results = {"global_offsets": container.global_offsets}
    if keep_patches or stitch == "crop":
        merged = predict_all(model, container, batch_size)["reconstructed_obj"]
        results["obj_tensor_full"] = merged
    if stitch == "crop":
        patches = merged.swapaxes(1, 2) if transpose else merged
        offsets = container.global_offsets * direction_yx[::-1, None]
        canvas = reassemble_position(patches, offsets, M)
    else:
        stitched = reconstruct(
            model, container, batch_size, direction_yx=direction_yx, transpose=transpose, on_batch=on_batch
        )
        if config.refinement_iterations:
            results["network_stitched"] = stitched
            settings = RefinementConfig(iterations=config.refinement_iterations, seed=config.seed)
            results["refinement"] = refine(container.raw, settings, start=stitched, on_progress=on_refinement)
            stitched = results["refinement"].stitched
        results["stitched"] = stitched
        canvas = stitched.image[..., None]
    results["stitched_obj"] = canvas
    results["recon_amp"], results["recon_phase"] = np.abs(canvas), np.angle(canvas)
    return results["recon_amp"], results["recon_phase"], results


def _mean_of_members(
    reconstruct_one: Callable[..., tuple[np.ndarray, np.ndarray, Results]],
    test_data: Scan,
    config: TrainingConfig,
    models: Sequence[PhysicsInformedModel],
    keep_patches: bool,
) -> tuple[np.ndarray, np.ndarray, Results]:
    """:func:`reassemble_cdi_image` with each of several models, and the mean of the images."""
    results: Results = {}
    images: list[StitchedObject] = []
    for number, model in enumerate(models):
        data = test_data
        if isinstance(data, PtychoDataContainer) and model.config.probe_conditioning == "none":
            data = replace(data, normalisation=model.normalisation)
        found = reconstruct_one(data, config, model=model, keep_patches=keep_patches and number == 0)[2]
        if "stitched" not in found:
            raise ConfigurationError(field="stitch", found="'crop'", expected="'probe' for an ensemble")
        results = results or found
        images.append(found["stitched"])
    images = on_one_canvas(images)
    stitched = combine(images)
    results |= {"stitched": stitched, "member_images": images, "stitched_obj": stitched.image[..., None]}
    results["recon_amp"], results["recon_phase"] = (part(results["stitched_obj"]) for part in (np.abs, np.angle))
    return results["recon_amp"], results["recon_phase"], results


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
    **training_options: Any,
) -> tuple[np.ndarray | None, np.ndarray | None, Results]:
    """Train on one scan and, with ``do_stitching``, reconstruct the other; see the two functions it is made of.

    ``train`` does the training: :func:`train_cdi_model` if None, or ``ptycho_ray.cluster.train.train_on_cluster``.

    Returns:
        (amplitude or None, phase or None, results). Writes no file except the checkpoints that were asked for.
    """
    results = (train or train_cdi_model)(
        train_data, test_data, config, execution=execution, keep_patches=keep_patches, **training_options
    )
    if not do_stitching or test_data is None:
        return None, None, results
    amplitude, phase, stitched = reassemble_cdi_image(
        results["test_container"],
        config,
        flip_x,
        flip_y,
        transpose,
        M,
        model=results["ensemble"] if "ensemble" in results else results["model_instance"],
        execution=execution,
        stitch=stitch,
        keep_patches=False,
    )
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


def save_inference_bundle(
    place: str | Path, results: Results, config: TrainingConfig, provenance: dict[str, Any]
) -> Path:
    """Write the trained model, or the ensemble, of a results dictionary as ``wts.h5.zip`` and return its path."""
    others = tuple(results.get("ensemble", ())[1:])
    return save_bundle(place, Bundle(results["model_instance"], config, provenance, results["history"], others))


def load_inference_bundle(model_dir: str | Path) -> tuple[DiffractionToObject, dict[str, Any]]:
    """Load a bundle for inference: the model, and its settings as the reference's flat dictionary.

    ``model_dir`` is a folder, a file, or a model in MLflow: ``runs:/RUN_ID/model`` or ``models:/NAME/VERSION``
    (``docs/tracking.md``).

    Raises:
        ValueError: there is no such folder (an error that is a FileNotFoundError too), or no such run or model.
        BundleError: the bundle cannot be trusted or read.
    """
    bundle = load_bundle(model_dir)
    config, model = bundle.config, bundle.model
    params = dataclass_to_legacy_dict(config) | {
        "intensity_scale": calculate_intensity_scale(config.nphotons, config.model.N),
        "probe": model.probe.detach().numpy(),
        "_version": "ptycho_ray",
    }
    return DiffractionToObject(model, params["intensity_scale"]), params


def load_inference_bundle_with_backend(
    model_dir: str | Path, config: Any = None
) -> tuple[DiffractionToObject, dict[str, Any]]:
    """:func:`load_inference_bundle`; the configuration's backend makes no difference."""
    return load_inference_bundle(model_dir)


def save_outputs(
    amplitude: np.ndarray | None, phase: np.ndarray | None, results: Results, output_prefix: str | Path
) -> None:
    """Write the two images of the reference, the arrays (``reconstruction.npz``), ``history.json`` and, if the positions
    were learnt, ``positions.npz``; of an ensemble also ``uncertainty.png``.

    Nothing is drawn when amplitude or phase is None.
    """
    from ptycho_ray.display.figures import plot_image, save_figure

    folder = Path(output_prefix)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "history.json", results.get("history", {}))
    if (positions := getattr(results.get("model_instance"), "positions", None)) is not None:
        positions.save(folder / "positions.npz")
    if amplitude is None or phase is None:
        return
    stitched = results.get("stitched")
    region = stitched.covered() if isinstance(stitched, StitchedObject) else None
    amplitude_figure = plot_image(np.squeeze(amplitude), kind="amplitude", title="Amplitude", region=region)
    phase_figure = plot_image(np.squeeze(phase), kind="phase", title="Phase", region=region)
    save_figure(amplitude_figure, folder / "reconstructed_amplitude.png")
    save_figure(phase_figure, folder / "reconstructed_phase.png")
    if isinstance(stitched, StitchedObject):
        stitched.save(folder / "reconstruction.npz")
        if stitched.amplitude_std is not None and stitched.phase_std is not None:
            from ptycho_ray.display.uncertainty_figures import plot_deviation

            deviation = plot_deviation(stitched.amplitude_std, stitched.phase_std, region=stitched.covered())
            save_figure(deviation, folder / "uncertainty.png")


def physical_probe(container: PtychoDataContainer) -> torch.Tensor:
    """The probe modes of a scan in sqrt(photons), complex64 [P, N, N]."""
    return torch.from_numpy(container.raw.probe * np.float32(np.sqrt(container.normalisation.photon_scale)))


def _reference_history(history: dict[str, list[float]]) -> dict[str, list[float]]:
    """Our figures and, beside them, those of the reference under its names."""
    named = dict(history)
    for ours, theirs in REFERENCE_NAMES.items():
        for prefix in ("", "val_"):
            if prefix + ours in history:
                named[prefix + theirs] = history[prefix + ours]
    return named | {"train_loss": history["loss"]}


def _refuse_unavailable(config: TrainingConfig, execution: ExecutionConfig, parallel: DataParallel | None) -> None:
    """ConfigurationError for a setting that would have no effect here."""
    if not config.positions_provided:
        raise ConfigurationError(
            "not supported in this version", field="positions_provided", found="False", expected="True"
        )
    if execution.devices not in (1, "auto") and parallel is None:
        raise ConfigurationError(
            "a single process trains on one device",
            field="execution.devices",
            found=execution.devices,
            expected="1",
            hint="ptycho_ray.cluster.train.train_on_cluster and 'ptycho-ray train --workers' use several",
        )


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw the initial weights from ``seed`` without changing torch's global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
