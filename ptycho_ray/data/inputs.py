"""Which files reading a scan takes: no result may be written over them."""

from __future__ import annotations

from pathlib import Path

from ptycho_ray.config.reading import Reading
from ptycho_ray.data.contents import default_max_bytes
from ptycho_ray.data.formats import all_formats
from ptycho_ray.data.hdf5 import Hdf5Scan
from ptycho_ray.data.opening import opened
from ptycho_ray.errors import InputError

PARTS = (".hdr", ".mib", ".xml", ".raw")
"""A detector writes a header and its frames under one name."""


def files_of(path: Path, reading: Reading) -> list[Path]:
    """The scan ``path`` (a file or folder), the files that ``reading`` names, those beside it that are found by their names,
    and those that an HDF5 file among them links to."""
    found = [path, *reading.files().values()]
    if path.is_file():
        found += [
            other
            for form in all_formats()
            if form.companion is not None and (other := form.companion(path)) is not None
        ]
        if path.suffix.lower() in PARTS:
            found += [path.with_suffix(suffix) for suffix in PARTS]
    linked: list[Path] = []
    for file in found:
        try:
            if file.is_file():
                with opened(file, default_max_bytes()) as content:
                    linked += content.linked_files() if isinstance(content, Hdf5Scan) else []
        except (InputError, OSError):
            continue  # said where it is read
    return [*found, *linked]
