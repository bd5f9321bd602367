"""The optics of an electron microscope in files of our own: numbers in metres and radian under the names of
``ElectronOptics``, the aberrations as text, the transmission of the aperture as an array; and semi-angles of other files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ptycho_ray.data.opening import Content
from ptycho_ray.errors import InputError
from ptycho_ray.physics.aberrations import aberrations_text, read_aberrations
from ptycho_ray.physics.electron_optics import ElectronOptics

if TYPE_CHECKING:
    from ptycho_ray.data.scan import Scan


def optics_of_angle(semiangle_rad: Any) -> ElectronOptics | None:
    """The optics of a semi-angle that a microscope's software states, as a number or text; None where it is none."""
    try:
        value = float(semiangle_rad)
    except (TypeError, ValueError):
        return None
    return ElectronOptics(value) if 1e-5 < value < 0.5 else None


def optics_facts(raw: Scan) -> dict[str, Any]:
    """What is stored of a scan's optics, by name; empty where they are not known."""
    optics = raw.optics
    if optics is None:
        return {}
    facts: dict[str, Any] = {"semiangle_rad": optics.semiangle_rad}
    if optics.defocus_m is not None:
        facts["defocus_m"] = optics.defocus_m
    if optics.aberrations:
        facts["aberrations"] = aberrations_text(optics.aberrations)
    facts |= {name: size for name in ("source_size_m", "defocus_spread_m") if (size := getattr(optics, name))}
    if optics.transmission is not None:
        facts["aperture_transmission"] = optics.transmission
    return facts


def optics_in(content: Content, group: str = "") -> ElectronOptics | None:
    """The optics that ``optics_facts`` stored in a ``group`` of a file. InputError for values that cannot be."""
    semiangle = content.number(f"{group}semiangle_rad")
    if semiangle is None:
        return None
    try:
        return ElectronOptics(
            semiangle,
            content.number(f"{group}defocus_m"),
            read_aberrations(content.text(f"{group}aberrations") or ""),
            content.number(f"{group}source_size_m") or 0.0,
            content.number(f"{group}defocus_spread_m") or 0.0,
            content.read_optional(f"{group}aperture_transmission"),
        )
    except InputError as error:
        raise InputError(
            file=content.path, field=f"{group}{error.field}", found=error.found, expected=error.expected
        ) from error
