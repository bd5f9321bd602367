"""Gradient methods: Adam in small batches, and Nesterov's acceleration over the whole scan."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.refinement.auxiliary_unknowns import AuxiliaryUnknowns
from ptycho_ray.refinement.kernel import ByProbe
from ptycho_ray.refinement.moments import Moments
from ptycho_ray.refinement.priors import Learned, priors_of
from ptycho_ray.refinement.run import Run

#: accelerated: a pixel with less than this share of the best illumination moves as if it had that much.
DARK_SHARE = 1e-2
#: accelerated: the most of the last step that is taken again with a learned prior: what it adds is no gradient.
MOST_WITH_LEARNED = 0.9


class Derivatives:
    """Sums over a batch of the derivatives by what all patterns share, and the loss of each of its patterns.

    Its tensors are made once and used again; ``object`` is the derivative dL/dO on the whole canvas, [S, H, W].
    """

    def __init__(self, run: Run) -> None:
        state = run.state
        self.object = torch.zeros_like(state.object)
        self.probe = torch.zeros_like(state.probe_spectrum)
        self.eigen = torch.zeros_like(state.eigen_spectrum)
        self.background = None if state.background is None else torch.zeros_like(state.background)
        self.loss = torch.zeros((), dtype=state.scale.dtype, device=state.scale.device)
        self.box: tuple[slice, ...] = ()
        self.priors = priors_of(run)

    def begin(self, run: Run) -> None:
        """At the start of an iteration."""
        for prior in self.priors:
            prior.begin(run)

    def of(
        self,
        run: Run,
        rows: NDArray[np.int64],
        auxiliary: AuxiliaryUnknowns,
        share: float,
        light: Tensor | None = None,
    ) -> None:
        """Compute them for the batch ``rows``; what belongs to single patterns moves on the way.

        ``light`` [H, W] is given the photons that the batch lets fall on each pixel of the canvas, sub-pixel shifts included.
        """
        kernel, state = run.kernel, run.state
        if light is not None:
            light.zero_()
        self.box = (slice(None), *run.geometry.box(rows))
        for total in (self.object[self.box], self.probe, self.eigen, self.loss):
            total.zero_()
        if self.background is not None:
            self.background.zero_()
        for piece in run.chunks(rows):
            waves = kernel.forward(state, piece)
            auxiliary.intensity(run, waves)
            loss, by_intensity, by_wave = kernel.compare(waves, state.scale)
            by_patch, behind = kernel.back_to_object(waves, by_wave)
            if run.object_moves:
                for canvas, patches in zip(self.object, by_patch, strict=True):
                    kernel.scatter(canvas, waves.lines, patches)
            if light is not None:
                scale = state.scale.index_select(0, piece).square()[:, None, None]
                kernel.scatter(light, waves.lines, waves.probes.abs().square().sum(dim=1) * scale)
            if run.needs_probe_gradient:
                by_probe: ByProbe = kernel.back_to_probe(state, waves, behind)
                self.probe += by_probe.spectrum
                if by_probe.eigen_spectrum is not None:
                    self.eigen += by_probe.eigen_spectrum
                auxiliary.own_rows(run, piece, by_probe, share)
            if self.background is not None and run.moves(run.config.background_start):
                self.background += by_intensity.sum(dim=0)
            self.loss += loss.sum()
        if run.parallel.size > 1:
            inside = self.object[self.box].contiguous()
            sums = [inside, self.probe, self.eigen, self.loss.view(1)]
            run.add_up(sums + [each for each in (self.background, light) if each is not None])
            self.object[self.box] = inside
        for prior in self.priors if run.object_moves else ():
            share = len(rows) / len(run.rows) * (state.object.numel() / state.object[self.box].numel())
            prior.add_derivative(self.object, state.object, self.box, share)


class Adam:
    """Object, probe and everything else jointly, in small batches, each number by a step of its own (Adam)."""

    def __init__(self, run: Run) -> None:
        self.auxiliary = AuxiliaryUnknowns(run)
        self.derivatives = Derivatives(run)
        self.object = Moments(run.state.object)
        self.probe = Moments(run.state.probe_spectrum)

    def iterate(self, run: Run) -> Tensor:
        """One pass over the patterns; the sum of their losses, on the device."""
        config, state, share = run.config, run.state, run.schedule()
        object_step = config.adam_object_step * share
        probe = state.probe
        probe_step = (config.probe_step or 0.05) * share * probe.abs().max().double()
        total = torch.zeros_like(self.derivatives.loss)
        self.derivatives.begin(run)
        image = torch.view_as_real(state.object)
        for rows in run.batches():
            found = self.derivatives
            found.of(run, rows, self.auxiliary, share)
            total += found.loss
            if run.object_moves:
                gradient = torch.view_as_real(found.object[found.box].conj_physical_())
                self.object.step(image, gradient, object_step, found.box)
            if run.probe_moves:
                gradient = torch.fft.ifft2(found.probe.conj(), norm="ortho")
                self.probe.step(torch.view_as_real(probe), torch.view_as_real(gradient), probe_step)
                torch.fft.fft2(probe, norm="ortho", out=state.probe_spectrum)
            background = found.background if run.moves(config.background_start) else None
            self.auxiliary.common(run, background, found.eigen if len(found.eigen) else None, share, len(rows))
        return total


class Accelerated:
    """Nesterov's method over the whole scan, preconditioned by the illumination, with restarts (O'Donoghue, Candes 2015).

    The curvature of the loss in a pixel is at most twice the photons that it received, from the probes as they were shifted by
    fractions of a pixel, so the step needs no rate.
    """

    def __init__(self, run: Run) -> None:
        config = run.config
        self._light = torch.zeros_like(run.state.object[0].real)
        self._lit = False
        unknowns = (config.probe_start, config.position_start, config.intensity_start)
        self._light_rests = all(start is None for start in unknowns) and not config.eigenmodes
        self.auxiliary = AuxiliaryUnknowns(run)
        self.derivatives = Derivatives(run)
        self.object, self.probe = run.state.object.clone(), run.state.probe_spectrum.clone()
        self.momentum, self.previous = 1.0, math.inf

    @property
    def light(self) -> Tensor:
        """Photons that fell on each pixel of the canvas, real [H, W]; zero before the first step."""
        return self._light

    def iterate(self, run: Run) -> float:
        """One step; the loss of the point that it starts from."""
        config, state = run.config, run.state
        found = self.derivatives
        found.begin(run)
        found.of(run, run.rows, self.auxiliary, run.schedule(), None if self._lit else self._light)
        self._lit = self._light_rests
        loss = float(found.loss)
        learned = any(isinstance(prior, Learned) for prior in found.priors)
        if not learned:
            self.momentum = 1.0 if loss > self.previous else self.momentum
        self.previous = loss
        momentum = (1 + math.sqrt(1 + 4 * self.momentum**2)) / 2
        further = (self.momentum - 1) / momentum
        further = min(further, MOST_WITH_LEARNED) if learned else further
        self.momentum = momentum
        if run.object_moves:
            light = self._light.clamp_min(DARK_SHARE * self._light.max().double())
            light = light + sum(prior.curvature for prior in found.priors)
            step = (config.object_step or 1.0) * run.backoff / len(state.object)
            last, self.object = (
                self.object,
                _nesterov(state.object, self.object, found.object.conj() * (step / light), further),
            )
            if learned:  # its loss is not known, but whether loss and prior fall along the last step is
                uphill = torch.linalg.vecdot(found.object.conj().flatten(), (self.object - last).flatten()).real
                self.momentum = 1.0 if float(uphill) > 0 else self.momentum
        if run.probe_moves:
            passed = (state.object.abs().square().amax() * state.scale[run.tensor(run.rows)].square().sum()).double()
            stride = torch.full_like(passed, (config.probe_step or 1.0) * run.backoff) / passed
            self.probe = _nesterov(state.probe_spectrum, self.probe, found.probe.conj() * stride, further)
        background = found.background if run.moves(config.background_start) else None
        self.auxiliary.common(run, background, found.eigen if len(found.eigen) else None, run.schedule(), len(run.rows))
        return loss


def _nesterov(ahead: Tensor, point: Tensor, step: Tensor, further: float) -> Tensor:
    """Step from the point ahead; it moves on in place, the new point is returned."""
    moved = ahead - step
    ahead.copy_(moved + further * (moved - point))
    return moved
