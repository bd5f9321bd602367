"""Lengths and energies with units, as people spell them."""

from __future__ import annotations

import re

from ptycho_ray.errors import InputError

JOULE_PER_EV = 1.602176634e-19

_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "c": 1e-2, "m": 1e-3, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "n": 1e-9}
_PREFIXES |= {"p": 1e-12, "f": 1e-15}
_NAMED = {"milli": 1e-3, "micro": 1e-6, "nano": 1e-9, "pico": 1e-12, "centi": 1e-2, "kilo": 1e3, "mega": 1e6}
LENGTHS = {prefix + "m": factor for prefix, factor in _PREFIXES.items() if prefix not in ("k", "M", "G")}
LENGTHS |= {f"{name}{word}": factor for name, factor in (_NAMED | {"": 1.0}).items() for word in ("meter", "metre")}
LENGTHS |= {"micron": 1e-6, "mic": 1e-6, "mu": 1e-6, "mum": 1e-6, "a": 1e-10, "å": 1e-10, "Å": 1e-10, "ang": 1e-10}
LENGTHS |= {"angstrom": 1e-10, "ångström": 1e-10, "ångstrom": 1e-10, "ångstroem": 1e-10, "angstroem": 1e-10}
ENERGIES = {prefix + "eV": factor for prefix, factor in _PREFIXES.items() if prefix in ("", "k", "M", "G", "m")}
ENERGIES |= {"J": 1 / JOULE_PER_EV, "joule": 1 / JOULE_PER_EV, "kV": 1e3, "V": 1.0, "electronvolt": 1.0}
ENERGIES |= {"kiloelectronvolt": 1e3}
PIXELS = ("px", "pix", "pixel", "pixels")


def factor_of(text: str, units: dict[str, float]) -> float | None:
    """The value of a unit in metres or electronvolts; None for a word that is none.

    Case counts only where it makes a difference (mm and Mm, mV and MV). Brackets, a plural s, Prismatic's '[n_m]' and
    'microns' are understood.
    """
    word = (
        text.strip().strip("[](){} ").replace("_", "").replace(" ", "").replace("-", "").replace("\N{MICRO SIGN}", "µ")
    )
    if word in units:
        return units[word]
    lower = {name.lower(): value for name, value in units.items() if name not in ("MeV", "GeV", "meV")}
    lower |= {name.lower(): units[name] for name in ("MeV", "GeV") if name in units}
    folded = word.lower()
    return lower.get(folded, lower.get(folded.removesuffix("s")))


def is_pixels(text: str) -> bool:
    """Whether a unit is that of object pixels."""
    return text.strip().strip("[]() ").lower() in PIXELS


_LENGTH = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s.+-][^\d]*)?\s*$")


def read_length(text: str, field: str, *, zero: bool = False) -> tuple[float, bool]:
    """A length and whether it is in object pixels, from '0.5um', '4e-8' (metres) or '2.5px'. InputError for another text, and
    for none unless ``zero`` is one."""
    found = _LENGTH.match(text)
    if found:
        number, unit = float(found[1]), (found[2] or "m").strip()
        if is_pixels(unit):
            return number, True
        factor = factor_of(unit, LENGTHS)
        if factor is not None and (number != 0 or zero):
            return number * factor, False
    raise InputError(field=field, found=repr(text), expected="a length with a unit: 0.5um, 40nm, 2 angstrom, 2.5px")
