"""Interaction of the probe with the object, and propagation to the detector in the far field."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

#: Added under the square root, in photons: below any count, but it keeps the gradient of the amplitude finite at zero.
AMPLITUDE_EPSILON = 1e-12


def illuminate(patches: Tensor, probe: Tensor) -> Tensor:
    """Exit waves [..., P, N, N] of object patches [..., N, N] under probe modes [P, N, N] (thin-object approximation)."""
    return patches[..., None, :, :] * probe


def diffract(exit_waves: Tensor) -> Tensor:
    """Fraunhofer diffraction of exit waves [..., N, N]: unitary FFT with zero frequency at N//2, complex."""
    return torch.fft.fftshift(torch.fft.fft2(exit_waves, norm="ortho"), dim=(-2, -1))


def diffraction_intensity(exit_waves: Tensor) -> Tensor:
    """Intensity [..., N, N] of exit waves [..., P, N, N]; modes are incoherent, so their intensities add.

    With an orthonormal transform the sum over the pattern equals the sum of ``|exit wave|**2`` (Parseval).
    """
    spectrum = torch.fft.fft2(exit_waves, norm="ortho")
    intensity = (spectrum.real.square() + spectrum.imag.square()).sum(dim=-3)
    return torch.fft.fftshift(intensity, dim=(-2, -1))


def amplitude(intensity: Tensor) -> Tensor:
    """Square root of an intensity with a finite gradient at zero."""
    return torch.sqrt(intensity + AMPLITUDE_EPSILON)


def smooth_exit_wave(exit_waves: Tensor, sigma_px: float) -> Tensor:
    """Blur exit waves [..., N, N] with a 3 x 3 Gaussian of width ``sigma_px``; the border is reflected.

    Real and imaginary part are blurred separately. The kernel is normalised to sum one.
    """
    offsets = torch.tensor([-1.0, 0.0, 1.0], device=exit_waves.device)
    line = torch.softmax(-offsets.square() / (2 * sigma_px**2), dim=0)
    kernel = torch.outer(line, line)[None, None]

    def blur(part: Tensor) -> Tensor:
        flat = part.reshape(-1, 1, *part.shape[-2:])
        padded = functional.pad(flat, (1, 1, 1, 1), mode="reflect")
        return functional.conv2d(padded, kernel).reshape(part.shape)

    return torch.complex(blur(exit_waves.real), blur(exit_waves.imag))
