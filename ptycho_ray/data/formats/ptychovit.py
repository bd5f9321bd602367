"""Pairs of files ``<stem>_dp.hdf5`` (patterns) and ``<stem>_para.hdf5``: PtychoViT, and PtychoShelves' data_roi.

``/dp`` is intensity. The PtychoViT file holds object, probe and positions in metres about the middle of the object; the
data_roi file holds positions only (``ppX``, ``ppY`` in metres), wavelength and object pixel. A ``dp`` that MATLAB wrote has its
rows and columns exchanged for Python, which the scan tells.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ptycho_ray.data.contents import PLANCK_TIMES_LIGHT_EV_M, FileContents, pairs
from ptycho_ray.data.formats.far_field_geometry import PROBE_IN_PHOTONS, half_pixel, object_of, pixel_size_of
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.formats.ptychodus import read_product
from ptycho_ray.data.formats.ptychopinn import write_patterns
from ptycho_ray.data.hdf5 import Hdf5Scan, new_hdf5
from ptycho_ray.errors import InputError

if TYPE_CHECKING:
    from ptycho_ray.data.scan import Scan

PATTERNS, PARAMETERS = "_dp", "_para"


def recognise_patterns(scan: Hdf5Scan) -> bool:
    return scan.names("/") == ["dp"]


def recognise_vit(scan: Hdf5Scan) -> bool:
    keys = ("object", "probe", "probe_position_x_m", "probe_position_y_m")
    return all(key in scan for key in keys) and not any(k in scan for k in ("probe_position_indexes", "diffraction"))


def recognise_roi(scan: Hdf5Scan) -> bool:
    return "ppX" in scan and "ppY" in scan


def companion(path: Path) -> Path | None:
    """The other file of the pair."""
    for mine, other in ((PATTERNS, PARAMETERS), (PARAMETERS, PATTERNS)):
        if path.stem.endswith(mine):
            found = path.with_name(path.stem.removesuffix(mine) + other + path.suffix)
            return found if found.is_file() else None
    return None


def read_patterns(scan: Hdf5Scan) -> FileContents:
    frames, field = scan.frames(None, "dp")
    return FileContents(frames=frames, frames_field=field, domain="intensity")


def read_roi(scan: Hdf5Scan) -> FileContents:
    wavelength = scan.number("lambda")
    return FileContents(
        positions=pairs(scan.read("ppY"), scan.read("ppX"), scan.path, "ppX, ppY"),
        positions_in_metres=True,
        pixel_size_m=scan.number("dx"),
        energy_eV=PLANCK_TIMES_LIGHT_EV_M / wavelength if wavelength else None,
        written_by_matlab=True,
    )


def other_of_pair(path: Path) -> Path:
    """The file that is written beside ``path``. InputError for a name that is neither of a pair."""
    for mine, other in ((PATTERNS, PARAMETERS), (PARAMETERS, PATTERNS)):
        if path.stem.endswith(mine):
            return path.with_name(path.stem.removesuffix(mine) + other + path.suffix)
    raise InputError(
        file=path,
        field="output",
        found=f"the name {path.name}",
        expected=f"a name that ends in {PATTERNS} or {PARAMETERS}, beside which the other is written",
    )


def write(raw: Scan, path: Path) -> None:
    """Write the pair; ``path`` is either of the two. InputError without an object pixel size."""
    pixel = pixel_size_of(raw)
    other_of_pair(path)
    stem = path.stem.removesuffix(PATTERNS).removesuffix(PARAMETERS)
    image = object_of(raw)
    metres = (raw.positions_px - half_pixel(raw.N) - (np.array(image.shape) - 1) / 2) * pixel
    with new_hdf5(path.with_name(f"{stem}{PATTERNS}{path.suffix}")) as file:
        write_patterns(file, "dp", raw)
    name = path.with_name(f"{stem}{PARAMETERS}{path.suffix}")
    with new_hdf5(name) as file:
        file["object"], file["probe"] = image[None], raw.probe[None]
        for place in ("object", "probe"):
            file[place].attrs.update({"pixel_width_m": pixel, "pixel_height_m": pixel})
        file["probe_position_x_m"], file["probe_position_y_m"] = metres[:, 1], metres[:, 0]
        file.attrs["comments"] = PROBE_IN_PHOTONS


_HOLDS = frozenset({"patterns", "positions", "probe", "probe modes", "object", "pixel size"})
PTYCHOVIT = Format(
    "ptychovit", "PtychoViT pair", ("hdf5",), recognise_vit, read_product, write, _HOLDS, companion, other_of_pair
)
FOLD_SLICE_POSITIONS = Format(
    "data-roi", "PtychoShelves data_roi pair", ("hdf5",), recognise_roi, read_roi, companion=companion
)
PAIR_PATTERNS = Format(
    "dp", "patterns of a _dp and _para pair", ("hdf5",), recognise_patterns, read_patterns, companion=companion
)
