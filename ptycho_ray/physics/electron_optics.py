"""The probe-forming lens of an electron microscope: semi-angle and aberrations, in the field's own conventions. numpy only.

The wave in the aperture is ``exp(-i chi)`` inside the semi-angle, with Krivanek's aberration function

    chi(alpha, phi) = 2 pi / lambda * sum over n, m of  C_nm alpha**(n + 1) / (n + 1) * cos(m (phi - phi_nm))

(Krivanek et al., Ultramicroscopy 78 (1999) 1), alpha = lambda f the angle to the axis, phi its azimuth from columns (x) towards
rows (y). C1 = C10 above zero is **overfocus**: the beam is narrowest in front of the sample, and the wave at the sample is the
focused one carried on by C1 (``optics.fresnel_propagate``). ``defocus_m`` is -C1, above zero for **underfocus**, as in PtyRAD,
py4DSTEM and abTEM. All lengths are in metres, angles in radian; ``physics.aberrations`` has names and spelling.

**Partial coherence.** A source of finite size is a sum of probes shifted by its points, a spread of the beam's energy one of
probes at several defoci; the modes [P, N, N] are the orthogonal ones of that sum, largest first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError
from ptycho_ray.physics.aberrations import ABERRATIONS, Aberrations

#: The modes that are kept hold this part of a partly coherent beam, unless they are more than MOST_MODES.
HELD, MOST_MODES = 0.99, 8
#: Points of a normal distribution by which it is summed, in standard deviations.
SPREAD = np.linspace(-3.0, 3.0, 9)
FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a normal distribution of standard deviation 1."""


