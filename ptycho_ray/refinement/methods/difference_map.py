"""The relaxed difference map: all exit waves are kept, and two projections alternate."""

from __future__ import annotations

import torch
from torch import Tensor

from ptycho_ray.refinement.auxiliary_unknowns import AuxiliaryUnknowns
from ptycho_ray.refinement.kernel import EPSILON
from ptycho_ray.refinement.run import Run

#: Rounds of object and probe in the overlap projection.
ROUNDS = 2
#: Floor of the denominators, relative to the largest.
FLOOR = 1e-3


class DifferenceMap:
    """Difference map (Thibault et al. 2009) with relaxation: ``w += b (M(2 A(w) - w) - A(w))``.

    A makes the exit waves consistent with one object and one probe, M imposes the measured amplitudes. It needs memory
    for all exit waves; each process keeps those of its own patterns.
    """

    def __init__(self, run: Run) -> None:
        self.auxiliary = AuxiliaryUnknowns(run)
        self.pieces = run.chunks(run.rows)
        self.waves = [self._product(run, piece) for piece in self.pieces]
        self.light = torch.zeros_like(run.state.object[0].real)

    def iterate(self, run: Run) -> float:
        self._overlap(run)
        loss = torch.zeros_like(run.state.scale[:1])
        for piece, kept in zip(self.pieces, self.waves, strict=True):
            agreed = self._product(run, piece)
            measured, error = self._with_measured_amplitude(run, piece, 2 * agreed - kept, agreed)
            kept.add_(measured - agreed, alpha=run.config.relaxation * run.backoff)
            loss += error
        run.add_up([loss])
        return float(loss)

    def _product(self, run: Run, piece: Tensor) -> Tensor:
        patches = run.kernel.gather(run.state.object[0], run.geometry.lines(piece))
        return run.kernel.probes(run.state, piece) * patches[:, None]

    def _with_measured_amplitude(self, run: Run, piece: Tensor, waves: Tensor, agreed: Tensor) -> tuple[Tensor, Tensor]:
        """``waves`` with the measured amplitudes, and the loss of ``agreed``."""
        kernel = run.kernel
        measured = kernel.amplitude.index_select(0, piece)
        detector = kernel.propagator.forward(waves)
        factor = measured / (detector.abs().square().sum(dim=1) + EPSILON).sqrt()
        predicted = (kernel.propagator.forward(agreed).abs().square().sum(dim=1) + EPSILON).sqrt()
        difference = predicted - measured
        if kernel.good is not None:
            factor = factor * kernel.good + (1 - kernel.good)
            difference = difference * kernel.good
        return kernel.propagator.backward(detector * factor[:, None]), difference.square().sum()

    def _overlap(self, run: Run) -> None:
        """The object and the probe whose products are nearest to the waves."""
        kernel, state, geometry = run.kernel, run.state, run.geometry
        for _ in range(ROUNDS if run.probe_moves else 1):
            if run.object_moves:
                total = torch.zeros_like(state.object[0])
                self.light.zero_()
                for piece, waves in zip(self.pieces, self.waves, strict=True):
                    probes, lines = kernel.probes(state, piece), geometry.lines(piece)
                    kernel.scatter(total, lines, (probes.conj() * waves).sum(dim=1))
                    light = probes.abs().square().sum(dim=1)
                    self.light.view(-1).index_add_(0, geometry.pixels(lines), light.reshape(-1))
                run.add_up([total, self.light])
                floor = FLOOR * self.light.max().double()
                state.object[0] = (total + floor * state.object[0]) / (self.light + floor)
            if run.probe_moves:
                numerator, passed = (
                    torch.zeros_like(state.probe_spectrum),
                    torch.zeros_like(state.probe_spectrum.real[0]),
                )
                for piece, waves in zip(self.pieces, self.waves, strict=True):
                    patches = kernel.gather(state.object[0], geometry.lines(piece))
                    passed += patches.abs().square().sum(dim=0)
                    ramps = geometry.ramps(piece).conj()
                    back = torch.fft.fft2(patches.conj()[:, None] * waves, norm="ortho")
                    numerator += (back * ramps[:, 0, None, :, None] * ramps[:, 1, None, None, :]).sum(dim=0)
                run.add_up([numerator, passed])
                floor = FLOOR * passed.max().double()
                probe = (torch.fft.ifft2(numerator, norm="ortho") + floor * state.probe) / (passed + floor)
                torch.fft.fft2(probe, norm="ortho", out=state.probe_spectrum)
