"""How well an estimate explains patterns that took no part in it.

A pattern that was not learnt from has no refined position and no fitted intensity of its own. Where these are unknowns, they
are fitted to one half of its pixels, a chessboard, and the pattern is judged by the other half: so a scan with wrong
positions is judged by what its image explains, and no pixel is judged that was fitted.

Legend: k patterns judged, N pattern side, u unknowns of a pattern.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.evaluation.explained import noise_difference, noise_misfit
from ptycho_ray.refinement.kernel import EPSILON
from ptycho_ray.refinement.run import Run

#: Patterns at a time.
AT_ONCE = 32
#: Steps of Gauss and Newton, and the most pixels that one may move.
STEPS, MOST_PX = 6, 0.5


@dataclass(frozen=True)
class PatternFigures:
    """Sums over the judged pixels of each pattern, float64 [k].

    Attributes:
        noise_is_known: whether the intensities can be counted in photons; if not, what is said of noise means nothing.
        misfit: the loss, ``sum (sqrt(I + c) - sqrt(n + c))**2`` (``kernel.py``).
        noise: what photon noise alone would leave of it at the predicted rates.
        difference, amplitude: ``sum |sqrt(I) - sqrt(n)|`` and ``sum sqrt(n)``, whose ratio is the R-factor.
        noise_difference: what photon noise alone would leave of ``difference``.
    """

    noise_is_known: bool
    misfit: NDArray[np.float64]
    noise: NDArray[np.float64]
    difference: NDArray[np.float64]
    noise_difference: NDArray[np.float64]
    amplitude: NDArray[np.float64]

    @property
    def r_factor(self) -> float:
        """Diffraction R-factor over all judged pixels."""
        return float(self.difference.sum() / self.amplitude.sum())

    @property
    def noise_r_factor(self) -> float:
        """The R-factor that photon noise alone would leave."""
        return float(self.noise_difference.sum() / self.amplitude.sum())

    @property
    def times_noise(self) -> float:
        """Root mean square difference of amplitudes over that of photon noise: one is perfect."""
        return float(np.sqrt(self.misfit.sum() / self.noise.sum()))

    def significance_over(self, other: PatternFigures) -> float:
        """How clearly the patterns are explained better than by ``other``: the mean of the logarithms of the ratios of their
        misfits in units of its standard error; zero for a single pattern."""
        logarithms = np.log(other.misfit / self.misfit)
        if len(logarithms) < 2:
            return 0.0
        error = logarithms.std(ddof=1) / np.sqrt(len(logarithms))
        return float(logarithms.mean() / max(error, 1e-12))


@torch.no_grad()
def judge_unseen(
    run: Run, rows: NDArray[np.int64], *, positions: bool, intensities: bool, photons_per_unit: float | None = None
) -> PatternFigures:
    """Judge the present estimate by the patterns ``rows`` [k].

    Args:
        positions, intensities: fit those of each pattern to half of its pixels first. The estimate itself is not changed.
        photons_per_unit: photons per unit of the run's intensity; only the noise depends on it. None if not known.
    """
    kernel, state, geometry = run.kernel, run.state, run.geometry
    side = kernel.amplitude.shape[-1]
    index = torch.arange(side, device=kernel.amplitude.device)
    black = ((index[:, None] + index) % 2 == 0).to(kernel.amplitude.dtype)
    good = torch.ones_like(black) if kernel.good is None else kernel.good
    fitted, judged = good * black, good * (1 - black)
    per_unit = photons_per_unit or 1.0
    sums: list[tuple[Tensor, ...]] = []
    fraction, scale = geometry.fraction.clone(), state.scale.clone()
    for piece in np.array_split(rows, max(1, -(-len(rows) // AT_ONCE))):
        some = run.tensor(piece)
        if positions or intensities:
            _fit_own(run, some, fitted, positions=positions, intensities=intensities)
        rate = kernel.forward(state, some).intensity
        root, measured = rate.clamp_min(0).sqrt(), kernel.amplitude.index_select(0, some)
        stabiliser = kernel.stabiliser
        loss = (rate.clamp_min(0).add(stabiliser).sqrt() - measured.square().add(stabiliser).sqrt()).square()
        photons = rate.double().cpu().numpy() * per_unit
        seen = judged.cpu().double()
        sums.append(
            tuple(
                each.double().sum(dim=(-2, -1)).cpu()
                for each in (
                    loss * judged,
                    torch.from_numpy(noise_misfit(photons, stabiliser) / (2 * per_unit)) * seen,
                    (root - measured).abs() * judged,
                    torch.from_numpy(noise_difference(photons) / math.sqrt(per_unit)) * seen,
                    measured * judged,
                )
            )
        )
    geometry.fraction.copy_(fraction)
    state.scale.copy_(scale)
    return PatternFigures(photons_per_unit is not None, *(torch.cat(part).numpy() for part in zip(*sums, strict=True)))


def _fit_own(run: Run, rows: Tensor, pixels: Tensor, *, positions: bool, intensities: bool) -> None:
    """Fit position and intensity of each pattern to ``pixels`` [N, N] by the loss, by steps of Gauss and Newton."""
    kernel, state, geometry = run.kernel, run.state, run.geometry
    stabiliser = kernel.stabiliser
    measured = (kernel.amplitude.index_select(0, rows).square() + stabiliser).sqrt()
    for _ in range(STEPS):
        now, slopes = kernel.position_slopes(state, rows)
        root = (now.square() + stabiliser).sqrt()
        design = torch.cat([slopes] * positions + [now[:, None]] * intensities, dim=1)
        design = design * (now / root.clamp_min(EPSILON) * pixels)[:, None]
        design = design.flatten(2).double()  # [b, u, N * N]
        normal = design @ design.mT
        normal += 1e-6 * torch.diag_embed(normal.diagonal(dim1=-2, dim2=-1) + 1e-12)
        wanted = design @ ((measured - root) * pixels).flatten(1).double()[..., None]
        step = torch.linalg.solve(normal, wanted)[..., 0].to(now.dtype)
        if positions:
            geometry.shift(rows, step[:, :2].clamp(-MOST_PX, MOST_PX))
        if intensities:
            factor = (1 + step[:, -1]).clamp(0.5, 2.0)
            state.scale.index_copy_(0, rows, state.scale.index_select(0, rows) * factor)
