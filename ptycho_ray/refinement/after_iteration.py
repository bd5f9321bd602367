"""What follows every iteration: the smooth phase is carried on, and what is known of object and probe is imposed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.data.patterns import evenly_spread
from ptycho_ray.physics.probe import effective_diameter_px, soft_disc_mask
from ptycho_ray.refinement.constraints import (
    limit_amplitude,
    probe_centre_px,
    pull_to_phase_object,
    reduce_total_variation,
    shift_spectrum,
    smooth_phase,
)
from ptycho_ray.refinement.lean import set_upright
from ptycho_ray.refinement.raster import give_to_probe, raster_step_px
from ptycho_ray.refinement.run import Run
from ptycho_ray.refinement.smooth import SmoothAcceleration
from ptycho_ray.refinement.tiles_smooth import SmoothOverTiles

#: Methods whose smooth phase is carried on.
SMOOTHED = ("adam", "epie")
#: Iterations after which what repeats with a raster scan is taken from the object.
RASTER_EVERY = 5
#: Patterns by which a step of the smooth phase, or of the centre, is judged, and the factor by which it may raise their loss:
#: the steps that follow mend a little more than they lose (0.026 in place of 0.031 at the end on sim64_1e6), not a multiple.
JUDGES, RISE = 32, 1.5


class AfterIteration:
    """What is imposed after every iteration of a refinement.

    Args:
        run: at its first iteration, whose probe has the centre and the photons that are held.
        support: support of the sample on the canvas, bool [H, W]; outside, the object is one.
    """

    def __init__(self, run: Run, support: NDArray[np.bool_] | None) -> None:
        config, state = run.config, run.state
        self._power = state.probe_spectrum.abs().square().sum().double()
        self._centre_px = probe_centre_px(state.probe)
        moving = config.position_start is not None or config.slices > 1
        self._raster = None if moving else raster_step_px(run.geometry.positions_px)
        self._outside = None if support is None else torch.as_tensor(~support, device=state.object.device)
        self._support: Tensor | None = None
        if config.probe_support_px is not None:
            self._support = soft_disc_mask(run.geometry.side, config.probe_support_px, 0.0, state.object.device)
        self.smooth: SmoothAcceleration | SmoothOverTiles | None = None
        self.begin(run)

    def begin(self, run: Run) -> None:
        """Start without history."""
        image, gain = run.state.object, run.config.smooth_gain
        if gain <= 0 or run.config.method not in SMOOTHED:
            self.smooth = None
        elif run.tiles is None:
            self.smooth = SmoothAcceleration(image, gain)
        else:
            self.smooth = SmoothOverTiles(image, gain, run.tiles, run.geometry.side)

    def apply(self, run: Run) -> None:
        """Impose it on the present estimate."""
        config, state = run.config, run.state
        if self.smooth is not None and run.object_moves and run.iteration < config.iterations - 1:
            _carry_on_smooth_phase(run, self.smooth)
        if self._outside is not None:
            state.object[:, self._outside] = 1
        if config.total_variation:
            reduce_total_variation(state.object, config.total_variation)
        if config.phase_smoothing:
            smooth_phase(state.object, config.phase_smoothing)
        if config.phase_object:
            pull_to_phase_object(state.object, config.phase_object)
        if config.amplitude_limit is not None:
            limit_amplitude(state.object, config.amplitude_limit)
        if self._raster is not None and run.probe_moves and run.iteration % RASTER_EVERY == RASTER_EVERY - 1:
            give_to_probe(run, self._raster)
        if self._support is not None:
            state.probe_spectrum.copy_(torch.fft.fft2(state.probe * self._support, norm="ortho"))
        if run.probe_moves and not run.moves(config.centre_start):
            _hold_centre(run, self._centre_px)
        if run.moves(config.tilt_start):
            set_upright(run, () if self.smooth is None else (self.smooth.last,))
        if config.hold_probe_power:
            state.probe_spectrum.mul_((self._power / state.probe_spectrum.abs().square().sum().double()).sqrt())


def _hold_centre(run: Run, centre_px: Tensor) -> None:
    """Shift the probe back, unless the loss on a sample of patterns rises: then the object has moved with it, or what moved is
    a faint mode, and each shift would have to be learnt anew."""
    state, some = run.state, run.rows[evenly_spread(len(run.rows), JUDGES)]
    before, loss = state.probe_spectrum.clone(), run.loss_there(some)
    shift_spectrum(state.probe_spectrum, centre_px - probe_centre_px(state.probe))
    worse = run.loss_there(some) > RISE * loss
    state.probe_spectrum.copy_(torch.where(worse, before, state.probe_spectrum))


def _carry_on_smooth_phase(run: Run, smooth: SmoothAcceleration | SmoothOverTiles) -> None:
    """Unless the loss on a sample of patterns rises, as it may where the start is good and the phase not smooth."""
    state, some = run.state, run.rows[evenly_spread(len(run.rows), JUDGES)]
    loss = run.loss_there(some)
    diameter = effective_diameter_px(state.probe).clamp_min(state.probe.shape[-1] / 4)
    smooth.apply(state.object, run.illumination, diameter)
    worse = run.loss_there(some) > RISE * loss
    torch.where(worse, smooth.last, state.object, out=state.object)
    smooth.last.copy_(state.object)
