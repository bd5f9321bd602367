"""Scan formats, one file each; ``registry`` says how one is added."""

from ptycho_ray.data.formats.cxi import CXI
from ptycho_ray.data.formats.dp_pos import DP_POS
from ptycho_ray.data.formats.format import (
    FIELDS,
    Format,
    find_format,
    format_named,
    held_by,
    lost_in,
    read_fields,
    write_scan,
)
from ptycho_ray.data.formats.mat_results import PTYCHOSHELVES_RESULT
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
    "held_by",
    "lost_in",
    "read_fields",
    "write_scan",
]
