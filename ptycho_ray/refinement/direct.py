"""Solving for the object alone, without a network: Nesterov's method through the forward model, a few passes over a scan.

The probe and the positions are fixed; the object starts flat. It takes seconds and shows how well the assumed experiment
(defocus, positions, photons) can explain the data, which a half-trained network does not. This is measured on held-out
patterns: they are not fitted, but their neighbours illuminate the same object. No checks are made and no warnings given: a
wrong experiment simply explains less.

The step is that of :class:`ptycho_ray.refinement.methods.gradient.Accelerated`; ``ptycho-ray refine`` does the same and more.

Legend: n patterns, P incoherent modes, N pattern side, [H, W] canvas.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.errors import InputError
from ptycho_ray.evaluation.explained import Explained, Figures, mean_figures
from ptycho_ray.physics.propagation import FarField
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.estimate import Estimate
from ptycho_ray.refinement.kernel import Kernel
from ptycho_ray.refinement.methods.gradient import Accelerated
from ptycho_ray.refinement.patch_geometry import Geometry
from ptycho_ray.refinement.run import Run
from ptycho_ray.training.parallel import DataParallel

SETTINGS = RefinementConfig(method="accelerated", schedule="constant", probe_start=None, held_out_fraction=0.0)


class DirectSolver:
    """The object of one scan; it starts flat.

    Args:
        photons: measured patterns, float32 [n, N, N], zero frequency at N//2.
        positions_px: float64 [n, 2] (row, column); patch pixel N//2 lies on the position.
        probe: modes in sqrt(photons), complex64 [P, N, N].
        learn: bool [n], the patterns that are fitted; all if None.
        photon_scale: photons per unit of the file's intensity; only the likelihood depends on it.
        bad_pixels: bool [N, N], True where a detector pixel is bad; it counts nowhere.

    Raises:
        InputError: lengths differ, or nothing is left to learn from.
    """

    def __init__(
        self,
        photons: Tensor,
        positions_px: NDArray[np.float64],
        probe: Tensor,
        *,
        learn: NDArray[np.bool_] | None = None,
        photon_scale: float = 1.0,
        bad_pixels: NDArray[np.bool_] | None = None,
    ) -> None:
        if len(positions_px) != len(photons):
            expected = f"{len(photons)}, one per pattern"
            raise InputError(field="positions_px", found=f"{len(positions_px)} positions", expected=expected)
        good = None if bad_pixels is None else torch.as_tensor(~bad_pixels, dtype=torch.float32, device=photons.device)
        far_field = FarField()
        self.kernel = Kernel(
            far_field.arrange(photons).sqrt_(),
            Geometry(positions_px, photons.shape[-1], device=photons.device),
            far_field,
            good=None if good is None else far_field.arrange(good).contiguous(),
        )
        self.probe_spectrum = torch.fft.fft2(probe.to(torch.complex64), norm="ortho")
        self.photon_scale = photon_scale
        self._start(np.ones(len(photons), dtype=bool) if learn is None else np.asarray(learn, dtype=bool))

    def of_other_patterns(self, learn: NDArray[np.bool_]) -> DirectSolver:
        """A new solver of the same scan that fits other patterns; the measured amplitudes are shared, not copied."""
        other = object.__new__(DirectSolver)
        other.kernel, other.probe_spectrum, other.photon_scale = self.kernel, self.probe_spectrum, self.photon_scale
        other._start(learn)
        return other

    def _start(self, learn: NDArray[np.bool_]) -> None:
        if not learn.any():
            raise InputError(field="learn", found="no pattern", expected="at least one to learn from")
        kernel, geometry, rows = self.kernel, self.kernel.geometry, np.flatnonzero(learn)
        n, device = len(learn), kernel.amplitude.device
        state = Estimate(
            torch.ones(1, geometry.height, geometry.width, dtype=torch.complex64, device=device),
            self.probe_spectrum,
            self.probe_spectrum[:0],
            torch.zeros(n, 0, device=device),
            torch.ones(n, device=device),
        )
        # Where the probe lies in its window makes no difference to what an empty beam diffracts.
        empty_beam = kernel.forward(state, torch.as_tensor(rows[:1], device=device)).intensity
        empty_beam = empty_beam if kernel.good is None else empty_beam * kernel.good
        photons = torch.linalg.vector_norm(kernel.amplitude, dim=(-2, -1))[rows].square().mean()
        state.object.fill_(math.sqrt(float(photons / empty_beam.sum())))
        self.run = Run(kernel, state, SETTINGS, rows, np.random.default_rng(0), DataParallel())
        self.method = Accelerated(self.run)

    @property
    def object(self) -> Tensor:
        """The present estimate, a transmission, complex64 [H, W]. Where no light fell it keeps its first value."""
        return self.method.object[0]

    @torch.no_grad()
    def step(self) -> float:
        """One pass over the patterns that are learnt from; the loss per learnt pixel before it.

        Raises:
            ArithmeticError: the loss is not a finite number.
        """
        loss = self.method.iterate(self.run)
        if not math.isfinite(loss):
            raise ArithmeticError(f"the direct solution has diverged: loss {loss}")
        return loss / (len(self.run.rows) * self.kernel.amplitude.shape[1:].numel())

    @torch.no_grad()
    def explained(self, rows: NDArray[np.int64]) -> Iterator[Explained]:
        """The patterns ``rows`` as the present object predicts them, zero frequency at N//2, some at a time."""
        kernel, state = self.kernel, replace(self.run.state, object=self.method.object)
        good = None if kernel.good is None else kernel.propagator.restore(kernel.good)
        for piece in self.run.chunks(rows):
            predicted = kernel.forward(state, piece).intensity
            counts = kernel.amplitude.index_select(0, piece).square()
            restore = kernel.propagator.restore
            yield Explained(restore(predicted), restore(counts), good)

    def figures(self, rows: NDArray[np.int64], lit: NDArray[np.bool_] | None = None) -> Figures:
        """How well the present object explains the patterns ``rows``; the likelihood of the detector pixels ``lit`` [N, N],
        all if None (:func:`ptycho_ray.tuning.trial.lit_pixels` says why not all)."""
        pixels = None if lit is None else torch.as_tensor(lit, device=self.kernel.amplitude.device)
        return mean_figures(self.explained(rows), pixels, self.photon_scale)

    def pattern_r_factors(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Diffraction R-factor of each of the patterns ``rows`` [k]."""
        return torch.cat([each.r_factor() for each in self.explained(rows)]).cpu().numpy().astype(np.float64)

    def stitched(self) -> StitchedObject:
        """The present object as an image with its illumination as weight; its mean phase is zero."""
        image, weight = self.object.cpu().numpy(), self.method.light.cpu().numpy()
        return StitchedObject(image, weight, self.kernel.geometry.origin_px).with_zero_mean_phase()
