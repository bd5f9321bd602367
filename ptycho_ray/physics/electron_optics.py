"""The probe-forming lens of an electron microscope: semi-angle and aberrations, in the field's own conventions. numpy only.

The wave in the aperture is ``exp(-i chi)`` inside the semi-angle, with Krivanek's aberration function

    chi(alpha, phi) = 2 pi / lambda * sum over n, m of  C_nm alpha**(n + 1) / (n + 1) * cos(m (phi - phi_nm))

(Krivanek et al., Ultramicroscopy 78 (1999) 1), alpha = lambda f the angle to the axis, phi its azimuth from columns (x) towards
rows (y). C1 = C10 above zero is **overfocus**: the beam is narrowest in front of the sample, and the wave at the sample is the
focused one carried on by C1 (``optics.fresnel_propagate``). ``defocus_m`` is -C1, above zero for **underfocus**, as in PtyRAD,
py4DSTEM and abTEM. Haider's letters: A1 = C12, B2 = C21 / 3, A2 = C23, C3 = C30; all lengths are in metres, angles in radian.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError

#: (n, m) of each aberration by its name.
ABERRATIONS = {
    "C10": (1, 0), "C12": (1, 2), "C21": (2, 1), "C23": (2, 3), "C30": (3, 0), "C32": (3, 2), "C34": (3, 4), "C50": (5, 0),
}  # fmt: skip


@dataclass(frozen=True)
class ElectronOptics:
    """What forms the probe of an electron microscope.

    Attributes:
        semiangle_rad: convergence semi-angle, of the edge of the aperture.
        defocus_m: -C1, above zero for underfocus; None where it is not known.
        aberrations: of further ones by their Krivanek name, (coefficient in metres, azimuth in radian).
    """

    semiangle_rad: float
    defocus_m: float | None = None
    aberrations: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 < self.semiangle_rad < math.pi / 4:
            raise InputError(
                field="semiangle_mrad", found=self.semiangle_rad * 1e3, expected="above 0 and below 785 mrad"
            )
        unknown = [name for name in self.aberrations if name not in ABERRATIONS or name == "C10"]
        if unknown:
            known = ", ".join(name for name in ABERRATIONS if name != "C10")
            raise InputError(field="aberrations", found=unknown[0], expected=f"one of {known}; C10 is -defocus")

    def chi(self, alpha: NDArray[np.float64], phi: NDArray[np.float64], wavelength_m: float) -> NDArray[np.float64]:
        """The aberration function in radian at angles ``alpha`` and azimuths ``phi`` of one shape."""
        total = -(self.defocus_m or 0.0) * alpha**2 / 2
        for name, (coefficient, azimuth) in self.aberrations.items():
            n, m = ABERRATIONS[name]
            total = total + coefficient * alpha ** (n + 1) / (n + 1) * np.cos(m * (phi - azimuth))
        return 2 * np.pi / wavelength_m * total

    def probe(self, N: int, pixel_size_m: float, wavelength_m: float) -> NDArray[np.complex128]:
        """The probe [N, N] of unit energy, centred on pixel N // 2; the edge of the aperture is one detector pixel wide.

        Raises:
            InputError: the aperture does not fit into the N detector pixels.
        """
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
        aperture = np.sqrt(inside) * np.exp(-1j * self.chi(alpha, phi, wavelength_m))
        wave = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(aperture), norm="ortho"))
        return wave / np.linalg.norm(wave)
