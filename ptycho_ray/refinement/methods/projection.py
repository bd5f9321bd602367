"""Methods that go from pattern to pattern: ePIE, rPIE, and least-squares steps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.refinement.auxiliary_unknowns import AuxiliaryUnknowns
from ptycho_ray.refinement.kernel import ByProbe, Waves
from ptycho_ray.refinement.run import Run

TINY = 1e-12


class Iterative:
    """ePIE and rPIE (Maiden, Johnson, Li 2017) for batches: the sum of the updates of a batch over the sum of their weights.

    For a batch of one it is the published update; ``damping`` 1 is ePIE. With more patterns, each pixel's weights are added
    where patterns overlap, so that the step never exceeds that of error reduction.
    """

    def __init__(self, run: Run) -> None:
        state = run.state
        self.auxiliary = AuxiliaryUnknowns(run)
        self.damping = 1.0 if run.config.method == "epie" else run.config.damping
        self.object = torch.zeros_like(state.object)
        self.light = torch.zeros_like(state.object[0].real)
        self.loss = torch.zeros_like(state.scale[:1])

    def iterate(self, run: Run) -> Tensor:
        """One pass over the patterns; the sum of their losses, on the device."""
        total = torch.zeros_like(self.loss)
        for rows in run.batches():
            total += self.step(run, rows, run.schedule())
        return total.sum()

    def step(self, run: Run, rows: NDArray[np.int64], share: float) -> Tensor:
        """Update from one batch; its loss [1]."""
        kernel, state, config = run.kernel, run.state, run.config
        box = run.geometry.box(rows)
        inside, light = self.object[(slice(None), *box)], self.light[box]
        for total in (inside, light, self.loss):
            total.zero_()
        spectrum, eigen = torch.zeros_like(state.probe_spectrum), torch.zeros_like(state.eigen_spectrum)
        background = None if state.background is None else torch.zeros_like(state.background)
        for piece in run.chunks(rows):
            waves = kernel.forward(state, piece)
            self.auxiliary.intensity(run, waves)
            loss, by_intensity, by_wave = kernel.compare(waves, state.scale)
            by_patch, behind = kernel.back_to_object(waves, by_wave)
            if run.object_moves:
                for canvas, patches in zip(self.object, by_patch, strict=True):
                    kernel.scatter(canvas, waves.lines, patches)
                intensity = waves.probes.abs().square().sum(dim=1)
                self.light.view(-1).index_add_(0, run.geometry.pixels(waves.lines), intensity.reshape(-1))
            if run.needs_probe_gradient:
                by_probe: ByProbe = kernel.back_to_probe(state, waves, behind)
                spectrum += by_probe.spectrum
                if by_probe.eigen_spectrum is not None:
                    eigen += by_probe.eigen_spectrum
                self.auxiliary.own_rows(run, piece, by_probe, share)
            if background is not None and run.moves(config.background_start):
                background += by_intensity.sum(dim=0)
            self.loss += loss.sum()
        if run.parallel.size > 1:
            parts = [inside.contiguous(), light.contiguous()]
            run.add_up([*parts, spectrum, eigen, self.loss, *([] if background is None else [background])])
            inside.copy_(parts[0])
            light.copy_(parts[1])
        if run.object_moves:
            brightest = state.probe.abs().square().sum(dim=0).amax().double()
            weight = (1 - self.damping) * light + self.damping * brightest
            weight = torch.maximum(weight, light)
            step = (config.object_step or 1.0) * share / len(state.object)
            state.object[(slice(None), *box)] -= inside.conj() * (step / weight)
        if run.probe_moves:
            passed = state.object[(slice(None), *box)].abs().square().amax().double() * len(rows)
            stride = torch.full_like(passed, (config.probe_step or 1.0) * share) / passed
            state.probe_spectrum.sub_(spectrum.conj() * stride)
        moving = background if run.moves(config.background_start) else None
        self.auxiliary.common(run, moving, eigen if len(eigen) else None, share, len(rows))
        return self.loss


class LeastSquares:
    """Least-squares maximum likelihood (Odstrcil, Menzel, Guizar-Sicairos 2018), for a thin object.

    The directions of object and probe are those of the whole batch; the step length of each pattern along them is the
    solution of its own least-squares problem, and the steps are averaged, weighted by the illumination.
    """

    def __init__(self, run: Run) -> None:
        self.auxiliary = AuxiliaryUnknowns(run)
        self.direction = torch.zeros_like(run.state.object[0])
        self.light = torch.zeros_like(run.state.object[0].real)
        self.step_light = torch.zeros_like(self.light)
        self.loss = torch.zeros_like(run.state.scale[:1])

    def iterate(self, run: Run) -> Tensor:
        total = torch.zeros_like(self.loss)
        for rows in run.batches():
            total += self.step(run, rows, run.schedule())
        return total.sum()

    def step(self, run: Run, rows: NDArray[np.int64], share: float) -> Tensor:
        """Update from one batch; its loss [1]."""
        kernel, state, config = run.kernel, run.state, run.config
        box = run.geometry.box(rows)
        for total in (self.direction[box], self.light[box], self.step_light[box], self.loss):
            total.zero_()
        spectrum = torch.zeros_like(state.probe_spectrum)
        eigen = torch.zeros_like(state.eigen_spectrum)
        background = None if state.background is None else torch.zeros_like(state.background)
        kept: list[tuple[Waves, Tensor]] = []
        pixels = run.geometry.pixels
        for piece in run.chunks(rows):
            waves = kernel.forward(state, piece)
            self.auxiliary.intensity(run, waves)
            loss, by_intensity, by_wave = kernel.compare(waves, state.scale)
            by_patch, behind = kernel.back_to_object(waves, by_wave)
            kernel.scatter(self.direction, waves.lines, by_patch[0])
            light = waves.probes.abs().square().sum(dim=1)
            self.light.view(-1).index_add_(0, pixels(waves.lines), light.reshape(-1))
            by_probe = kernel.back_to_probe(state, waves, behind)
            spectrum += by_probe.spectrum
            if by_probe.eigen_spectrum is not None:
                eigen += by_probe.eigen_spectrum
            self.auxiliary.own_rows(run, piece, by_probe, share)
            if background is not None and run.moves(config.background_start):
                background += by_intensity.sum(dim=0)
            self.loss += loss.sum()
            kept.append((waves, behind))
        parts = [self.direction[box].contiguous(), self.light[box].contiguous()]
        run.add_up([*parts, spectrum, eigen, self.loss, *([] if background is None else [background])])
        brightest = state.probe.abs().square().sum(dim=0).amax().double()
        self.light[box] = parts[1]
        self.direction[box] = -parts[0].conj() / (parts[1] + config.damping * brightest)
        passed = state.object[0][box].abs().square().amax().double() * len(rows)
        toward = -spectrum.conj() / passed
        object_moves, probe_moves = run.object_moves, run.probe_moves
        steps = torch.zeros(2, dtype=self.loss.dtype, device=self.loss.device)
        for waves, behind in kept:
            by_object = waves.probes * kernel.gather(self.direction, waves.lines)[:, None]
            length = _least_squares_step(by_object, behind)
            light = waves.probes.abs().square().sum(dim=1) * length[:, None, None]
            self.step_light.view(-1).index_add_(0, pixels(waves.lines), light.reshape(-1))
            if probe_moves:
                by_shift = self._shifted(run, toward, waves) * waves.patches[0]
                steps[0] += _least_squares_step(by_shift, behind).sum()
                steps[1] += len(length)
        part = self.step_light[box].contiguous()
        run.add_up([part, steps])
        if object_moves:
            mean_step = part / self.light[box].clamp_min(TINY)
            step = (config.object_step or 1.0) * share
            state.object[0][box] += self.direction[box] * (step * mean_step)
        if probe_moves:
            stride = (config.probe_step or 1.0) * share * (steps[0] / steps[1]).double()
            state.probe_spectrum.add_(toward * stride)
        moving = background if run.moves(config.background_start) else None
        self.auxiliary.common(run, moving, eigen if len(eigen) else None, share, len(rows))
        return self.loss

    @staticmethod
    def _shifted(run: Run, spectrum: Tensor, waves: Waves) -> Tensor:
        ramps = run.geometry.ramps(waves.rows)
        moved = spectrum * ramps[:, 0, None, :, None] * ramps[:, 1, None, None, :]
        return torch.fft.ifft2(moved, norm="ortho")


def _least_squares_step(change: Tensor, behind: Tensor) -> Tensor:
    """How far along ``change`` [b, P, N, N] of the exit wave its correction, minus the conjugate of ``behind``, lies; [b]."""
    along = -(change * behind).real.sum(dim=(1, 2, 3))
    return (along / change.abs().square().sum(dim=(1, 2, 3)).clamp_min(TINY)).clamp(0, 4)