@dataclass(frozen=True)
class ElectronOptics:
    """What forms the probe of an electron microscope.

    Attributes:
        semiangle_rad: convergence semi-angle, of the edge of the aperture.
        defocus_m: -C1, above zero for underfocus; None where it is not known.
        aberrations: of further ones by their Krivanek name, (coefficient in metres, azimuth in radian).
        source_size_m: full width at half maximum of the source, demagnified to the sample.
        defocus_spread_m: standard deviation of the defocus, from the spread of the beam's energy.
        transmission: of the aperture, real [N, N] from 0 to 1 about detector pixel N // 2, as measured without a sample; None
            for a sharp disc.
    """

    semiangle_rad: float
    defocus_m: float | None = None
    aberrations: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    source_size_m: float = 0.0
    defocus_spread_m: float = 0.0
    transmission: NDArray[np.float64] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.semiangle_rad < math.pi / 4:
            raise InputError(
                field="semiangle_mrad", found=self.semiangle_rad * 1e3, expected="above 0 and below 785 mrad"
            )
        unknown = [name for name in self.aberrations if name not in ABERRATIONS or name == "C10"]
        if unknown:
            known = ", ".join(name for name in ABERRATIONS if name != "C10")
            raise InputError(field="aberrations", found=unknown[0], expected=f"one of {known}; C10 is -defocus")
        for name in ("source_size_m", "defocus_spread_m"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(field=name, found=getattr(self, name), expected="0 or more")

    def with_aberrations(self, found: Aberrations) -> ElectronOptics:
        """The same with these aberrations instead of its own, of which C10 gives the defocus."""
        others = {name: value for name, value in found.items() if name != "C10"}
        defocus = -found["C10"][0] if "C10" in found else self.defocus_m
        return replace(self, aberrations=others, defocus_m=defocus)

    def chi(self, alpha: NDArray[np.float64], phi: NDArray[np.float64], wavelength_m: float) -> NDArray[np.float64]:
        """The aberration function in radian at angles ``alpha`` and azimuths ``phi`` of one shape."""
        total = -(self.defocus_m or 0.0) * alpha**2 / 2
        for name, (coefficient, azimuth) in self.aberrations.items():
            n, m = ABERRATIONS[name]
            total = total + coefficient * alpha ** (n + 1) / (n + 1) * np.cos(m * (phi - azimuth))
        return 2 * np.pi / wavelength_m * total

    def probe(self, N: int, pixel_size_m: float, wavelength_m: float) -> NDArray[np.complex128]:
        """The coherent probe [N, N] of unit energy, centred on pixel N // 2; the edge of a sharp aperture is one detector pixel
        wide.

        Raises:
            InputError: the aperture does not fit into the N detector pixels.
        """
        aperture, _, _ = self._aperture(N, pixel_size_m, wavelength_m)
        return _to_sample(aperture)

    def modes(self, N: int, pixel_size_m: float, wavelength_m: float) -> NDArray[np.complex128]:
        """Orthogonal modes [P, N, N] of unit total energy, largest first: one of a coherent beam, else those that hold HELD of
        the beam, at most MOST_MODES.

        Raises:
            InputError: the aperture does not fit into the N detector pixels.
        """
        aperture, rows, columns = self._aperture(N, pixel_size_m, wavelength_m)
        inside = aperture != 0
        ensemble = aperture[inside][None]
        y, x = rows[inside] / wavelength_m, columns[inside] / wavelength_m  # spatial frequencies
        weights = np.exp(-(SPREAD**2) / 2)
        weights = np.sqrt(weights / weights.sum())
        sigma = self.source_size_m / FWHM
        slopes = [2 * np.pi * sigma * y, 2 * np.pi * sigma * x] if sigma else []
        if self.defocus_spread_m:
            slopes.append(np.pi * wavelength_m * self.defocus_spread_m * (x**2 + y**2))
        for slope in slopes:
            phases = weights[:, None] * np.exp(1j * SPREAD[:, None] * slope)
            ensemble = _orthogonal((ensemble[:, None] * phases).reshape(-1, ensemble.shape[1]))
        energy = np.sum(np.abs(ensemble) ** 2, axis=1)
        kept = min(MOST_MODES, int(np.searchsorted(np.cumsum(energy) / energy.sum(), HELD)) + 1)
        spectra = np.zeros((kept, N, N), dtype=np.complex128)
        spectra[:, inside] = ensemble[:kept]
        return _to_sample(spectra)

    def diameter_m(self, wavelength_m: float) -> float:
        """About how wide the probe is at the sample: of the disc of light at this defocus (2 defocus * semi-angle) and of the
        diffraction limit (1.22 wavelength / semi-angle), added in squares.
        """
        geometric = 2 * abs(self.defocus_m or 0.0) * math.tan(self.semiangle_rad)
        return math.hypot(geometric, 1.22 * wavelength_m / self.semiangle_rad, self.source_size_m)

    def _aperture(
        self, N: int, pixel_size_m: float, wavelength_m: float
    ) -> tuple[NDArray[np.complex128], NDArray[np.float64], NDArray[np.float64]]:
        """The wave in the aperture [N, N], and the angles of rows and columns."""
        angle_per_pixel = wavelength_m / (N * pixel_size_m)
        if self.semiangle_rad > N / 2 * angle_per_pixel:
            raise InputError(
                field="semiangle_mrad",
                found=f"{self.semiangle_rad * 1e3:.4g} mrad, but the detector ends at {N / 2 * angle_per_pixel * 1e3:.4g} mrad",
                expected="a bright-field disc within the detector",
            )
        axis = (np.arange(N) - N // 2) * angle_per_pixel
        rows, columns = np.meshgrid(axis, axis, indexing="ij")
        alpha, phi = np.hypot(rows, columns), np.arctan2(rows, columns)
        inside = np.clip((self.semiangle_rad - alpha) / angle_per_pixel + 0.5, 0, 1)
        if self.transmission is not None and self.transmission.shape == (N, N):
            inside = np.clip(self.transmission, 0, None)
        return np.sqrt(inside) * np.exp(-1j * self.chi(alpha, phi, wavelength_m)), rows, columns


def _orthogonal(ensemble: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """The orthogonal waves [k, n], largest first, of the same mutual intensity as ``ensemble`` [m, n]; what is negligible is
    left out."""
    energies, vectors = np.linalg.eigh(ensemble @ ensemble.conj().T)
    kept = energies > 1e-7 * energies.sum()
    return (vectors[:, kept].conj().T @ ensemble)[::-1]


def _to_sample(spectra: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Waves [..., N, N] at the sample of unit energy (altogether) from those in the aperture."""
    axes = (-2, -1)
    waves = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(spectra, axes=axes), norm="ortho"), axes=axes)
    return waves / np.linalg.norm(waves)
