"""One trial: from a scan and settings to the values of the objectives. The object is solved for directly, or together with
the probe, or a network is trained."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_ray import workflow
from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.config.sources import resolve_config
from ptycho_ray.data import PtychoDataContainer, RawData, cut_patches
from ptycho_ray.data.corrections import apply_corrections
from ptycho_ray.evaluation import evaluate_reconstruction
from ptycho_ray.evaluation.explained import Explained, figures_by_pattern, mean_figures
from ptycho_ray.evaluation.half_data import half_data_correlation
from ptycho_ray.files import atomic_path
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.physics.likelihood import good_pixels_of
from ptycho_ray.physics.probe import soft_disc_mask
from ptycho_ray.physics.propagation import FarField
from ptycho_ray.reconstruction.inference import predict, predict_diffraction
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.batching import held_out_patterns
from ptycho_ray.refinement.direct import DirectSolver
from ptycho_ray.refinement.solver import Refinement, RefinementConfig
from ptycho_ray.tracking.objectives import OBJECTIVES
from ptycho_ray.training.checkpoint import LAST_CHECKPOINT
from ptycho_ray.training.device import resolve_device
from ptycho_ray.training.split import split_groups
from ptycho_ray.tuning.space import without_refinement

Figures = dict[str, float]
Report = Callable[[int, Figures], None]
#: How often a direct solution tells how it fares, in passes over the data.
PASSES_PER_REPORT = 4
#: Share of the intensity that lies in the pixels whose likelihood counts.
LIT_SHARE = 0.95
IMAGE = "reconstruction.npz"
#: The figures of each held-out pattern, of a trial of the experiment.
JUDGED = "held_out.npz"
#: Patterns per update of a refinement: few tell wrong positions more clearly than more iterations do (docs/tune.md), and
#: neighbouring values of a parameter differ less by chance.
REFINE_BATCH = 16


def trial_config(base: Mapping[str, Any], parameters: Mapping[str, Any]) -> tuple[TrainingConfig, ExecutionConfig]:
    """The configuration of a trial: the settings common to all (by name) and on top of them those of its own.

    Raises:
        ConfigurationError: settings that cannot stand together.
    """
    resolved = resolve_config(TrainingConfig, None, environment={}, typed=without_refinement({**base, **parameters}))
    return resolved.config, resolved.execution


def run_trial(
    kind: str,
    scan: RawData,
    config: TrainingConfig,
    execution: ExecutionConfig,
    objectives: Sequence[str],
    folder: Path,
    report: Report,
    *,
    refinement: Mapping[str, Any] | None = None,
    train: Callable[..., dict[str, Any]] | None = None,
) -> Figures:
    """Run a trial, keep its result in ``folder`` and return its last figures.

    Args:
        kind: ``direct``, ``refine`` or ``train``.
        report: called during the trial with the epoch and the values known by then.
        refinement: settings of the solver that differ from its defaults (``refine``).
        train: replaces ``workflow.train_cdi_model`` for training on several workers; it reports at the end only.

    Raises:
        InputError: the settings do not suit the scan.
        ArithmeticError: the trial diverged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "direct":
        return direct_trial(scan, config, objectives, folder, report, resolve_device(execution))
    if kind == "refine":
        return refine_trial(scan, config, objectives, folder, report, resolve_device(execution), refinement or {})
    return train_trial(scan, config, execution, objectives, folder, report, train=train)


def _photons_a_unit(raw: RawData, config: TrainingConfig) -> float:
    """Photons per unit of the intensities, as the file or the settings say."""
    return 1.0 if raw.counts_are_photons else float(config.nphotons / raw.pattern_energies().mean())


# -- the object itself -------------------------------------------------------------------------------------------------


