"""Scans in CXI files (cxidb.org layout 1.6, an HDF5 file)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.fields import ScanFields
from ptycho_ray.errors import InputError

if TYPE_CHECKING:
    from ptycho_ray.data.hdf5 import Hdf5Scan

JOULE_PER_EV = 1.602176634e-19
HAS_SIGNAL = 0x1000
"""The one mask bit that does not mark a defect."""

DETECTOR = "entry_1/instrument_1/detector_1"
SOURCE = "entry_1/instrument_1/source_1"


def is_cxi(scan: Hdf5Scan) -> bool:
    """True for a file with CXI's version number or its first entry."""
    return "cxi_version" in scan or "entry_1/instrument_1" in scan


def read_cxi(scan: Hdf5Scan) -> ScanFields:
    """Read patterns (left on disk), positions in metres, mask, probe and geometry.

    Positions are those of the beam on the sample: the negated sample translation along the detector's slow and fast
    axes. With CXI's default axes (-y, -x) that is (row, column) = (y, x) of the translation.
    """
    translation = scan.read("entry_1/sample_1/geometry_1/translation", "entry_1/data_1/translation")
    if translation.ndim != 2 or translation.shape[1] != 3:
        raise InputError(
            file=scan.path,
            field="translation",
            found=f"shape {translation.shape}",
            expected="(n, 3): x, y, z in metres",
        )
    frames, field = scan.frames(len(translation), f"{DETECTOR}/data", "entry_1/data_1/data")
    basis = _basis(scan)
    directions = basis / np.linalg.norm(basis, axis=0)
    return ScanFields(
        frames=frames,
        frames_field=field,
        positions=-translation.astype(np.float64) @ np.linalg.pinv(directions).T,
        positions_in_metres=True,
        probe=_probe(scan, frames.shape[1:]),
        bad_pixels=_bad_pixels(scan),
        domain="intensity",
        energy_eV=_energy_eV(scan),
        detector_distance_m=scan.number(f"{DETECTOR}/distance"),
        detector_pixel_m=_detector_pixel(scan),
    )


def _basis(scan: Hdf5Scan) -> NDArray[np.float64]:
    """Slow and fast detector axes as the columns of a (3, 2) array."""
    stored = scan.read_optional(f"{DETECTOR}/basis_vectors")
    if stored is None:
        return np.array([[0.0, -1.0], [-1.0, 0.0], [0.0, 0.0]])
    basis = (stored.T if stored.shape == (2, 3) else stored).astype(np.float64)
    if basis.shape != (3, 2) or np.linalg.matrix_rank(basis / max(np.abs(basis).max(), 1e-300)) < 2:
        raise InputError(
            file=scan.path,
            field=f"{DETECTOR}/basis_vectors",
            found=f"{stored.tolist()}",
            expected="two independent vectors, shape (3, 2) or (2, 3)",
        )
    return basis


def _energy_eV(scan: Hdf5Scan) -> float | None:
    """Photon energy; CXI stores joules, some writers electronvolts, some only the wavelength."""
    from ptycho_ray.data.hdf5 import PLANCK_TIMES_LIGHT_EV_M

    wavelength, energy = scan.number(f"{SOURCE}/wavelength"), scan.number(f"{SOURCE}/energy")
    if energy:
        return energy / JOULE_PER_EV if energy < 1e-10 else energy
    return PLANCK_TIMES_LIGHT_EV_M / wavelength if wavelength else None


def _detector_pixel(scan: Hdf5Scan) -> float | None:
    x, y = scan.number(f"{DETECTOR}/x_pixel_size"), scan.number(f"{DETECTOR}/y_pixel_size")
    if x and y and abs(x - y) > 1e-3 * x:
        raise InputError(
            file=scan.path,
            field=f"{DETECTOR}/x_pixel_size, y_pixel_size",
            found=f"{x:.6g} and {y:.6g} m",
            expected="square detector pixels",
        )
    return x or y


def _bad_pixels(scan: Hdf5Scan) -> NDArray[np.bool_] | None:
    """True where any mask bit but 'has signal' is set; a mask per frame counts a pixel as bad if any frame does."""
    mask = scan.read_optional(f"{DETECTOR}/mask")
    if mask is None:
        return None
    bad = (mask.astype(np.int64) & ~HAS_SIGNAL) != 0
    return bad.any(axis=0) if bad.ndim == 3 else bad


def _probe(scan: Hdf5Scan, frame_shape: tuple[int, ...]) -> NDArray | None:
    """The first complex image of the patterns' size at a place where writers keep the probe."""
    for name in (f"{SOURCE}/illumination", "entry_1/image_1/data"):
        image = scan.read_optional(name)
        if image is not None and image.dtype.kind == "c" and image.shape[-2:] == frame_shape:
            return image
    return None
