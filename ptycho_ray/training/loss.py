"""The training loss, and the metrics reported with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.config import TrainingConfig, term_weights
from ptycho_ray.config.extensions import find
from ptycho_ray.config.loss_schedule import LABEL_TERMS, parse_schedules, scheduled
from ptycho_ray.data.normalisation import Normalisation
from ptycho_ray.models.physics_informed import Prediction
from ptycho_ray.physics.agreement import amplitude_error, in_phase, object_error, phase_error
from ptycho_ray.physics.likelihood import (
    amplitude_absolute_error,
    apply_pixel_mask,
    gaussian_amplitude_misfit,
    gaussian_intensity_misfit,
    good_pixel_fraction,
    good_pixels_of,
    isotropic_variation,
    poisson_deviance,
    r_factor,
    total_variation,
)

#: Added to the variance of a pixel's counts, as a part of the mean photons a pixel: the weight of dark pixels is bounded.
VARIANCE_FLOOR = 0.1
#: Steps for which a network begins with squared errors in place of absolute ones, which leave it flat or nearly so: their
#: gradient is as large at the many weak pixels as at the few strong ones that tell where the object is.
SQUARES_FIRST = {"ffno": 48}


@dataclass(frozen=True)
class Evidence:
    """What a prediction is compared with besides the measured photons.

    Attributes:
        labels: the true object at each pattern, complex [b, C, N, N].
        label_weight: illumination of a patch, [N, N].
        disagreement: with the partner of each group, [b], 0 to 1.
    """

    labels: Tensor | None = None
    label_weight: Tensor | None = None
    disagreement: Tensor | None = None


class TrainingLoss:
    """Weighted sum of the terms that the configuration asks for, each of order one whatever the dose.

    ==================  ================================================================================================
    nll                 half the Poisson deviance per pixel, divided by the mean photons per pixel
    gaussian_amplitude  half the squared error of amplitudes over their variance 1/4, divided by the mean photons a pixel
    gaussian_intensity  half the squared error of counts over their measured variance, divided by the mean photons a pixel
    likelihood          that of another package (``config.extensions``), divided by the mean photons a pixel
    mae                 mean absolute difference of diffraction amplitudes in the units of the network's input
    tv                  total variation of the merged objects a pixel
    consistency         disagreement with an overlapping group, 0 to 1
    object_mae          mean absolute difference to the true object, in units of the transmission
    label_amplitude     mean absolute difference to the amplitude of the true object
    label_phase         mean absolute difference to its phase, radians
    r_factor            diffraction R-factor, reported only
    ==================  ================================================================================================

    ``bad_pixels`` (bool [N, N], True = bad) of the scan's detector count in none of them.
    With ``steps_an_epoch``, squared errors take the place of ``mae`` in the loss of the first steps of some networks
    (SQUARES_FIRST); what is reported as ``mae`` stays that. Formulas, units and advice: ``docs/losses.md``.
    """

    def __init__(
        self,
        config: TrainingConfig,
        normalisation: Normalisation,
        bad_pixels: NDArray[np.bool_] | None = None,
        *,
        steps_an_epoch: int | None = None,
    ) -> None:
        self.weights = term_weights(config)
        self.schedules = parse_schedules(config.loss_schedule)
        #: The figures that a call returns, in order.
        self.names = ("loss", *self.weights, "r_factor")
        self.needs_labels = any(name in LABEL_TERMS for name in self.weights)
        self.needs_partners = "consistency" in self.weights
        self.match_energy = config.torch_mae_pred_l2_match_target
        self.photons_per_pixel = normalisation.mean_photons / config.model.N**2
        self.input_scale = normalisation.input_scale
        self.likelihood = config.likelihood
        self.noise_variance = config.readout_noise_photons**2
        self.variation = total_variation if config.tv_kind == "squared" else isotropic_variation
        self.last_epoch = float(config.nepochs)
        first = SQUARES_FIRST.get(config.model.architecture, 0) if "mae" in self.weights else 0
        self.squares_until_epoch = first / steps_an_epoch if steps_an_epoch else 0.0
        self.good_pixels = good_pixels_of(bad_pixels)
        self.good_share = good_pixel_fraction(self.good_pixels)

    def __call__(
        self, prediction: Prediction, photons: Tensor, evidence: Evidence | None = None, *, epoch: float | None = None
    ) -> dict[str, Tensor]:
        """Terms as scalars, averaged over the batch; ``loss`` is their weighted sum and carries the gradient.

        ``epoch`` sets the weights that change over the training; without it they are those of its end.
        """
        terms = self.terms(prediction, photons, evidence or Evidence())
        now = self.last_epoch if epoch is None else epoch
        weights = scheduled(self.weights, self.schedules, now)
        minimised = terms
        if now < self.squares_until_epoch:
            squares = gaussian_amplitude_misfit(self._seen(prediction.intensity), photons).mean()
            minimised = terms | {"mae": squares / (self.photons_per_pixel * self.good_share)}
        loss = sum((weights[name] * value for name, value in minimised.items()), start=torch.zeros(()))
        figures = {name: value.detach() for name, value in terms.items()}
        with torch.no_grad():
            figures["r_factor"] = r_factor(self._seen(prediction.intensity), photons).mean()
        return {"loss": loss, **figures}

    def terms(self, prediction: Prediction, photons: Tensor, evidence: Evidence) -> dict[str, Tensor]:
        """Each term without its weight, a scalar that carries its gradient."""
        values = self._diffraction_terms(self._seen(prediction.intensity), photons)
        if "tv" in self.weights:
            values["tv"] = self.variation(prediction.canvas) / prediction.canvas.numel()
        if evidence.disagreement is not None:
            values["consistency"] = evidence.disagreement.mean()
        if evidence.labels is not None and evidence.label_weight is not None:
            values |= self._label_terms(prediction.patches, evidence.labels, evidence.label_weight)
        return {name: values[name] for name in self.weights}

    def _seen(self, intensity: Tensor) -> Tensor:
        if self.good_pixels is not None and self.good_pixels.device != intensity.device:
            self.good_pixels = self.good_pixels.to(intensity.device)
        return apply_pixel_mask(intensity, self.good_pixels)

    def _diffraction_terms(self, intensity: Tensor, photons: Tensor) -> dict[str, Tensor]:
        """Readout noise of variance s**2 is treated as s**2 additional photons, measured and predicted (the shifted
        Poisson model; Snyder et al., J. Opt. Soc. Am. A 12, 272, 1995)."""
        terms = {}
        rate, counts, scale = intensity, photons, self.photons_per_pixel * self.good_share
        if self.noise_variance:
            rate, counts = rate + self.noise_variance, counts + self.noise_variance
        if "nll" in self.weights:
            terms["nll"] = 0.5 * poisson_deviance(rate, counts).mean() / scale
        if "gaussian_amplitude" in self.weights:
            terms["gaussian_amplitude"] = gaussian_amplitude_misfit(rate, counts).mean() / scale
        if "gaussian_intensity" in self.weights:
            misfit = gaussian_intensity_misfit(rate, counts, VARIANCE_FLOOR * self.photons_per_pixel)
            terms["gaussian_intensity"] = misfit.mean() / scale
        if "likelihood" in self.weights:
            terms["likelihood"] = find("likelihood", self.likelihood)(rate, counts).mean() / scale
        if "mae" in self.weights:
            terms["mae"] = self._amplitude_error(intensity, photons) / self.good_share
        return terms

    def _amplitude_error(self, intensity: Tensor, photons: Tensor) -> Tensor:
        if self.match_energy:
            energy = photons.sum(dim=(-2, -1), keepdim=True)
            intensity = intensity * (energy / intensity.detach().sum(dim=(-2, -1), keepdim=True))
        return self.input_scale * amplitude_absolute_error(intensity, photons.sqrt()).mean()

    def _label_terms(self, patches: Tensor, labels: Tensor, weight: Tensor) -> dict[str, Tensor]:
        """The patches of a group share one global phase, so they are compared as one image [b, C * N, N]."""
        weight = weight.repeat(patches.shape[1], 1)
        patches, labels = patches.flatten(1, 2), labels.flatten(1, 2)
        turned = in_phase(patches, labels, weight)
        terms = {"object_mae": object_error, "label_amplitude": amplitude_error, "label_phase": phase_error}
        return {n: term(turned, labels, weight).mean() for n, term in terms.items() if n in self.weights}