def direct_trial(
    scan: RawData,
    config: TrainingConfig,
    objectives: Sequence[str],
    folder: Path,
    report: Report,
    device: torch.device | None = None,
) -> Figures:
    """``config.nepochs`` passes of gradient descent on the object; the image is kept as ``reconstruction.npz``."""
    began = time.monotonic()
    raw = apply_corrections(scan, config)
    scale = _photons_a_unit(raw, config)
    photons = torch.from_numpy(raw.patterns.intensity() * np.float32(scale))
    probe = torch.from_numpy(raw.probe * np.float32(np.sqrt(scale)))
    if config.model.probe_mask:
        n = raw.N
        probe = probe * soft_disc_mask(n, config.model.probe_mask_diameter or n / 2, config.model.probe_mask_sigma)
    generator = np.random.default_rng((config.seed, 3))
    held_out = held_out_patterns(len(raw), config.validation_fraction, generator)
    rows = np.flatnonzero(held_out)
    solver = DirectSolver(
        photons.to(device),
        raw.positions_px,
        probe.to(device),
        learn=~held_out,
        photon_scale=scale,
        bad_pixels=raw.bad_pixels,
    )
    lit = torch.from_numpy(lit_pixels(raw)).to(device)
    halves = []
    if "frc" in objectives:
        first = generator.random(len(raw)) < 0.5
        halves = [solver.of_other_patterns(half & ~held_out) for half in (first, ~first)]
    figures: Figures = {}
    for epoch in range(1, config.nepochs + 1):
        for each in (solver, *halves):
            each.step()
        if epoch % PASSES_PER_REPORT and epoch < config.nepochs:
            continue
        judged = figures_by_pattern(solver.explained(rows), lit, scale)
        figures = {name: float(values.mean()) for name, values in judged.items()}
        figures["seconds"] = time.monotonic() - began
        if epoch < config.nepochs:
            report(epoch, figures)
    stitched = solver.stitched()
    if halves:
        figures["frc"] = agreement_of_halves(*(half.stitched() for half in halves))
    figures |= truth_figures(stitched, raw, objectives)
    _keep(folder, stitched, judged, raw.pixel_size_m)
    report(config.nepochs, figures)
    return figures


def refine_trial(
    scan: RawData,
    config: TrainingConfig,
    objectives: Sequence[str],
    folder: Path,
    report: Report,
    device: torch.device | None = None,
    refinement: Mapping[str, Any] | None = None,
) -> Figures:
    """``config.nepochs`` iterations of the refinement from a flat object, which finds the probe as well; the image is kept.

    Raises:
        Diverged: the settings lead nowhere.
    """
    began = time.monotonic()
    raw = apply_corrections(scan, config)
    generator = np.random.default_rng((config.seed, 3))
    rows = np.flatnonzero(held_out_patterns(len(raw), config.validation_fraction, generator))
    settings = RefinementConfig(
        iterations=config.nepochs, batch_size=REFINE_BATCH, check_every=config.nepochs, seed=config.seed,
        **refinement or {},
    )  # fmt: skip
    solver = Refinement(raw, settings, held_out=rows, device=device)
    for _ in solver:
        pass
    scale = _photons_a_unit(raw, config)
    per_count = solver.photons_per_count(scale)
    assert per_count is not None
    lit = FarField().arrange(torch.from_numpy(lit_pixels(raw))).to(device)
    pieces = (
        Explained(each.rate * per_count, each.counts * per_count, each.good_pixels) for each in solver.explained(rows)
    )
    judged = figures_by_pattern(pieces, lit, scale)
    stitched = solver.stitched()
    figures = {name: float(values.mean()) for name, values in judged.items()}
    figures["seconds"] = time.monotonic() - began
    figures |= truth_figures(stitched, raw, objectives)
    _keep(folder, stitched, judged, raw.pixel_size_m)
    report(config.nepochs, figures)
    return figures


def _keep(
    folder: Path, stitched: StitchedObject, judged: Mapping[str, NDArray[np.float64]], pixel_size_m: float | None
) -> None:
    """The image, and the figures of each held-out pattern."""
    stitched.save(folder / IMAGE, pixel_size_m)
    with atomic_path(folder / JUDGED) as temporary, temporary.open("wb") as stream:
        arrays: dict[str, Any] = dict(judged)
        np.savez(stream, **arrays)


