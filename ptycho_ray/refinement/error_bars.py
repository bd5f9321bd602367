"""Error bars of a solved image: how far from the truth the same solver ends on a scan whose truth is known.

Two solutions are compared with the image, after what diffraction leaves open has been fitted, as an error is:

- **A replica**: patterns drawn at the predicted rates are solved as the measured ones were, from the same start. Its truth is
  the image, so what differs is the effect of photon noise, of probe and positions if they are unknown, and of what such a
  solution leaves out.
- **Going on**: the solver goes on with the measured patterns. A part of the truth that the image lacks is lacking in the
  truth of the replica too, which does not miss it; it shows in what still changes.

Neither shows more than there is, so at each scale the larger counts. A smooth deviation is known only over many times its
scale: it is split by scale, and the window in which its square is averaged grows with it. Where the measured patterns are
explained worse than drawn ones, the bars are widened by the ratio of the root mean squares. docs/uncertainty.md says how well
this holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from ptycho_ray.data.raw_data import RawData
from ptycho_ray.evaluation.explained import noise_misfit
from ptycho_ray.evaluation.frc import RingCorrelation
from ptycho_ray.evaluation.registration import crop_truth, fit_ambiguities
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.measured_amplitude import writable_copy
from ptycho_ray.refinement.result import Diverged
from ptycho_ray.refinement.solver import Refinement, half_data_agreement

#: The solver goes on for this share of the iterations it has done, with steps (adam's) that much smaller than its usual ones.
GO_ON, GO_ON_STEP = 0.6, 1 / 3
#: A deviation is split at these standard deviations of a Gaussian, in pixels; 0.6 stands for a single pixel.
SCALES_PX = (0.6, 1.0, 2.0, 4.0, 8.0)
#: Standard deviation of the window of a scale in units of it: a dozen independent values.
WINDOW = 3.5
#: Photons of a unit are sought within so many powers of ten.
DECADES = 8.0


@dataclass(frozen=True)
class ErrorBars:
    """Standard deviation of every pixel of an image, as the image holds them, and what they are made of.

    Attributes:
        amplitude_std, phase_std: float32 [H, W], the phase in radians; zero where the image is not covered.
        covered: bool [H, W], the well-lit pixels.
        replica: medians over these of (amplitude, phase) by the replica alone.
        going_on: the same by what changes when the solver goes on.
        misfit: how many times worse the measured patterns are explained than drawn ones, as a ratio of root mean squares.
        halves: agreement of the images from two halves of the patterns, if it was determined.
    """

    amplitude_std: NDArray[np.float32]
    phase_std: NDArray[np.float32]
    covered: NDArray[np.bool_]
    replica: tuple[float, float]
    going_on: tuple[float, float]
    misfit: float
    halves: RingCorrelation | None = None

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
        if self.going_on[1] > self.replica[1]:
            line += f"; the phase still changes by {self.going_on[1]:.2g} rad: more iterations would improve it"
        return line


def error_bars(refinement: Refinement, photons_per_unit: float | None, generator: np.random.Generator) -> ErrorBars:
    """Error bars of the present image of a refinement, at 1.6 times the cost of the refinement; it is not changed.

    Args:
        photons_per_unit: photons per unit of the scan's intensity; if None, so many that their noise is the misfit.
        generator: draws the patterns.

    Raises:
        Diverged: a solution diverged however small its steps were.
    """
    image, config = refinement.stitched(), refinement.config
    covered = image.covered()
    further = _solved(refinement.again(refinement.run.kernel.amplitude, _going_on(refinement)))
    per_unit = refinement.photons_per_count(photons_per_unit) or _photons_that_explain(further)
    # Other batches, or the replica would repeat the errors of their order.
    once_more = dataclasses.replace(config, seed=config.seed + 1, patience=None, check_every=config.iterations + 1)
    anew = refinement.again(_drawn(refinement, per_unit, generator), once_more, from_the_start=True)
    replica = _solved(anew, refinement.run.iteration)
    misfit = float(np.sqrt(max(1.0, further.history[-1].loss / max(replica.history[-1].loss, 1e-30))))
    register = config.probe_start is not None
    by_replica = _deviation(replica.stitched(), image, covered, register)
    by_going_on = _deviation(further.stitched(), image, covered, register)
    amplitude_std, phase_std = (
        (misfit * np.sqrt(sum(np.maximum(*both) for both in zip(first, second, strict=True)))).astype(np.float32)
        for first, second in zip(by_replica, by_going_on, strict=True)
    )

    def medians(parts: list[Scales]) -> tuple[float, float]:
        amplitude, phase = (float(np.median(np.sqrt(sum(squares))[covered])) for squares in parts)
        return amplitude, phase

    return ErrorBars(amplitude_std, phase_std, covered, medians(by_replica), medians(by_going_on), misfit)


def error_bars_and_halves(
    refinement: Refinement,
    scan: RawData,
    photons_per_unit: float | None,
    generator: np.random.Generator,
    tell: Callable[[str], None],
    *,
    start: StitchedObject | None = None,
) -> ErrorBars | None:
    """Error bars with the agreement of two halves of the data, and a line about them; None if they could not be determined.

    Args:
        scan: what was refined, and ``start`` the image that it began with.
        tell: given the sentence, and why something is missing: a short or scarcely overlapping scan may diverge in halves.
    """
    try:
        bars = error_bars(refinement, photons_per_unit, generator)
    except Diverged as error:
        tell(f"no error bars: {error}")
        return None
    tell(bars.sentence)
    try:
        device = refinement.run.state.object.device
        halves = half_data_agreement(scan, refinement.config, refinement.result(), start=start, device=device)
    except Diverged as error:
        tell(f"no comparison of two halves of the data: {error}")
        return bars
    return replace(bars, halves=halves)


def _going_on(refinement: Refinement) -> RefinementConfig:
    """The settings of a solution that begins where the refinement has ended: every unknown moves at once."""
    config = refinement.config
    count = max(1, round(GO_ON * refinement.run.iteration))
    moving: dict[str, Any] = {
        name: 0 for name, start in dataclasses.asdict(config).items() if name.endswith("_start") and start is not None
    }
    if config.method == "adam":
        steps = {"object_step": config.adam_object_step, "probe_step": config.probe_step or 0.05}
        moving |= {name: GO_ON_STEP * step for name, step in steps.items()}
    return dataclasses.replace(config, iterations=count, check_every=count + 1, patience=None, **moving)


def _solved(refinement: Refinement, iterations: int | None = None) -> Refinement:
    """After so many iterations, or all."""
    for progress in refinement:
        if progress.iteration == iterations:
            break
    return refinement


@torch.no_grad()
def _rates(refinement: Refinement, rows: NDArray[np.int64], use: Callable[[torch.Tensor, torch.Tensor], None]) -> None:
    """``use`` is given numbers and predicted intensities [b, N, N] of the patterns ``rows``, some at a time."""
    for piece in refinement.run.chunks(rows):
        use(piece, refinement.run.kernel.forward(refinement.run.state, piece).intensity)


def _drawn(refinement: Refinement, per_unit: float, generator: np.random.Generator) -> torch.Tensor:
    """Amplitudes of patterns drawn at the predicted rates."""
    amplitude = writable_copy(refinement.run.kernel.amplitude)

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


#: Local mean square [H, W] of a deviation at each scale.
Scales = list[NDArray[np.float64]]


def _deviation(
    other: StitchedObject, image: StitchedObject, covered: NDArray[np.bool_], register: bool
) -> list[Scales]:
    """How amplitude and phase of an image on the same canvas differ, after what diffraction leaves open has been fitted."""
    found = fit_ambiguities(other.image, image.image, mask=covered, register=register)
    there = crop_truth(image.image, found.shift_px, other.image.shape)
    here = found.apply(other.image)
    return [_by_scale(part, covered) for part in (np.abs(here) - np.abs(there), np.angle(here * there.conj()))]


def _by_scale(deviation: NDArray[np.float64], covered: NDArray[np.bool_]) -> Scales:
    """Mean square at each scale in the neighbourhood of every covered pixel, zero elsewhere; in all that of the deviation."""

    def mean(values: NDArray[np.float64], width_px: float) -> NDArray[np.float64]:
        share = np.maximum(gaussian_filter(covered.astype(np.float64), width_px), 1e-9)
        return np.where(covered, gaussian_filter(np.where(covered, values, 0.0), width_px) / share, 0.0)

    smoother = [np.where(covered, deviation, 0.0), *(mean(deviation, scale) for scale in SCALES_PX[1:])]
    parts = [*(fine - coarse for fine, coarse in pairwise(smoother)), smoother[-1]]
    squares = [mean(part**2, WINDOW * scale) for part, scale in zip(parts, SCALES_PX, strict=True)]
    whole = sum(float(square[covered].sum()) for square in squares)
    return [square * (float((smoother[0] ** 2).sum()) / max(whole, 1e-300)) for square in squares]
