"""The formats that scans are read from and written to.

A format is recognised from the content of a file, never from its name. To add one, write a module with ``recognise``,
``read`` and perhaps ``write`` next to this one and append a ``Format`` to ``FORMATS``: the first one that recognises a
file reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.opening import Content, opened
from ptycho_ray.errors import InputError

if TYPE_CHECKING:
    from ptycho_ray.data.raw_data import RawData

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
    """

    name: str
    title: str
    kind: tuple[str, ...]
    recognise: Callable[[Any], bool]
    read: Callable[[Any], FileContents]
    write: Callable[[RawData, Path], None] | None = None
    holds: frozenset[str] = field(default_factory=frozenset)
    companion: Callable[[Path], Path | None] | None = None


def find_format(content: Content) -> Format:
    """The format of an open file. InputError if there is none, with the names in the file."""
    from ptycho_ray.data.formats import FORMATS

    for form in FORMATS:
        if content.kind in form.kind and form.recognise(content):
            return form
    keys = sorted(content.keys())
    shown = ", ".join(keys[:20]) + (f" and {len(keys) - 20} more" if len(keys) > 20 else "")
    raise InputError(
        file=content.path,
        found=f"an unknown format, with the keys {shown or 'none'}",
        expected="a scan in one of the formats of docs/formats.md",
    )


def read_fields(path: Path, max_bytes: int) -> FileContents:
    """What one file holds, whatever its format."""
    with opened(path, max_bytes) as content:
        form = find_format(content)
        fields = form.read(content)
    fields.format = form.name
    return fields


def format_named(name: str) -> Format:
    """The format called ``name``. InputError if there is none."""
    from ptycho_ray.data.formats import FORMATS

    for form in FORMATS:
        if form.name == name:
            return form
    raise InputError(field="format", found=repr(name), expected=f"one of {', '.join(form.name for form in FORMATS)}")


SUFFIXES = {".npz": "ptychopinn", ".h5": "ptychopinn-hdf5", ".hdf5": "ptychopinn-hdf5", ".cxi": "cxi", ".ptyd": "ptyd"}
"""The format written to a file of which only the name is given."""


def write_scan(raw: RawData, path: str | Path, form: str | None = None) -> Format:
    """Write a scan in the format called ``form``; None goes by the suffix, NPZ where it says nothing.

    Raises InputError if the format cannot be written, or needs something that the scan lacks.
    """
    path = Path(path)
    chosen = format_named(form or SUFFIXES.get(path.suffix.lower(), "ptychopinn"))
    if chosen.write is None:
        from ptycho_ray.data.formats import FORMATS

        able = ", ".join(each.name for each in FORMATS if each.write is not None)
        raise InputError(field="format", found=f"{chosen.name}, which is only read", expected=f"one of {able}")
    chosen.write(raw, path)
    return chosen


def held_by(raw: RawData) -> list[str]:
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
    }
    return [name for name in FIELDS if has[name]]


def lost_in(raw: RawData, form: Format) -> list[str]:
    """What a scan has and a format cannot hold."""
    return [name for name in held_by(raw) if name not in form.holds]