# -- a network ---------------------------------------------------------------------------------------------------------


class _Reporter:
    """Judges the network after every epoch by the groups that are held out."""

    def __init__(self, validation: PtychoDataContainer, batch_size: int, report: Report, last_epoch: int) -> None:
        self.validation, self.batch_size, self.report, self.last_epoch = validation, batch_size, report, last_epoch
        self.began = time.monotonic()

    def on_step(self, progress: Any, figures: dict[str, float], steps_in_epoch: int) -> None:
        pass

    def on_epoch(self, progress: Any, figures: dict[str, float], model: PhysicsInformedModel | None) -> None:
        if model is None or progress.epoch >= self.last_epoch:  # the last figures come with the result
            return
        judged = held_out_figures(model, self.validation, self.batch_size)
        self.report(progress.epoch, {**judged, "seconds": time.monotonic() - self.began})


def train_trial(
    scan: RawData,
    config: TrainingConfig,
    execution: ExecutionConfig,
    objectives: Sequence[str],
    folder: Path,
    report: Report,
    *,
    train: Callable[..., dict[str, Any]] | None = None,
) -> Figures:
    """Train a network as ``ptycho-ray train`` does; the bundle is kept; the training resumes from its checkpoint if
    there is one."""
    began = time.monotonic()
    container = workflow.create_ptycho_data_container(scan, config)
    _, validation = split_groups(container, config.validation_fraction, np.random.default_rng((config.seed, 1)))
    batch_size = execution.inference_batch_size or config.batch_size
    if train is not None:
        results = train(container, None, config, execution=execution, run_name=folder.name, keep_patches=False)
    else:
        last = folder / "checkpoints" / LAST_CHECKPOINT
        callbacks = [] if validation is None else [_Reporter(validation, batch_size, report, config.nepochs)]
        results = workflow.train_cdi_model(
            container,
            None,
            config,
            execution=execution,
            checkpoint_dir=folder / "checkpoints",
            resume_from=last if last.exists() else None,
            callbacks=callbacks,
            keep_patches=False,
        )
    model = results["model_instance"]
    figures = held_out_figures(model, results["validation_container"] or container, batch_size)
    stitched = None
    if {"overlap", "ssim", "mae", "frc50"} & set(objectives):
        stitched = _image(container, config, model, execution)
    if stitched is not None and "overlap" in objectives:
        figures["overlap"] = overlap_disagreement(model, container, stitched, batch_size)
    if stitched is not None:
        figures |= truth_figures(stitched, container.raw, objectives)
    if "frc" in objectives:
        figures["frc"] = _half_data_agreement(container.raw, config, execution)
    workflow.save_inference_bundle(folder, results, config, {"made_by": "ptycho-ray tune"})
    figures["seconds"] = time.monotonic() - began
    report(config.nepochs, figures)
    return figures


@torch.inference_mode()
def held_out_figures(model: PhysicsInformedModel, container: PtychoDataContainer, batch_size: int) -> Figures:
    """Likelihood, deviance and R-factor of a network's prediction of the patterns of some groups, means over them."""
    lit = torch.from_numpy(lit_pixels(container.raw)).to(model.probe_parts.device)
    good = good_pixels_of(container.raw.bad_pixels, model.probe_parts.device)
    pieces = (Explained(p.intensity, photons, good) for photons, p in predict_diffraction(model, container, batch_size))
    return asdict(mean_figures(pieces, lit, container.normalisation.photon_scale))


