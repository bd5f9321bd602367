"""What training minimises, and the figures reported beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_ray.config import TrainingConfig
from ptycho_ray.data.normalisation import Normalisation
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.models.physics_informed import Prediction
from ptycho_ray.physics.likelihood import amplitude_absolute_error, poisson_deviance, r_factor, total_variation


class TrainingLoss:
    """Weighted sum of the terms that the configuration asks for, each of order one whatever the dose.

    ========  ===========================================================================================
    nll       Poisson deviance a pixel, divided by the mean photons a pixel
    mae       mean absolute difference of diffraction amplitudes in the units of the network's input
    tv        total variation of the merged objects a pixel
    r_factor  diffraction R-factor, reported only
    ========  ===========================================================================================
    """

    def __init__(self, config: TrainingConfig, normalisation: Normalisation) -> None:
        if config.realspace_mae_weight:
            raise ConfigurationError(
                "a loss against a known object needs labelled training, which this version does not have",
                field="realspace_mae_weight",
                found=config.realspace_mae_weight,
                expected=0,
            )
        variation_weight = config.realspace_weight * config.tv_weight
        self.weights = {"nll": config.nll_weight, "mae": config.mae_weight, "tv": variation_weight}
        #: The figures that a call returns, in order.
        self.names = ("loss", *(name for name, weight in self.weights.items() if weight), "r_factor")
        self.match_energy = config.torch_mae_pred_l2_match_target
        self.photons_per_pixel = normalisation.mean_photons / config.model.N**2
        self.input_scale = normalisation.input_scale

    def __call__(self, prediction: Prediction, photons: Tensor) -> dict[str, Tensor]:
        """Terms as scalars, averaged over the batch; ``loss`` is their weighted sum and carries the gradient."""
        terms = {}
        if self.weights["nll"]:
            terms["nll"] = poisson_deviance(prediction.intensity, photons).mean() / self.photons_per_pixel
        if self.weights["mae"]:
            terms["mae"] = self._amplitude_error(prediction.intensity, photons)
        if self.weights["tv"]:
            terms["tv"] = total_variation(prediction.canvas) / prediction.canvas.numel()
        loss = sum((self.weights[name] * value for name, value in terms.items()), start=torch.zeros(()))
        figures = {name: value.detach() for name, value in terms.items()}
        with torch.no_grad():
            figures["r_factor"] = r_factor(prediction.intensity, photons).mean()
        return {"loss": loss, **figures}

    def _amplitude_error(self, intensity: Tensor, photons: Tensor) -> Tensor:
        if self.match_energy:
            energy = photons.sum(dim=(-2, -1), keepdim=True)
            intensity = intensity * (energy / intensity.detach().sum(dim=(-2, -1), keepdim=True))
        return self.input_scale * amplitude_absolute_error(intensity, photons.sqrt()).mean()
