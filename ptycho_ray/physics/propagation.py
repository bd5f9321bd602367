"""From the exit wave to the detector and back: far field, near field, and between the slices of a thick object."""

from __future__ import annotations

import copy
import math
from typing import Protocol

import torch
from torch import Tensor

from ptycho_ray.physics.diffraction import far_field
from ptycho_ray.physics.optics import fresnel_transfer


class Propagator(Protocol):
    """A unitary map of waves [..., N, N], its inverse and its transpose (for a symmetric matrix: itself)."""

    def forward(self, waves: Tensor) -> Tensor: ...

    def backward(self, waves: Tensor) -> Tensor: ...

    def transpose(self, waves: Tensor) -> Tensor: ...

    def arrange(self, frames: Tensor) -> Tensor:
        """Frames [..., N, N] as files have them, in the order of pixels that ``forward`` yields."""

    def restore(self, frames: Tensor) -> Tensor:
        """The inverse of :meth:`arrange`."""


class FarField:
    """Fraunhofer diffraction: the orthonormal FFT. Zero frequency stays at the corner, so nothing is shifted in the loop."""

    def forward(self, waves: Tensor) -> Tensor:
        return far_field(waves)

    def backward(self, waves: Tensor) -> Tensor:
        return torch.fft.ifft2(waves, norm="ortho")

    def transpose(self, waves: Tensor) -> Tensor:
        return self.forward(waves)

    def arrange(self, frames: Tensor) -> Tensor:
        return torch.fft.ifftshift(frames, dim=(-2, -1))

    def restore(self, frames: Tensor) -> Tensor:
        return torch.fft.fftshift(frames, dim=(-2, -1))


class FreeSpace:
    """Propagation over a short distance, multiplication by a phase in Fourier space (:func:`.optics.fresnel_transfer`).

    Args:
        side: N.
        distance_px2: wavelength * distance / pixel size**2, without units (paraxial form).
        shift_px: (row, column), how far the place where the wave arrives is moved sideways, ``distance * tan(tilt)`` in pixels:
            a wave at rest seems to move by as much the other way. The phase of a frequency f grows by ``2 pi f * shift``, as in
            PtyRAD and py4DSTEM.
    """

    def __init__(
        self,
        side: int,
        distance_px2: float,
        shift_px: tuple[float, float] = (0.0, 0.0),
        *,
        dtype: torch.dtype = torch.complex64,
        device: torch.device | None = None,
    ) -> None:
        transfer = fresnel_transfer((side, side), distance_px2, shift_px)
        self.transfer = torch.from_numpy(transfer).to(device=device, dtype=dtype)
        self.inverse = self.transfer.conj().resolve_conj()

    def shifted(self, by_px: Tensor) -> FreeSpace:
        """The same distance, with the place of arrival further on by (row, column), real [2]."""
        other = copy.copy(self)
        frequency = torch.fft.fftfreq(len(self.transfer), dtype=torch.float64, device=by_px.device)
        rows, columns = (torch.exp(2j * math.pi * frequency * shift) for shift in by_px)
        other.transfer = self.transfer * (rows[:, None] * columns).to(self.transfer.dtype)
        other.inverse = other.transfer.conj().resolve_conj()
        return other

    def forward(self, waves: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(waves).mul_(self.transfer))

    def backward(self, waves: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(waves).mul_(self.inverse))

    def transpose(self, waves: Tensor) -> Tensor:
        """Each transform is its own transpose, so their order is the other; with a shift that is not :meth:`forward`."""
        return torch.fft.fft2(torch.fft.ifft2(waves).mul_(self.transfer))

    def arrange(self, frames: Tensor) -> Tensor:
        return frames

    def restore(self, frames: Tensor) -> Tensor:
        return frames
