"""Electron scattering factors of neutral atoms, and what they do to the phase of a fast electron. numpy only.

The factors are those of Lobato & Van Dyck (Acta Crystallographica A 70 (2014) 636, doi 10.1107/S205327331401643X),

    f_e(q) = sum over i = 1..5 of  a_i (2 + b_i q**2) / (1 + b_i q**2)**2,

in angstrom, with q = 2 sin(theta) / wavelength in 1/angstrom. They keep the Mott-Bethe formula, so that the bare nucleus is
seen far out: sum of a_i / b_i = Z / (2 pi**2 a_0), which the tests use to check each line of the table.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError
from ptycho_ray.physics.optics import ELECTRON_REST_EV, electron_wavelength_m

BOHR_RADIUS_ANGSTROM = 0.529177210903
#: By symbol the atomic number, a_1 to a_5 in angstrom, and b_1 to b_5 in square angstrom.
LOBATO_VAN_DYCK_2014: dict[str, tuple[int, tuple[float, ...], tuple[float, ...]]] = {
    "H": (1,
        (6.473848488352918e-03, -4.901925767802290e-01, 5.732841603908765e-01, -3.794033014839905e-01, 5.544264747740791e-01),
        (2.785198853791489e00, 2.776204283306448e00, 2.775385910506251e00, 2.767593028672588e00, 2.765118976429275e00)),
    "C": (6,
        (1.244660886213433e02, -2.203528570789638e02, 1.952353522804791e02, -9.810793612697997e01, 1.420230412136232e-02),
        (2.421208492560056e00, 2.305379437524258e00, 2.048519321065642e00, 1.933525529175474e00, 7.689768184783397e-02)),
    "N": (7,
        (5.813271507025561e01, -1.475424090878127e02, 1.301430656496395e02, -3.961956740841543e01, 1.059577633314809e-02),
        (1.700448564134711e00, 1.559038526017404e00, 1.415768274731469e00, 1.278418182054558e00, 5.655877984748055e-02)),
    "O": (8,
        (2.994740452423624e01, -7.761012662552783e01, 9.988177646231442e01, -5.121270055056731e01, 8.196189544460320e-03),
        (1.302839878800107e00, 1.157941052583095e00, 1.009885493380251e00, 9.433279714332660e-01, 4.331976113218256e-02)),
    "P": (15,
        (2.791518400231514e00, -4.365068378238221e00, 4.435584555166990e00, -8.096357733994739e-02, 2.679000179664404e-03),
        (3.900659618654661e00, 3.298259683771500e-01, 3.060899565058886e-01, 1.080832325459728e-01, 1.258944953311868e-02)),
    "S": (16,
        (2.679714156101995e00, -4.742528222307552e-01, 5.148359489896877e-01, -9.583600249907225e-02, 2.488719638189352e-03),
        (3.068891211999711e00, 3.782167021858090e-01, 1.887218119025488e-01, 9.233705900314941e-02, 1.119208772411441e-02)),
    "Ti": (22,
        (8.575957752381299e00, -2.103315634653049e02, 2.060971726015414e02, 4.777739489772619e-02, 5.057164844803206e-04),
        (6.007806688755818e00, 2.602858567452130e00, 2.553523450511056e00, 7.114294840241539e-02, 4.856284393837261e-03)),
    "Se": (34,
        (3.649050478019264e00, -4.368516622212386e01, 4.369202886011548e01, 8.449022841991444e-03, 3.786114741100382e-05),
        (3.250432671125934e00, 6.096662016502890e-01, 5.969713008021232e-01, 1.485545127403623e-02, 1.336255873565630e-03)),
    "Sr": (38,
        (4.770925092998260e00, 1.475978501552834e00, 3.044513555441887e-01, 3.594749819167283e-03, 3.000855492282790e-07),
        (1.336688813304128e01, 1.337383795771967e00, 1.775323694377828e-01, 7.791050330018268e-03, 2.822551396485372e-04)),
    "Mo": (42,
        (2.831059684320536e00, 2.348581374896745e00, 2.451058884296964e-01, 2.352821082185159e-03, 2.312708383438592e-07),
        (1.043571957589507e01, 1.604828686745972e00, 1.316969347746069e-01, 5.549779013833459e-03, 2.227474637648977e-04)),
    "La": (57,
        (6.097881795995097e00, 2.194951647366750e00, 5.481727919600226e-01, 6.166695732226626e-02, 2.268073558647142e-04),
        (1.242885443158548e01, 1.505359923520235e00, 3.337380397171243e-01, 3.877445534999988e-02, 8.240498840648670e-04)),
    "W": (74,
        (3.976297158190774e00, 1.522926842573418e00, 7.977062463905613e-01, 2.136667415586852e-02, 1.030786893857173e-04),
        (6.296857792287749e00, 1.112899511576911e00, 2.310570406784734e-01, 1.510135455672045e-02, 4.746824771050258e-04)),
    "Au": (79,
        (1.675934670648708e00, 3.004866029697293e00, 5.953400131616355e-01, 1.171631866230948e-02, 4.296782976398171e-05),
        (5.522310932114025e00, 1.380072230071963e00, 1.622292376559454e-01, 9.018148904165756e-03, 3.792776674776671e-04)),
}  # fmt: skip


def electron_scattering_factor(symbol: str, q: NDArray[np.float64]) -> NDArray[np.float64]:
    """f_e in angstrom of a neutral atom at spatial frequencies ``q`` (1/angstrom), for an electron of rest mass.

    Raises:
        InputError: an element that is not in the table.
    """
    if symbol not in LOBATO_VAN_DYCK_2014:
        raise InputError(field="element", found=repr(symbol), expected=f"one of {', '.join(LOBATO_VAN_DYCK_2014)}")
    _, scales, widths = LOBATO_VAN_DYCK_2014[symbol]
    squared = np.asarray(q, dtype=np.float64) ** 2
    factor = np.zeros_like(squared)
    for a, b in zip(scales, widths, strict=True):
        factor += a * (2 + b * squared) / (1 + b * squared) ** 2
    return factor


def lorentz_factor(energy_eV: float) -> float:
    """Mass of an electron of this kinetic energy over its rest mass."""
    return 1 + energy_eV / ELECTRON_REST_EV


def interaction_constant(energy_eV: float) -> float:
    """sigma = 2 pi m e wavelength / h**2, with the relativistic mass m: radian per volt and angstrom of projected potential.

    It equals 2 pi / (wavelength * energy) * (m0 c**2 + energy) / (2 m0 c**2 + energy) (Kirkland, Advanced Computing in Electron
    Microscopy, eq. 5.6).
    """
    wavelength = electron_wavelength_m(energy_eV) * 1e10
    share = (ELECTRON_REST_EV + energy_eV) / (2 * ELECTRON_REST_EV + energy_eV)
    return 2 * math.pi / (wavelength * energy_eV) * share


def phase_of_scattering_factor(energy_eV: float) -> float:
    """What turns f_e (angstrom) into the Fourier transform of the phase (radian square angstrom): Lorentz factor * wavelength.

    It is sigma times h**2 / (2 pi m0 e) = 47.878 V angstrom**2, by which a scattering factor becomes a projected potential.
    """
    return lorentz_factor(energy_eV) * electron_wavelength_m(energy_eV) * 1e10
