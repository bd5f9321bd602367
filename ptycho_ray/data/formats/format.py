"""A format that scans are read from or written to.

A format is recognised from the content of a file, never from its name. To add one, write a module with ``recognise``,
``read`` and perhaps ``write`` next to this one and append its ``Format`` to ``FORMATS`` in ``__init__``; one of another
package is registered (docs/extending.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_ray.data.contents import FileContents

if TYPE_CHECKING:
    from ptycho_ray.data.scan import Scan

FIELDS = (
    "patterns",
    "positions",
    "nominal positions",
    "probe",
    "probe modes",
    "object",
    "truth patches",
    "scan numbers",
    "bad pixels",
    "pixel size",
    "energy",
    "distance",
    "detector pixel",
    "photon flag",
    "metadata",
    "electrons",
    "optics",
)
"""What a scan can have, in the words of ``Format.holds``."""


@dataclass(frozen=True)
class Format:
    """One format.

    name        name on the command line
    title       name in messages
    kind        of the file underneath: npz, hdf5, mat, table, or several of them
    recognise   whether an open file is of this format; must not read much
    read        the content of an open file
    write       writes a scan to a path, or None
    holds       which of FIELDS a file of this format can hold (what ``write`` keeps)
    companion   the auxiliary file with the rest of the scan, found by the file's name, or None
    beside      the second file that ``write`` makes, by the name of the first, or None
    """

    name: str
    title: str
    kind: tuple[str, ...]
    recognise: Callable[[Any], bool]
    read: Callable[[Any], FileContents]
    write: Callable[[Scan, Path], None] | None = None
    holds: frozenset[str] = field(default_factory=frozenset)
    companion: Callable[[Path], Path | None] | None = None
    beside: Callable[[Path], Path] | None = None


def held_by(raw: Scan) -> list[str]:
    """Which of FIELDS a scan has."""
    has = {
        "patterns": True,
        "positions": True,
        "nominal positions": not np.array_equal(raw.nominal_positions_px, raw.positions_px),
        "probe": True,
        "probe modes": len(raw.probe) > 1,
        "object": raw.object_truth is not None,
        "truth patches": raw.Y is not None,
        "scan numbers": bool(raw.scan_index.any()),
        "bad pixels": raw.bad_pixels is not None,
        "pixel size": raw.pixel_size_m is not None,
        "energy": raw.energy_eV is not None,
        "distance": raw.detector_distance_m is not None,
        "detector pixel": raw.detector_pixel_m is not None,
        "photon flag": True,
        "metadata": bool(raw.metadata),
        "electrons": raw.electrons,
        "optics": raw.optics is not None,
    }
    return [name for name in FIELDS if has[name]]


def lost_in(raw: Scan, form: Format) -> list[str]:
    """What a scan has and a format cannot hold."""
    return [name for name in held_by(raw) if name not in form.holds]
