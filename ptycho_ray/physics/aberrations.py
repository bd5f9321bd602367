"""Names, conventions and spelling of the aberrations of an electron lens.

A coefficient is a length and, but for round aberrations, an azimuth: the direction in which the aberration function is largest,
from columns (x) towards rows (y). Krivanek's names are used; Haider's letters are read, with lengths

    A1 = C12, A2 = C23, A3 = C34, A4 = C45, A5 = C56, C1 = C10, C3 = C30, C5 = C50,
    3 B2 = C21, 4 S3 = C32, 5 B4 = C41, 5 D4 = C43, 6 S5 = C52, 6 R5 = C54,

and so are the components C12a = C12 cos(2 azimuth), C12b = C12 sin(2 azimuth), likewise of the others with their own multiple.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from ptycho_ray.errors import InputError
from ptycho_ray.physics.units import read_length

#: (n, m) of each aberration by its name.
ABERRATIONS = {
    "C10": (1, 0), "C12": (1, 2), "C21": (2, 1), "C23": (2, 3), "C30": (3, 0), "C32": (3, 2), "C34": (3, 4),
    "C41": (4, 1), "C43": (4, 3), "C45": (4, 5), "C50": (5, 0), "C52": (5, 2), "C54": (5, 4), "C56": (5, 6),
}  # fmt: skip
#: Krivanek's name of Haider's letters, and how many of Haider's coefficients make one of his.
HAIDER = {
    "C1": ("C10", 1), "A1": ("C12", 1), "B2": ("C21", 3), "A2": ("C23", 1), "C3": ("C30", 1), "S3": ("C32", 4),
    "A3": ("C34", 1), "B4": ("C41", 5), "D4": ("C43", 5), "A4": ("C45", 1), "C5": ("C50", 1), "S5": ("C52", 6),
    "R5": ("C54", 6), "A5": ("C56", 1), "CS": ("C30", 1),
}  # fmt: skip
Aberrations = dict[str, tuple[float, float]]
EXAMPLE = "for example C12=5nm@30deg,C30=1um"

_ENTRY = re.compile(r"\s*(\w+?)\s*=\s*([^@]+?)\s*(?:@\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(deg|rad|mrad|°)?)?\s*$")
_TURN = {"deg": math.pi / 180, "°": math.pi / 180, None: math.pi / 180, "rad": 1.0, "mrad": 1e-3}


def read_aberrations(text: str, field: str = "aberrations") -> Aberrations:
    """Of each aberration by Krivanek's name, length in metres and azimuth in radian, from 'C12=5nm@30deg,C30=1um'.

    InputError for another spelling, an aberration that is named twice, and an azimuth of a round one.
    """
    found: dict[str, complex] = {}
    for entry in (entry for entry in text.split(",") if entry.strip()):
        matched = _ENTRY.match(entry)
        if matched is None:
            raise InputError(field=field, found=repr(entry.strip()), expected=f"NAME=LENGTH@AZIMUTH, {EXAMPLE}")
        name, component, factor = _named(matched[1], field)
        length, pixels = read_length(matched[2], field, zero=True)
        if pixels:
            raise InputError(field=field, found=repr(entry.strip()), expected=f"a length, {EXAMPLE}")
        m = ABERRATIONS[name][1]
        if matched[3] is not None and (m == 0 or component):
            why = "a round aberration has none" if m == 0 else "its components a and b say it"
            raise InputError(field=field, found=f"an azimuth of {matched[1]}", expected=f"no azimuth: {why}")
        turn = m * float(matched[3] or 0.0) * _TURN[matched[4]] + (math.pi / 2 if component == "b" else 0.0)
        if name in found and component != "b":
            raise InputError(field=field, found=f"{name} twice", expected="each aberration once")
        found[name] = found.get(name, 0) + factor * length * complex(math.cos(turn), math.sin(turn))
    return {name: _polar(value, ABERRATIONS[name][1]) for name, value in found.items()}


def _named(name: str, field: str) -> tuple[str, str, float]:
    """Krivanek's name, component and factor of a name as people spell it."""
    plain = name.upper().replace("_", "").replace(",", "")
    component = plain[-1].lower() if plain[-1] in "AB" and plain[:-1] in ABERRATIONS else ""
    plain = plain[:-1] if component else plain
    krivanek, factor = HAIDER.get(plain, (plain, 1))
    if krivanek not in ABERRATIONS or (component and ABERRATIONS[krivanek][1] == 0):
        names = ", ".join([*ABERRATIONS, *(letter for letter in HAIDER if letter != "CS")])
        raise InputError(field=field, found=repr(name), expected=f"one of {names}")
    return krivanek, component, factor


def _polar(value: complex, m: int) -> tuple[float, float]:
    if m == 0:
        return value.real, 0.0
    return abs(value), math.atan2(value.imag, value.real) / m


def aberrations_text(aberrations: Mapping[str, tuple[float, float]]) -> str:
    """The same as ``read_aberrations`` reads it, exactly, in metres and radian."""
    return ",".join(
        f"{name}={length!r}m" + (f"@{azimuth!r}rad" if ABERRATIONS[name][1] else "")
        for name, (length, azimuth) in aberrations.items()
    )
