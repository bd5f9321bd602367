"""Fourier ring correlation of two images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError

FloatArray = NDArray[np.float64]
Window = Literal["hann", "tukey"]


def ring_correlation(
    first: NDArray[Any], second: NDArray[Any], ring: NDArray[np.int64], n_rings: int
) -> NDArray[np.complex128]:
    """Complex correlation of two spectra per ring: sum F1 conj(F2) / sqrt(sum |F1|^2 sum |F2|^2); 0 where a ring is
    empty.

    ``ring`` holds the ring number of every Fourier coefficient; numbers from ``n_rings`` on are left out.
    """

    def ring_sum(values: NDArray[Any]) -> NDArray[Any]:
        return np.bincount(ring.ravel(), values.ravel(), minlength=n_rings)[:n_rings]

    cross = first * second.conj()
    power = ring_sum(np.abs(first) ** 2) * ring_sum(np.abs(second) ** 2)
    total = ring_sum(cross.real) + 1j * ring_sum(cross.imag)
    return np.divide(total, np.sqrt(power), out=np.zeros_like(total), where=power > 0)


@dataclass(frozen=True)
class RingCorrelation:
    """A Fourier ring correlation curve up to the Nyquist frequency.

    ``frequency`` is in cycles per pixel (0 to 0.5), ``correlation`` is the real part (an anticorrelated ring is
    negative), ``half_bit`` the half-bit threshold of van Heel and Schatz (J. Struct. Biol. 151, 2005, eq. 17). The
    threshold counts each ring's Fourier coefficients as independent (half of them for real images), window or not.
    """

    frequency: FloatArray
    correlation: FloatArray
    half_bit: FloatArray

    def crossing(self, threshold: float | FloatArray) -> float:
        """Frequency in cycles per pixel at which the curve first falls below ``threshold`` (linear interpolation).

        The constant term (ring 0) is left out. 0.0 when the first ring is below already, the last frequency of the
        curve when it never falls below.
        """
        excess = (self.correlation - threshold)[1:]
        frequency = self.frequency[1:]
        below = np.flatnonzero(excess < 0)
        if below.size == 0:
            return float(frequency[-1])
        k = int(below[0])
        if k == 0:
            return 0.0
        part = excess[k - 1] / (excess[k - 1] - excess[k])
        return float(frequency[k - 1] + part * (frequency[k] - frequency[k - 1]))

    @property
    def frc50(self) -> float:
        """First crossing of 1/2 in cycles per pixel."""
        return self.crossing(0.5)

    @property
    def frc_one_seventh(self) -> float:
        """First crossing of 1/7 in cycles per pixel."""
        return self.crossing(1 / 7)

    @property
    def frc_half_bit(self) -> float:
        """First crossing of the half-bit curve in cycles per pixel."""
        return self.crossing(self.half_bit)

    @property
    def mean(self) -> float:
        """Mean correlation over the rings up to Nyquist, without ring 0."""
        return float(self.correlation[1:].mean())

    def to_dict(self, *, curve: bool = False) -> dict[str, Any]:
        """Crossings in cycles per pixel and as half-period resolution in pixels; the curve itself on request."""
        result: dict[str, Any] = {"mean": self.mean}
        for name in ("frc50", "frc_one_seventh", "frc_half_bit"):
            value = getattr(self, name)
            result[name] = value
            result[f"{name}_resolution_px"] = half_period_px(value)
        if curve:
            result["frequency"] = self.frequency.tolist()
            result["correlation"] = self.correlation.tolist()
            result["half_bit"] = self.half_bit.tolist()
        return result


def half_period_px(frequency: float) -> float | None:
    """Half a period, in pixels, of a frequency in cycles per pixel (Nyquist gives 1 pixel); None for frequency 0."""
    return 0.5 / frequency if frequency > 0 else None


def fourier_ring_correlation(
    first: NDArray[Any], second: NDArray[Any], *, window: Window | None = "hann"
) -> RingCorrelation:
    """Fourier ring correlation of two real or complex images [H, W] of one shape, H and W at least 8.

    The mean of each image is removed; ``window`` ('hann', 'tukey' with a quarter of the side tapered, None)
    suppresses the artefact of the jump between opposite edges. Rings are one Fourier pixel of the shorter side wide
    and end at Nyquist.
    """
    if first.ndim != 2 or first.shape != second.shape or min(first.shape) < 8:
        raise InputError(
            field="images of the ring correlation",
            found=f"shapes {first.shape} and {second.shape}",
            expected="two images of one shape, at least 8 pixels a side",
        )
    weight = _window(first.shape[0], window)[:, None] * _window(first.shape[1], window)[None, :]
    spectra = [np.fft.fft2((image - image.mean()) * weight) for image in (first, second)]
    radius = np.hypot(np.fft.fftfreq(first.shape[0])[:, None], np.fft.fftfreq(first.shape[1])[None, :])
    side = min(first.shape)
    ring = np.rint(radius * side).astype(np.int64)
    n_rings = side // 2 + 1
    count = np.bincount(ring.ravel(), minlength=n_rings)[:n_rings].astype(np.float64)
    if not (np.iscomplexobj(first) or np.iscomplexobj(second)):
        count = np.maximum(count / 2, 1)
    root = np.sqrt(count)
    return RingCorrelation(
        frequency=np.arange(n_rings) / side,
        correlation=ring_correlation(spectra[0], spectra[1], ring, n_rings).real,
        half_bit=(0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root),
    )


def _window(length: int, window: Window | None) -> FloatArray:
    if window is None:
        return np.ones(length)
    from scipy.signal.windows import hann, tukey  # loads scipy.stats, half a second

    if window == "hann":
        return hann(length, sym=True)
    if window == "tukey":
        return tukey(length, alpha=0.25)
    raise InputError(field="window", found=repr(window), expected="'hann', 'tukey' or None")
