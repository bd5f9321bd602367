"""The forward model of ptychography, one function for each thing that happens to the light.

    exit wave         psi_p = P_p O            :func:`illuminate`   (thick object: :func:`illuminate_slices`)
    at the detector   Psi_p = F psi_p          :func:`far_field`    (near field: :mod:`ptycho_ray.physics.propagation`)
    photons           I = sum_p |Psi_p|**2     :func:`measure`
    misfit            of I and the counts      :mod:`ptycho_ray.physics.likelihood`

F is the orthonormal FFT, so the photons of a pattern are those of its exit waves (Parseval). Waves at the detector have their
zero frequency at the corner, as the FFT leaves them; patterns in files and in the network have it at N//2
(:func:`centred`).

Everything here takes numpy arrays and torch tensors, and torch is loaded only where it is used. Shape letters as in the
package: P incoherent probe modes, N pattern side; leading axes are free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Waves = TypeVar("Waves", NDArray[Any], "Tensor")


class Slab(Protocol):
    """Propagation of waves [..., N, N] from a slice of a thick object to the next."""

    def forward(self, waves: Tensor) -> Tensor: ...


def _fft(waves: Waves) -> Any:
    """The module of Fourier transforms that belongs to an array."""
    if isinstance(waves, np.ndarray):
        return np.fft
    import torch.fft

    return torch.fft


def illuminate(patches: Waves, probe: Waves) -> Waves:
    """Exit waves [..., P, N, N] of object patches [..., N, N] under probe modes [P, N, N] (thin-object approximation)."""
    return patches[..., None, :, :] * probe


def illuminate_slices(slices: Sequence[Tensor], probe: Tensor, between: Slab) -> Tensor:
    """Exit waves [..., P, N, N] of a thick object: patches [..., N, N] of each slice in the order of the beam.

    What leaves a slice travels to the next and is the probe there (multislice; Maiden, Humphry, Rodenburg, J. Opt. Soc. Am. A
    29, 1606, 2012).
    """
    waves = illuminate(slices[0], probe)
    for patches in slices[1:]:
        waves = patches[..., None, :, :] * between.forward(waves)
    return waves


def far_field(exit_waves: Waves) -> Waves:
    """Fraunhofer diffraction of exit waves [..., N, N]: the orthonormal FFT, zero frequency at the corner."""
    waves: Waves = _fft(exit_waves).fft2(exit_waves, norm="ortho")
    return waves


def measure(detector_waves: Waves) -> Waves:
    """Photons [..., N, N] of waves [..., P, N, N] at the detector; modes are incoherent, so their intensities add."""
    intensity: Waves = (detector_waves.real**2 + detector_waves.imag**2).sum(-3)
    return intensity


def centred(frames: Waves) -> Waves:
    """Frames [..., N, N] with the zero frequency moved from the corner to N//2."""
    moved: Waves = _fft(frames).fftshift(frames, (-2, -1))
    return moved


def diffract(exit_waves: Waves) -> Waves:
    """Waves [..., N, N] at a detector in the far field, zero frequency at N//2."""
    return centred(far_field(exit_waves))


def diffraction_intensity(exit_waves: Waves) -> Waves:
    """Photons [..., N, N] at a detector in the far field of exit waves [..., P, N, N], zero frequency at N//2."""
    return centred(measure(far_field(exit_waves)))
