"""Detection of collapsed networks: metrics for every epoch, and a warning.

A network can lower its loss a little and then get stuck at a flat object, or drive its last layer into saturation,
where gradients vanish. Both are seen in a few groups of patterns.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.config import ModelConfig
from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.evaluation.explained import Explained, explained_share
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.physics.likelihood import good_pixels_of

log = logging.getLogger(__name__)

#: So many groups are looked at.
GROUPS = 8
#: An epoch counts as collapsed below these; a warning follows after so many of them in a row.
FLAT_CONTRAST, FLAT_PHASE_RAD, SATURATED, EPOCHS_IN_A_ROW = 0.01, 0.01, 0.5, 3
#: No warning in the first part of a training: every network begins with a flat object.
PATIENCE = 0.2
#: Least share of the structure of the patterns that a network explains unless something is wrong.
LEAST_EXPLAINED = 0.3
#: A network that explains less than this after half of the training, and gets no better by as much, is reported whatever
#: it draws.
WORTHLESS = 0.05
#: A bounded output this near to its bound, as a part of its range, is saturated.
NEAR_BOUND = 0.01

#: The figures of a scan, as they stand in the history.
FIGURES = ("amplitude_contrast", "phase_spread_rad", "saturated_share", "explained_share")


def rows_to_look_at(groups: int) -> NDArray[np.int64]:
    """At most GROUPS of so many groups, evenly spread."""
    return np.unique(np.linspace(0, groups - 1, min(GROUPS, groups)).round().astype(np.int64))


@torch.no_grad()
def health_figures(model: PhysicsInformedModel, container: PtychoDataContainer) -> dict[str, float]:
    """Metrics of the network's predictions for a few groups, evenly spread over the scan. Contrast and spread
    exclude what all patches have in common: a network that predicts the same patch for every pattern has none, and a
    dark border common to all patches does not count.

    Returns:
        amplitude_contrast: standard deviation of the amplitude in a patch over its mean, weighted by the illumination.
        phase_spread_rad: circular standard deviation of the phase in a patch.
        saturated_share: fraction of the illuminated area where an output of the network is at its bound.
        explained_share: see :func:`.explained.explained_share`.
    """
    model.eval()
    rows = rows_to_look_at(len(container))
    device = model.probe_parts.device
    photons, relative = (torch.from_numpy(array).to(device) for array in container.batch(rows))
    weight = model.overlap_weight().cpu().double()
    weight = weight / weight.sum()
    patches = model.network_patches(photons).cpu().to(torch.complex128)
    predicted = model(photons, relative, container.largest_shift_px).intensity
    good = good_pixels_of(container.raw.bad_pixels, device)
    contrast, spread = contrast_and_spread(patches, weight)
    return {
        "amplitude_contrast": contrast,
        "phase_spread_rad": spread,
        "saturated_share": float((weight * _saturated(patches, model.config)).sum(dim=(-2, -1)).mean()),
        "explained_share": explained_share(Explained(predicted, photons, good), model.flat_diffraction()),
    }


def contrast_and_spread(patches: Tensor, weight: Tensor) -> tuple[float, float]:
    """How much amplitude and phase vary within complex patches [B, C, N, N], beyond what all have in common.

    Args:
        weight: of the pixels, [N, N], with a sum of 1.

    Returns:
        Standard deviation of the amplitude over its mean, and circular standard deviation of the phase in radians.
    """
    amplitude, phasor = patches.abs(), torch.polar(torch.ones_like(patches.real), torch.angle(patches))
    level = (weight * amplitude).sum(dim=(-2, -1)).clamp_min(1e-12)
    if len(patches) > 1:
        amplitude, phasor = amplitude - amplitude.mean(dim=0), phasor * phasor.mean(dim=0).sgn().conj()
    mean = (weight * amplitude).sum(dim=(-2, -1), keepdim=True)
    contrast = (weight * (amplitude - mean).square()).sum(dim=(-2, -1)).sqrt() / level
    alike = (weight * phasor).sum(dim=(-2, -1)).abs().clamp(1e-12, 1.0)
    return float(contrast.mean()), float(torch.sqrt(-2.0 * torch.log(alike)).mean())


def _saturated(patches: Tensor, config: ModelConfig) -> Tensor:
    """Where an output that has bounds is next to one of them, bool; real and imaginary parts have none."""
    unbounded = config.architecture != "cnn" and config.generator_output_mode == "real_imag"
    if unbounded or config.probe_conditioning == "retrieval":  # there the output is a change of what was retrieved
        return torch.zeros_like(patches.real, dtype=torch.bool)
    amplitude, phase = patches.abs(), torch.angle(patches).abs()
    at_bound = phase > (1 - NEAR_BOUND) * math.pi
    if config.amp_activation == "sigmoid":
        at_bound |= (amplitude < NEAR_BOUND) | (amplitude > 1 - NEAR_BOUND)
    if config.amp_activation == "relu":
        at_bound |= amplitude == 0
    return at_bound


def diagnose(history: Mapping[str, Sequence[float]], nepochs: int, of_scan: str = "") -> str | None:
    """Diagnosis of a network from its last epochs, and what to change; None if all is well.

    Args:
        nepochs: length of the whole training.
        history: one list per metric; those of FIGURES, followed by ``of_scan``, are used.
        of_scan: "" for a training on one scan, "/name" for one of several.
    """
    recent = [list(history.get(name + of_scan, ()))[-EPOCHS_IN_A_ROW:] for name in FIGURES]
    contrasts, spreads, saturated, explained = (np.array(values, dtype=np.float64) for values in recent)
    epochs = len(history.get(FIGURES[0] + of_scan, ()))
    if epochs < max(EPOCHS_IN_A_ROW, PATIENCE * nepochs):
        return None
    where = f" (scan {of_scan[1:]})" if of_scan else ""
    if (saturated > SATURATED).all():
        return (
            f"the network is saturated{where}: in {saturated[-1]:.0%} of the illuminated area its amplitude or "
            "phase has "
            "been at the limit of its range for three epochs, where gradients vanish. Start again with a lower "
            "execution.learning_rate or with gradient_clip_val 1; if amplitudes are at their upper limit, with a "
            "larger "
            "model.probe_scale, or model.amp_activation 'softplus'."
        )
    if not (explained < LEAST_EXPLAINED).all():
        return None
    flat_amplitude, flat_phase = (contrasts < FLAT_CONTRAST).all(), (spreads < FLAT_PHASE_RAD).all()
    seen = f"amplitude contrast {contrasts[-1]:.2%}, phase spread {spreads[-1]:.3f} rad"
    little = (
        f"{max(explained[-1], 0.0):.0%} of the difference between the patterns and those of an empty beam is explained"
    )
    advice = (
        "If the loss is still falling, train longer. Otherwise try execution.learning_rate ten times lower, then "
        "higher, "
        "scheduler "
        "'WarmupCosine', or mae_weight 1 with nll_weight 0 for the first epochs (loss_schedule), and check that "
        "probe and positions belong to the scan (ptycho-ray info)."
    )
    if flat_amplitude or flat_phase:
        flat = "object" if flat_amplitude and flat_phase else "amplitude" if flat_amplitude else "phase"
        return f"the network predicts a flat {flat}{where}: {seen}, and only {little}, for three epochs. {advice}"
    late = epochs >= 0.5 * nepochs
    if late and (explained < WORTHLESS).all() and explained.max() < explained[0] + WORTHLESS:
        return f"the network explains the patterns no better than an empty beam{where}: {seen}, {little}. {advice}"
    return None


class WarningLogger:
    """Logs the warnings of a training, each once (a ``Callback`` of the training loop)."""

    def __init__(self) -> None:
        self.told = 0

    def on_step(self, progress: Any, figures: dict[str, float], steps_in_epoch: int) -> None:
        """Does nothing: warnings come at the end of epochs."""

    def on_epoch(self, progress: Any, figures: dict[str, float], model: PhysicsInformedModel | None) -> None:
        for text in progress.warnings[self.told :]:
            log.warning("after epoch %d: %s", progress.epoch, text)
        self.told = len(progress.warnings)
