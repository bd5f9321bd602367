"""HDF5 of PtychoShelves: ``/measurement/n0`` with patterns and positions, ``/reconstruction/p`` with the result.

MATLAB stores axes in reverse order, so images are transposed here. Positions are the patches' first pixels, (row, column).
"""

from __future__ import annotations

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import FileContents, table_of_pairs
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.hdf5 import Hdf5Scan

MEASURED, RESULT = "measurement/n0", "reconstruction/p"


def recognise(scan: Hdf5Scan) -> bool:
    return f"{MEASURED}/data" in scan or f"{RESULT}/probes" in scan


def read(scan: Hdf5Scan) -> FileContents:
    """The first measurement, and the first object and probe where there is a result."""
    fields = FileContents(probe_scale_known=False, domain="intensity")
    if f"{MEASURED}/data" in scan:
        fields.frames, fields.frames_field = scan.frames(None, f"{MEASURED}/data")
        corners = scan.read(f"{MEASURED}/positions")
        if corners.ndim == 2 and corners.shape[0] == 2 and corners.shape[1] != 2:
            corners = corners.T
        fields.positions = table_of_pairs(corners, scan.path, f"{MEASURED}/positions") + fields.frames.shape[-1] // 2
    fields.probe = _first(scan, f"{RESULT}/probes")
    image = _first(scan, f"{RESULT}/objects")
    fields.object_truth = None if image is None else image.reshape(-1, *image.shape[-2:])[0]
    return fields


def _first(scan: Hdf5Scan, group: str) -> NDArray | None:
    """The first image of a group as [..., rows, columns]."""
    names = [name for name in scan.names(group) if isinstance(scan.file[f"{group}/{name}"], h5py.Dataset)]
    if not names:
        return None
    image = scan.read(f"{group}/{names[0]}")
    return np.ascontiguousarray(image.swapaxes(-1, -2)) if image.ndim >= 2 else None


PTYCHOSHELVES_HDF5 = Format("ptychoshelves-hdf5", "PtychoShelves HDF5", ("hdf5",), recognise, read)
