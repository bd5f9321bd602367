"""Unknowns besides object and probe: positions, intensities, background, eigenmodes. The same for every method.

Each pattern is visited once per iteration by one process; then the changes of all processes are summed.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ptycho_ray.refinement.correlation import correlation_steps
from ptycho_ray.refinement.kernel import ByProbe, Waves
from ptycho_ray.refinement.measured_amplitude import mean_pattern
from ptycho_ray.refinement.moments import FIRST, Moments
from ptycho_ray.refinement.probe_modes import orthonormalised
from ptycho_ray.refinement.run import Run

#: Decay of the mean of squared position gradients: a pattern is seen once an iteration only.
SECOND = 0.99
#: newton: iterations between two computations of the curvature, the share of a step that is taken, the most pixels that it may
#: move, and what is added to the curvature, in units of its mean over the scan (none in the first iteration): a pattern without
#: structure stays.
CURVATURE_EVERY, NEWTON_SHARE, NEWTON_MOST_PX, NEWTON_DAMPING = 5, 0.5, 0.5, 0.02
#: First step of an eigenmode weight (relative to the probe) and of the eigenmodes.
WEIGHT_STEP, EIGEN_STEP = 0.01, 0.02
#: How far the intensity of a pattern follows the data at once.
INTENSITY_SHARE = 0.5
#: First step of the background, relative to the mean photons of a pixel.
BACKGROUND_STEP = 0.02
#: A smooth background is a sum of so many cosines along each axis of the detector; the share of a Newton step that is taken.
COSINES, SMOOTH_SHARE = 5, 0.3


class SmoothBackground:
    """Newton's steps of a background that is a sum of few cosines over the detector.

    The curvature of the loss is taken at the mean pattern: 1 / (2 n) a pattern and pixel.
    """

    def __init__(self, run: Run) -> None:
        kernel = run.kernel
        side = kernel.amplitude.shape[-1]
        angle = torch.pi * (torch.arange(side, dtype=torch.float64) + 0.5) / side
        along = torch.cos(angle * torch.arange(COSINES)[:, None])
        mean = mean_pattern(kernel.amplitude, run.rows)
        cosines = (along[:, None, :, None] * along[None, :, None, :]).reshape(-1, side, side).to(mean)
        self.cosines = kernel.propagator.arrange(cosines).flatten(1)
        weight = 0.5 / mean.clamp_min(float(mean.mean()) * 1e-4)
        weight = weight if kernel.good is None else weight * kernel.good
        normal = (self.cosines * weight.flatten()).double() @ self.cosines.T.double()
        self.inverse = torch.linalg.inv(normal).to(mean)

    def step(self, background: Tensor, by_background: Tensor, patterns: int) -> None:
        """Change ``background`` [N, N], given the derivative summed over so many patterns."""
        wanted = self.inverse @ (self.cosines @ by_background.flatten())
        background.sub_((wanted @ self.cosines).view_as(background), alpha=SMOOTH_SHARE / patterns)


class AuxiliaryUnknowns:
    """Updates them with the derivatives that a method provides."""

    def __init__(self, run: Run) -> None:
        state, geometry = run.state, run.geometry
        n = len(geometry)
        real = geometry.fraction
        self.position = {"mean": torch.zeros_like(real), "square": torch.zeros_like(real)}
        self.curvature = torch.zeros(n, 2, 2, dtype=real.dtype, device=real.device)
        self.visits = torch.zeros(n, 1, dtype=real.dtype, device=real.device)
        self.weight = {"mean": torch.zeros_like(state.eigen_weight), "square": torch.zeros_like(state.eigen_weight)}
        self.eigen = Moments(state.eigen_spectrum) if len(state.eigen_spectrum) else None
        self.background: Moments | SmoothBackground | None = None
        if state.background is not None:
            smooth = run.config.background_model == "smooth"
            self.background = SmoothBackground(run) if smooth else Moments(state.background)
        self.mean_pixel = 0.0 if self.background is None else float(mean_pattern(run.kernel.amplitude, run.rows).mean())
        self._typical_curvature = torch.zeros((), dtype=real.dtype, device=real.device)
        self._before: dict[str, Tensor] = {}

    def per_pattern(self, run: Run) -> dict[str, Tensor]:
        """Tensors with one row per pattern that an iteration changes."""
        return {
            "fraction": run.geometry.fraction,
            "position_mean": self.position["mean"],
            "position_square": self.position["square"],
            "curvature": self.curvature,
            "visits": self.visits,
            "scale": run.state.scale,
            "eigen_weight": run.state.eigen_weight,
            "weight_mean": self.weight["mean"],
            "weight_square": self.weight["square"],
        }

    def begin(self, run: Run) -> None:
        """An iteration begins. What is known of all patterns is taken here, where it is the same on every process."""
        traces = self.curvature.diagonal(dim1=-2, dim2=-1).sum(dim=-1)
        self._typical_curvature = traces.sum() / (2 * (traces > 0).sum().clamp_min(1))
        if run.parallel.size > 1:
            self._before = {name: value.clone() for name, value in self.per_pattern(run).items()}

    def intensity(self, run: Run, waves: Waves) -> None:
        """Fit the intensity of the patterns to the data, before the comparison at the detector."""
        if not run.moves(run.config.intensity_start):
            return
        factor = (1 + INTENSITY_SHARE * (run.kernel.best_scale(waves) - 1)).clamp(0.5, 2.0)
        scale = run.state.scale
        scale.index_copy_(0, waves.rows, scale.index_select(0, waves.rows) * factor)
        waves.intensity.mul_(factor.square()[:, None, None])

    def own_rows(self, run: Run, rows: Tensor, by_probe: ByProbe, share: float) -> None:
        """Update the unknowns of single patterns."""
        config = run.config
        if run.moves(config.position_start) and config.position_method == "gradient":
            visits = self.visits.index_select(0, rows) + 1
            self.visits.index_copy_(0, rows, visits)
            step = _adam_rows(self.position, rows, by_probe.position_px, visits)
            run.geometry.shift(rows, step * (-config.position_step_px * share))
        if run.moves(config.position_start) and config.position_method == "newton":
            run.geometry.shift(rows, self._newton_step(run, rows, by_probe.position_px))
        if by_probe.eigen_weight is not None and run.moves(config.eigenmode_start):
            visits = torch.full_like(self.visits[:1], run.iteration + 1.0 - config.eigenmode_start)
            step = _adam_rows(self.weight, rows, by_probe.eigen_weight, visits)
            run.state.eigen_weight.index_add_(0, rows, step, alpha=-WEIGHT_STEP * share)

    def _newton_step(self, run: Run, rows: Tensor, gradient: Tensor) -> Tensor:
        """Towards the minimum of each pattern's loss over its position, [b, 2] pixels (Gauss and Newton)."""
        config = run.config
        assert config.position_start is not None
        if (run.iteration - config.position_start) % CURVATURE_EVERY == 0:
            _, slopes = run.kernel.position_slopes(run.state, rows)
            slopes = (slopes if run.kernel.good is None else slopes * run.kernel.good).flatten(2)
            self.curvature.index_copy_(0, rows, 2 * slopes @ slopes.mT)
        own = self.curvature.index_select(0, rows)
        damping = NEWTON_DAMPING * self._typical_curvature + 1e-12
        damped = own + damping * torch.eye(2, dtype=own.dtype, device=own.device)
        step = -torch.linalg.solve_ex(damped, gradient[..., None]).result[..., 0]  # solve would look for an error
        return (step * (NEWTON_SHARE * run.backoff)).clamp(-NEWTON_MOST_PX, NEWTON_MOST_PX)

    def common(
        self, run: Run, by_background: Tensor | None, by_eigen: Tensor | None, share: float, patterns: int
    ) -> None:
        """Update the unknowns that all patterns share, with derivatives summed over so many patterns of the batch and over all
        processes."""
        state = run.state
        if by_background is not None and self.background is not None and state.background is not None:
            if isinstance(self.background, SmoothBackground):
                self.background.step(state.background, by_background, patterns)
            else:
                self.background.step(state.background, by_background, BACKGROUND_STEP * self.mean_pixel * share)
            state.background.clamp_min_(0)
        if by_eigen is not None and self.eigen is not None and run.moves(run.config.eigenmode_start):
            size = state.probe_spectrum[0].abs().max().double()
            gradient = torch.view_as_real(by_eigen.conj().resolve_conj())
            self.eigen.step(torch.view_as_real(state.eigen_spectrum), gradient, EIGEN_STEP * size * share)

    def settle(self, run: Run) -> None:
        """End of an iteration: synchronise processes, impose the model of the positions, keep eigenmodes orthogonal."""
        if run.moves(run.config.position_start) and run.config.position_method == "cross_correlation":
            for rows in run.chunks(run.rows):
                run.geometry.shift(rows, correlation_steps(run, rows))
        if run.parallel.size > 1:
            now = self.per_pattern(run)
            changes = [value - self._before[name] for name, value in now.items()]
            run.add_up(changes)
            for (name, value), change in zip(now.items(), changes, strict=True):
                value.copy_(self._before[name] + change)
        if run.moves(run.config.position_start):
            self._settle_positions(run)
        state = run.state
        if len(state.eigen_spectrum) and run.moves(run.config.eigenmode_start):
            state.eigen_weight.sub_(state.eigen_weight[run.tensor(run.rows)].mean(dim=0))
            norm = state.probe_spectrum[0].abs().square().sum().sqrt()
            flat = orthonormalised(state.eigen_spectrum.flatten(1), norm)
            state.eigen_spectrum.copy_(flat.view_as(state.eigen_spectrum))

    def _settle_positions(self, run: Run) -> None:
        geometry, limit = run.geometry, run.config.position_limit_px
        moved = geometry.positions_px - geometry.first
        moved[run.rows] -= run.mean_over_scan(moved[run.rows])  # a shift of all is one of the object
        moved = np.clip(moved, -limit, limit)
        if run.config.position_model == "affine":
            design = np.column_stack([geometry.first - geometry.first.mean(axis=0), np.ones(len(moved))])
            solution = np.linalg.lstsq(design[run.rows], moved[run.rows], rcond=None)[0]
            moved = design @ solution
        geometry.place(geometry.first + moved)


def _adam_rows(moments: dict[str, Tensor], rows: Tensor, gradient: Tensor, visits: Tensor) -> Tensor:
    """Adam's direction for some rows, [b, ...]; their moments are brought up to date."""
    mean = moments["mean"].index_select(0, rows).lerp_(gradient, 1 - FIRST)
    square = moments["square"].index_select(0, rows).mul_(SECOND).addcmul_(gradient, gradient, value=1 - SECOND)
    moments["mean"].index_copy_(0, rows, mean)
    moments["square"].index_copy_(0, rows, square)
    root = (square / (1 - SECOND**visits)).sqrt_().add_(1e-12)
    return mean / (1 - FIRST**visits) / root
