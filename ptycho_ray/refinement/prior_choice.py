"""How much the learned prior may say: solutions with and without it, judged by what took no part.

Where the patterns determine the image, a prior only costs: so no prior is among the choices, and a strength is taken only if it
explains unseen counts better by more than chance. Unseen are some detector pixels of all patterns: a pattern that is left
out of a sparse scan would leave a hole in the image, and be judged by it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_ray.evaluation.explained import Explained
from ptycho_ray.evaluation.registration import crop_truth, fit_ambiguities
from ptycho_ray.models.denoiser import load_prior
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.priors import lit_photons
from ptycho_ray.refinement.run import Run
from ptycho_ray.refinement.unseen import AT_ONCE

if TYPE_CHECKING:
    from ptycho_ray.refinement.solver import Refinement

#: Strengths that are tried, after none.
STRENGTHS = (0.1, 0.3, 1.0)
#: Share of the detector pixels that judge.
HIDDEN = 0.05
#: A strength is taken if it is better by so many standard errors.
SIGNIFICANCE = 2.0


@dataclass(frozen=True)
class PriorChoice:
    """What the prior did to an image.

    Attributes:
        strength: that was chosen or given; zero for none.
        r_factors: of the unseen detector pixels, by strength, none (0) included.
        without: the image of the patterns alone, on the same canvas; its counts are unseen in the same detector pixels.
        noise: standard deviation that photon noise alone gives the transmission of a well-lit pixel.
    """

    strength: float
    r_factors: dict[float, float]
    without: StitchedObject
    noise: float

    def settings(self, config: RefinementConfig) -> RefinementConfig:
        """``config`` as it was chosen."""
        chosen = {"prior_strength": self.strength} if self.strength else {"prior": "none"}
        return dataclasses.replace(config, **chosen)

    @property
    def sentence(self) -> str:
        """For people."""
        tried = ", ".join(f"{strength:g}: {value:.4f}" for strength, value in self.r_factors.items())
        name = f"of strength {self.strength:g}" if self.strength else "none, the patterns say more"
        return f"prior: {name} (R-factors of unseen detector pixels by strength {tried})"

    def moved(
        self, image: StitchedObject, deviations: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    ) -> NDArray[np.float32]:
        """By how many standard deviations the prior has moved each pixel, float32 [H, W]. Where that is far above one, the
        image comes from the prior.

        Args:
            image: the one with the prior.
            deviations: of its amplitude and phase at each pixel; if None, the photon noise of a well-lit pixel counts
                everywhere.
        """
        found = fit_ambiguities(self.without.image, image.image, mask=image.covered(), register=False)
        there = crop_truth(image.image, found.shift_px, image.image.shape)
        distance = np.abs(found.apply(self.without.image) - there)
        unit: NDArray[np.float32] | float = self.noise
        if deviations is not None:
            unit = np.maximum(np.hypot(deviations[0], np.abs(there) * deviations[1]), 1e-6)
        return np.asarray(distance / unit, dtype=np.float32)


def choose_prior(
    config: RefinementConfig,
    begin: Callable[[RefinementConfig], Refinement],
    finish: Callable[[Refinement], None],
) -> tuple[Refinement, PriorChoice]:
    """Solve without the prior of ``config``, go on from there with each strength, or the one that is given, and take the best.

    From there, since with a prior what is smooth converges more slowly.

    Args:
        begin: a refinement with some settings, at its start.
        finish: iterates it to the end.
    """
    load_prior(config.prior)  # one that is none is told before anything is computed
    without = begin(dataclasses.replace(config, prior="none"))
    hidden = _hide(without.run, np.random.default_rng((config.seed, 11)))
    finish(without)
    lowest, r_factor = _judged(without, hidden)
    best, chosen, r_factors = without, 0.0, {0.0: r_factor}
    for strength in STRENGTHS if config.prior_strength is None else (config.prior_strength,):
        tried = without.again(without.run.kernel.amplitude, dataclasses.replace(config, prior_strength=strength))
        finish(tried)
        deviance, r_factors[strength] = _judged(tried, hidden)
        if config.prior_strength is not None or _significance(deviance, lowest) > SIGNIFICANCE:
            best, lowest, chosen = tried, deviance, strength
    noise = lit_photons(without.run.illumination()) ** -0.5
    return best, PriorChoice(chosen, r_factors, without.stitched(), noise)


def _hide(run: Run, generator: np.random.Generator) -> torch.Tensor:
    """Let some detector pixels take no part from now on; one where they are, real [N, N]."""
    amplitude = run.kernel.amplitude
    drawn = torch.from_numpy(generator.random(tuple(amplitude.shape[1:])) < HIDDEN).to(run.state.scale)
    good = torch.ones_like(drawn) if run.kernel.good is None else run.kernel.good
    run.kernel.good = good * (1 - drawn)
    return good * drawn


@torch.no_grad()
def _judged(refinement: Refinement, hidden: torch.Tensor) -> tuple[NDArray[np.float64], float]:
    """Of the hidden pixels: Poisson deviance of each pattern, float64 [n], and R-factor of all."""
    run, deviances, difference, amplitude = refinement.run, [], 0.0, 0.0
    for piece in np.array_split(run.rows, max(1, -(-len(run.rows) // AT_ONCE))):
        rows = run.tensor(piece)
        counts = run.kernel.amplitude.index_select(0, rows).square() * hidden
        seen = Explained(run.kernel.forward(run.state, rows).intensity, counts, hidden)
        deviances.append(seen.deviance().double().cpu())
        difference += float((seen.seen.sqrt() - counts.sqrt()).abs().sum())
        amplitude += float(counts.sqrt().sum())
    return torch.cat(deviances).numpy(), difference / amplitude


def _significance(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """By how many standard errors the deviances of the same patterns are smaller (their logarithms, on the mean)."""
    logarithms = np.log(theirs / ours)
    error = logarithms.std(ddof=1) / np.sqrt(len(logarithms))
    return float(logarithms.mean() / max(error, 1e-12))
