"""What a refinement reports while it runs, and what it yields."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.prior_choice import PriorChoice
from ptycho_ray.refinement.slab import Slab


class Diverged(ArithmeticError):
    """The loss grows even with the smallest steps."""


@dataclass(frozen=True)
class Progress:
    """Progress of a refinement.

    Attributes:
        iteration, iterations: how many are done, of how many.
        loss: mean over the learnt pixels of the squared difference of amplitudes, seen during the iteration; about a quarter
            a lit pixel at the noise limit of photon counts.
        step: factor on the initial steps.
        backoffs: how often an iteration diverged and was repeated with half the step.
        seconds: since the refinement was started (or resumed).
        r_factor, deviance: diffraction R-factor and Poisson deviance of the held-out patterns, in iterations with a check.
    """

    iteration: int
    iterations: int
    loss: float
    step: float
    backoffs: int
    seconds: float
    r_factor: float | None = None
    deviance: float | None = None


@dataclass(frozen=True)
class RefinementResult:
    """Result of a refinement.

    Attributes:
        stitched: the object (of several slices their product) with the illumination as its weight.
        slices: each slice, complex64 [S, H, W].
        probe: modes in the units of the scan, orthogonal and brightest first, complex64 [P, N, N].
        positions_px: float64 [n, 2].
        intensity: relative intensity of each pattern, float [n].
        background: in the units of the scan, [N, N] with the zero frequency at N//2; None if none was fitted.
        slab: what lies between the slices of a thick object; None for a thin one.
        history: one Progress an iteration.
        stopped: why it ended.
        prior: what the learned prior did; None if there was none to choose.
    """

    stitched: StitchedObject
    slices: NDArray[np.complex64]
    probe: NDArray[np.complex64]
    positions_px: NDArray[np.float64]
    intensity: NDArray[np.float32]
    background: NDArray[np.float32] | None
    slab: Slab | None = None
    history: list[Progress] = field(default_factory=list)
    stopped: str = "all iterations done"
    prior: PriorChoice | None = None