def overlap_disagreement(
    model: PhysicsInformedModel, container: PtychoDataContainer, stitched: StitchedObject, batch_size: int
) -> float:
    """Weighted squared distance of the network's patches from the image that they were stitched to, relative; each patch
    may have a phase of its own. Only where the network sees several groups can they disagree.
    """
    weight = model.overlap_weight().cpu().numpy()
    positions = container.raw.positions_px[container.nn_indices] - np.array(stitched.origin_px)
    if not model.config.object_big:
        positions = (container.centres_px - np.array(stitched.origin_px))[:, None]
    distance = total = 0.0
    for rows, predicted in predict(model, container, batch_size):
        patches = predicted.cpu().numpy()
        seen = cut_patches(stitched.image, positions[rows], container.N)
        common = np.abs((weight * patches.conj() * seen).sum(axis=(-2, -1)))
        own, theirs = ((weight * np.abs(part) ** 2).sum(axis=(-2, -1)) for part in (patches, seen))
        distance += float((own + theirs - 2 * common).sum())
        total += float(theirs.sum())
    return float(np.sqrt(max(distance, 0.0) / total))


def _image(
    data: RawData | PtychoDataContainer, config: TrainingConfig, model: PhysicsInformedModel, execution: ExecutionConfig
) -> StitchedObject:
    results = workflow.reassemble_cdi_image(data, config, model=model, execution=execution, keep_patches=False)[2]
    image: StitchedObject = results["stitched"]
    return image


def _half_data_agreement(raw: RawData, config: TrainingConfig, execution: ExecutionConfig) -> float:
    """Train twice, each time on half of the patterns, and compare the two images. ``raw`` has been corrected already."""
    first = np.random.default_rng((config.seed, 4)).random(len(raw)) < 0.5
    normalisation = workflow.create_ptycho_data_container(raw, _uncorrected(config)).normalisation
    everything = workflow.create_ptycho_data_container(raw, _uncorrected(config), normalisation=normalisation)
    images = []
    for half in (first, ~first):
        results = workflow.train_cdi_model(
            raw.select(half), None, _uncorrected(config), execution=execution, keep_patches=False
        )
        images.append(_image(everything, config, results["model_instance"], execution))
    return agreement_of_halves(*images)


def _uncorrected(config: TrainingConfig) -> TrainingConfig:
    """The configuration for a scan that has been corrected already."""
    return replace(
        config,
        probe_defocus_m=0.0,
        probe_defocus_px2=0.0,
        probe_modes=None,
        position_scale=1.0,
        position_rotation_rad=0.0,
        position_shear=0.0,
        position_axes="as stored",
        object_pixel_size_m=None,
    )


def lit_pixels(raw: RawData) -> NDArray[np.bool_]:
    """The detector pixels that together hold LIT_SHARE of all intensity of a scan, bool [N, N].

    The likelihood is restricted to them. In a pixel with very few photons the scatter of the data carries little
    information on the photon count, and the formula of :func:`ptycho_ray.physics.likelihood.negative_log_density`, which
    interpolates between integers, does not hold. The choice of pixels depends only on the file.
    """
    total = np.zeros((raw.N, raw.N))
    for _, intensity in raw.patterns.chunks():
        total += intensity.sum(axis=0, dtype=np.float64)
    order = np.argsort(total, axis=None)[::-1]
    held = np.cumsum(total.ravel()[order])
    lit = np.zeros(total.size, dtype=bool)
    lit[order[: np.searchsorted(held, LIT_SHARE * held[-1]) + 1]] = True
    return lit.reshape(total.shape)


# -- figures of images -------------------------------------------------------------------------------------------------


def agreement_of_halves(first: StitchedObject, second: StitchedObject) -> float:
    """Mean ring correlation up to Nyquist of two images of one canvas, where both are well covered."""
    return half_data_correlation(first.image, second.image, first.covered() & second.covered()).mean


def truth_figures(stitched: StitchedObject, raw: RawData, objectives: Sequence[str]) -> Figures:
    """Those of the objectives that need the truth."""
    wanted = [name for name in objectives if OBJECTIVES[name].needs_truth]
    if not wanted or raw.object_truth is None:
        return {}
    found = evaluate_reconstruction(
        stitched.image, raw.object_truth, origin_px=stitched.origin_px, region=stitched.covered()
    )
    known = {
        "ssim": (found.amplitude.ssim + found.phase.ssim) / 2,
        "mae": found.amplitude.mae,
        "frc50": found.frc.frc50,
    }
    return {name: float(known[name]) for name in wanted}
