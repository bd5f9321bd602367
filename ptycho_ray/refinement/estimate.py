"""What a refinement solves for.

Legend: n patterns, S slices, P probe modes, K probe eigenmodes, N pattern side, [H, W] canvas.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Estimate:
    """The present estimate; tensors are changed in place.

    Attributes:
        object: transmission of each slice, complex [S, H, W].
        probe_spectrum: orthonormal FFT of the probe modes, complex [P, N, N], zero frequency at the corner.
        eigen_spectrum: the same of the modes by which the first probe mode varies over the scan, [K, N, N].
        eigen_weight: how much of each in each pattern, real [n, K].
        scale: factor on the exit wave of each pattern, real [n] (square root of its relative intensity).
        background: photons added to every pattern, real [N, N] in the detector order of the propagator; None for none.
        slice_shift_px: by how much further the next slice lies sideways than the settings say (row, column), float64 [2]; None
            if the tilt is not refined.
    """

    object: Tensor
    probe_spectrum: Tensor
    eigen_spectrum: Tensor
    eigen_weight: Tensor
    scale: Tensor
    background: Tensor | None = None
    slice_shift_px: Tensor | None = None

    @property
    def probe(self) -> Tensor:
        """The probe modes in real space, [P, N, N]."""
        return torch.fft.ifft2(self.probe_spectrum, norm="ortho")
