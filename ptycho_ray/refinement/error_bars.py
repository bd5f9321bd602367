"""Error bars of a solved image: how far the solution still moves, and how far photon noise moves it.

Two short solutions begin with the image; the squares of their local deviations are added:

- **Convergence**: the solver goes on with the measured patterns. What changes had not converged. At many photons this is
  the larger error, and resampled patterns do not show it: they would be solved with the same omission.
- **Noise**: patterns drawn at the predicted rates are solved, beginning with what predicts them. What changes is the effect of
  photon noise, and of the bias that the root of few counts has; probe and positions move along if they are unknown.

Both are compared with the image after what diffraction leaves open has been fitted, as an error is. Drawn patterns are easier
than measured ones: what the image lacks they lack too, above all where the detector is dim. So the deviation by noise is
multiplied by the ratio of the two misfits, measured to drawn. docs/uncertainty.md says how well this holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ptycho_ray.evaluation.explained import noise_misfit
from ptycho_ray.evaluation.registration import crop_truth, fit_ambiguities
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.solver import Refinement

#: Iterations of the two solutions, as shares of those of the refinement: together they cost what it has cost.
GO_ON, DRAWN = 0.6, 0.4
#: adam: steps of the solution of drawn patterns, relative to its usual ones: it begins where it ends, but for the noise.
DRAWN_STEP = 1 / 3
#: Standard deviation in pixels of the window in which a deviation is local: a dozen independent pixels or more.
LOCAL_PX = 2.0
#: Photons of a unit are sought within so many powers of ten.
DECADES = 8.0


@dataclass(frozen=True)
class ErrorBars:
    """Standard deviation of every pixel of an image, as the image holds them, and what they are made of.

    Attributes:
        amplitude_std, phase_std: float32 [H, W], the phase in radians; zero where the image is not covered.
        covered: bool [H, W], the well-lit pixels.
        noise: medians over these of (amplitude, phase) by photon noise alone.
        convergence: the same by what had not converged.
        misfit: how many times worse the measured patterns are explained than drawn ones, as a ratio of misfits.
    """

    amplitude_std: NDArray[np.float32]
    phase_std: NDArray[np.float32]
    covered: NDArray[np.bool_]
    noise: tuple[float, float]
    convergence: tuple[float, float]
    misfit: float

    def of(self, image: StitchedObject) -> StitchedObject:
        """The image with its error bars."""
        return replace(image, amplitude_std=self.amplitude_std, phase_std=self.phase_std)

    @property
    def medians(self) -> tuple[float, float]:
        """Of amplitude and phase over the well-lit pixels."""
        return float(np.median(self.amplitude_std[self.covered])), float(np.median(self.phase_std[self.covered]))

    @property
    def sentence(self) -> str:
        """For people."""
        amplitude, phase = self.medians
        line = f"error bars: median {amplitude:.2g} in amplitude, {phase:.2g} rad in phase"
        if self.convergence[1] > self.noise[1]:
            line += f"; the phase has not converged to its noise of {self.noise[1]:.2g} rad: more iterations would improve it"
        return line


def error_bars(refinement: Refinement, photons_per_unit: float | None, generator: np.random.Generator) -> ErrorBars:
    """Error bars of the present image of a refinement, at about the cost of the refinement; it is not changed.

    Args:
        photons_per_unit: photons per unit of the scan's intensity; if None, so many that their noise is the misfit.
        generator: draws the patterns.

    Raises:
        Diverged: a solution diverged however small its steps were.
    """
    image, config = refinement.stitched(), refinement.config
    covered = image.covered()
    further = _solved(refinement, refinement.run.kernel.amplitude, _settings(config, GO_ON, 1.0))
    per_unit = refinement.photons_per_count(photons_per_unit) or _photons_that_explain(further)
    drawn = _solved(further, _drawn(further, per_unit, generator), _settings(config, DRAWN, DRAWN_STEP))
    misfit = max(1.0, further.history[-1].loss / max(drawn.history[-1].loss, 1e-30))
    register = config.probe_start is not None
    convergence = _local(_deviation(further.stitched(), image, covered, register), covered)
    noise = _local(_deviation(drawn.stitched(), further.stitched(), covered, register), covered)
    noise = [each * misfit for each in noise]
    amplitude, phase = (np.hypot(a, b).astype(np.float32) for a, b in zip(convergence, noise, strict=True))

    def medians(parts: list[NDArray[Any]]) -> tuple[float, float]:
        return float(np.median(parts[0][covered])), float(np.median(parts[1][covered]))

    return ErrorBars(amplitude, phase, covered, medians(noise), medians(convergence), misfit)


def _settings(config: RefinementConfig, share: float, step: float) -> RefinementConfig:
    """Those of a solution that begins where the refinement has ended: every unknown moves at once."""
    count = max(1, round(share * config.iterations))
    moving: dict[str, Any] = {
        name: 0 for name, start in dataclasses.asdict(config).items() if name.endswith("_start") and start is not None
    }
    if config.method == "adam":
        moving |= {"object_step": step * (config.object_step or 0.06), "probe_step": step * (config.probe_step or 0.05)}
    return dataclasses.replace(config, iterations=count, check_every=count + 1, patience=None, **moving)


def _solved(refinement: Refinement, amplitude: torch.Tensor, config: RefinementConfig) -> Refinement:
    made = refinement.again(amplitude, config)
    for _ in made:
        pass
    return made


@torch.no_grad()
def _rates(refinement: Refinement, rows: NDArray[np.int64], use: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
    """``use`` is given numbers and predicted intensities [b, N, N] of the patterns ``rows``, some at a time."""
    for piece in refinement.run.chunks(rows):
        use(piece, refinement.run.kernel.forward(refinement.run.state, piece).intensity)


def _drawn(refinement: Refinement, per_unit: float, generator: np.random.Generator) -> torch.Tensor:
    """Amplitudes of patterns drawn at the predicted rates."""
    amplitude = refinement.run.kernel.amplitude.clone()

    def draw(rows: torch.Tensor, rate: torch.Tensor) -> None:
        counts = generator.poisson(rate.clamp_min(0).double().cpu().numpy() * per_unit) / per_unit
        amplitude.index_copy_(0, rows, torch.from_numpy(np.sqrt(counts)).to(amplitude))

    _rates(refinement, refinement.run.rows, draw)
    return amplitude


def _photons_that_explain(refinement: Refinement) -> float:
    """Photons per unit of intensity whose noise is the misfit of the present estimate."""
    kernel, rates = refinement.run.kernel, []
    wanted = 0.0
    rows = refinement.run.rows[:: max(1, len(refinement.run.rows) // 32)]

    def keep(piece: torch.Tensor, rate: torch.Tensor) -> None:
        nonlocal wanted
        difference = rate.clamp_min(0).sqrt() - kernel.amplitude.index_select(0, piece)
        good = torch.ones_like(rate[0]) if kernel.good is None else kernel.good
        wanted += float((difference * good).double().square().sum())
        rates.append((rate * good).double().cpu().numpy())

    _rates(refinement, rows, keep)
    all_rates = np.concatenate(rates)
    low, high = -DECADES, DECADES
    for _ in range(40):
        middle = (low + high) / 2
        noise = float(noise_misfit(all_rates * 10**middle).sum()) / (2 * 10**middle)
        low, high = (middle, high) if noise > wanted else (low, middle)
    return float(10**middle)


def _deviation(
    other: StitchedObject, image: StitchedObject, covered: NDArray[np.bool_], register: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How amplitude and phase of an image on the same canvas differ, after what diffraction leaves open has been fitted."""
    found = fit_ambiguities(other.image, image.image, mask=covered, register=register)
    there = crop_truth(image.image, found.shift_px, other.image.shape)
    here = found.apply(other.image)
    return np.abs(here) - np.abs(there), np.angle(here * there.conj())


def _local(
    deviation: tuple[NDArray[np.float64], NDArray[np.float64]], covered: NDArray[np.bool_]
) -> list[NDArray[np.float64]]:
    """Root mean square of each deviation in the neighbourhood of every covered pixel; zero elsewhere."""
    share = np.maximum(gaussian_filter(covered.astype(np.float64), LOCAL_PX), 1e-9)
    squares = (gaussian_filter(np.where(covered, part**2, 0.0), LOCAL_PX) for part in deviation)
    return [np.where(covered, np.sqrt(square / share), 0.0) for square in squares]
