"""What is known of an object besides its pattern, as a projection of transmissions for the single-pattern solver.

The lines of the reference have one unknown a pixel and not two: their phase is zero, or a function of their amplitude. A
network can learn that from its training patterns; here it is learnt from them, solved with their overlap, and given to the
single-pattern solver.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from benchmarks.field.cases import Case
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.solver import Refinement

Project = Callable[[Tensor], Tensor]
#: Iterations of the solver for the training scan.
ITERATIONS = 15
#: Points of a curve, and the steps towards its nearest point.
POINTS, NEWTON_STEPS = 256, 1


def real(case: Case, seed: int) -> Project:
    """The phase is zero."""
    return lambda patches: patches.real.clamp_min(0).to(patches.dtype)


def learnt_curve(case: Case, seed: int) -> Project:
    """The phase is a function of the amplitude: that of the training scan, solved with its overlap, without its truth."""
    assert case.training is not None
    scan = case.training()
    config = RefinementConfig(iterations=ITERATIONS, probe_start=None, held_out_fraction=0.0, seed=seed)
    refinement = Refinement(scan, config)
    for _ in refinement:
        pass
    solved = refinement.stitched()
    # The solver counts amplitudes in units of the mean transmission.
    scale = float(np.sqrt(scan.pattern_energies().mean() / np.sum(np.abs(scan.probe) ** 2)))
    return Curve(scale * solved.image[solved.covered()]).project


class Curve:
    """Phases [POINTS] over amplitudes from zero to the largest, from the pixels of an image, complex [n]."""

    def __init__(self, pixels: NDArray[np.complexfloating]) -> None:
        amplitude = np.abs(pixels)
        self.step = float(amplitude.max()) / (POINTS - 1)
        number = np.rint(amplitude / self.step).astype(int)
        turn = pixels / np.maximum(amplitude, 1e-12)
        mean = np.bincount(number, turn.real, POINTS) + 1j * np.bincount(number, turn.imag, POINTS)
        seen = np.flatnonzero(mean)
        phase = np.interp(np.arange(POINTS), seen, np.unwrap(np.angle(mean[seen])))
        self.phase = torch.from_numpy(gaussian_filter1d(phase, 2.0)).float()

    def at(self, amplitude: Tensor) -> tuple[Tensor, Tensor]:
        """The transmission at an amplitude, and its derivative."""
        place = (amplitude / self.step).clamp(0, POINTS - 1.001)
        low = place.long()
        slope = (self.phase[low + 1] - self.phase[low]) / self.step
        phase = self.phase[low] + (place - low) * self.step * slope
        turn = torch.polar(torch.ones_like(amplitude), phase)
        return amplitude * turn, turn * torch.complex(torch.ones_like(amplitude), amplitude * slope)

    def project(self, patches: Tensor) -> Tensor:
        """The point of the curve nearest to each transmission."""
        amplitude = patches.abs()
        for _ in range(NEWTON_STEPS):
            there, along = self.at(amplitude)
            amplitude = amplitude + ((patches - there) * along.conj()).real / along.abs().square()
            amplitude = amplitude.clamp_min(0)
        return self.at(amplitude)[0]
