"""The scan formats, one file each, and choosing among them; ``format`` says how one is added."""

from __future__ import annotations

from pathlib import Path

from ptycho_ray.config.extensions import find, names, unknown
from ptycho_ray.config.reading import Reading
from ptycho_ray.data.choices import chosen_from
from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.formats.cxi import CXI
from ptycho_ray.data.formats.digital_micrograph import DIGITAL_MICROGRAPH
from ptycho_ray.data.formats.dp_pos import DP_POS
from ptycho_ray.data.formats.emd import EMD, VELOX
from ptycho_ray.data.formats.far_field_geometry import as_photons
from ptycho_ray.data.formats.format import FIELDS, Format, held_by, lost_in
from ptycho_ray.data.formats.hxn import HXN
from ptycho_ray.data.formats.hyperspy import HYPERSPY
from ptycho_ray.data.formats.image_stacks import NPY, RAW, TIFF
from ptycho_ray.data.formats.mat_results import PTYCHOSHELVES_RESULT
from ptycho_ray.data.formats.microscopes import BLOCKFILE, EMPAD, MERLIN, MRC, TVIPS
from ptycho_ray.data.formats.nexus import NEXUS
from ptycho_ray.data.formats.position_table import TABLE
from ptycho_ray.data.formats.ptychodus import DIFFRACTION, PRODUCT
from ptycho_ray.data.formats.ptychodus_training import PTYCHODUS_EXPORT, PTYCHODUS_TRAINING
from ptycho_ray.data.formats.ptychopinn import PTYCHOPINN, PTYCHOPINN_HDF5
from ptycho_ray.data.formats.ptychoshelves import PTYCHOSHELVES_HDF5
from ptycho_ray.data.formats.ptychovit import FOLD_SLICE_POSITIONS, PAIR_PATTERNS, PTYCHOVIT
from ptycho_ray.data.formats.ptypy import PTYD, PTYR
from ptycho_ray.data.formats.tike import TIKE
from ptycho_ray.data.formats.velociprobe import VELOCIPROBE
from ptycho_ray.data.formats.zspy import ZSPY
from ptycho_ray.data.likeness import unknown_binary, unknown_file
from ptycho_ray.data.masks import find_mask
from ptycho_ray.data.opening import BinaryFile, Content, TableFile, opened
from ptycho_ray.data.scan import Scan
from ptycho_ray.errors import InputError

ARRAYS = Format("chosen", "arrays chosen by name", (), lambda content: False, lambda content: FileContents())
"""What a file is called whose format is unknown and whose arrays the user names."""

FORMATS: tuple[Format, ...] = (
    NEXUS,
    CXI,
    PTYD,
    PTYR,
    VELOCIPROBE,
    PRODUCT,
    DIFFRACTION,
    PTYCHODUS_TRAINING,
    PTYCHODUS_EXPORT,
    PTYCHOVIT,
    FOLD_SLICE_POSITIONS,
    PAIR_PATTERNS,
    PTYCHOSHELVES_HDF5,
    PTYCHOSHELVES_RESULT,
    TIKE,
    DP_POS,
    TABLE,
    HXN,
    HYPERSPY,
    ZSPY,
    EMD,
    VELOX,
    RAW,
    TIFF,
    NPY,
    MERLIN,
    BLOCKFILE,
    TVIPS,
    MRC,
    DIGITAL_MICROGRAPH,
    EMPAD,
    PTYCHOPINN,
    PTYCHOPINN_HDF5,
)
"""In the order in which they are tried; the last two accept any NPZ and HDF5 file, and report what is missing."""

__all__ = [
    "FIELDS",
    "FORMATS",
    "Format",
    "find_format",
    "format_named",
    "format_to_write",
    "held_by",
    "lost_in",
    "read_fields",
    "write_scan",
]


def all_formats() -> tuple[Format, ...]:
    """Those of other packages, which are tried first, and ours."""
    return (*(find("format", name) for name in names("format")), *FORMATS)


def find_format(content: Content) -> Format:
    """The format of an open file. InputError if there is none, with the names in the file."""
    for form in all_formats():
        if content.kind in form.kind and form.recognise(content):
            return form
    if isinstance(content, BinaryFile):
        raise unknown_binary(content)
    if content.kind in ("hdf5", "mat"):
        raise unknown_file(content)
    keys = sorted(content.keys())
    shown = ", ".join(keys[:20]) + (f" and {len(keys) - 20} more" if len(keys) > 20 else "")
    raise InputError(
        file=content.path,
        found=f"an unknown format, with the keys {shown or 'none'}",
        expected="a scan in one of the formats of docs/formats.md",
    )


def read_fields(path: Path, max_bytes: int, reading: Reading | None = None) -> FileContents:
    """What one file holds, whatever its format, or those of its arrays that ``reading`` names."""
    reading = reading or Reading()
    with opened(path, max_bytes, reading.shape) as content:
        chosen = reading.frames is not None
        try:
            form = find_format(content)
            fields = form.read(content)
            fields.format = form.name
        except InputError as error:
            if not chosen:
                if form_is_last(content, error):
                    raise unknown_file(content, error) from error
                raise
            fields = FileContents(format=ARRAYS.name)
        if not isinstance(content, TableFile):
            fields = chosen_from(content, reading, fields)
        if reading.mask is None and not isinstance(content, TableFile):
            find_mask(fields, content)
        fields.notes = [*getattr(content, "notes", []), *fields.notes]
    return fields


def form_is_last(content: Content, error: InputError) -> bool:
    """Whether a file was tried as one of the formats without a mark of their own, and lacks their keys."""
    last = next((form for form in FORMATS if content.kind in form.kind and form.recognise(content)), None)
    return last in (PTYCHOPINN, PTYCHOPINN_HDF5) and "missing key" in error.problem


def format_named(name: str) -> Format:
    """The format called ``name``. InputError if there is none."""
    known = (*all_formats(), ARRAYS)
    for form in known:
        if form.name == name:
            return form
    raise unknown("format", name, tuple(form.name for form in known[:-1]))


SUFFIXES = {
    ".npz": "ptychopinn",
    ".h5": "ptychopinn-hdf5",
    ".hdf5": "ptychopinn-hdf5",
    ".cxi": "cxi",
    ".ptyd": "ptyd",
    ".emd": "emd",
    ".nxs": "nexus",
}
"""The format written to a file of which only the name is given."""


def format_to_write(path: Path, form: str | None = None) -> Format:
    """The format that ``write_scan`` would write. InputError if it can only be read."""
    chosen = form or SUFFIXES.get(path.suffix.lower(), "ptychopinn")
    writable = {each.name: each for each in all_formats() if each.write is not None}
    if chosen in writable:
        return writable[chosen]
    if chosen in (each.name for each in all_formats()):
        raise InputError(
            field="format", found=f"{chosen}, which is only read", expected=f"one of {', '.join(writable)}"
        )
    raise unknown("format", chosen, tuple(writable))


def write_scan(raw: Scan, path: str | Path, form: str | None = None) -> Format:
    """Write a scan in the format called ``form``; None goes by the suffix, NPZ where it says nothing.

    Raises InputError if the format cannot be written, or needs something that the scan lacks.
    """
    path = Path(path)
    chosen = format_to_write(path, form)
    assert chosen.write is not None
    chosen.write(raw if "electrons" in chosen.holds else as_photons(raw), path)
    return chosen
