"""Files ``scan_NUMBER.h5`` of the Hard X-ray Nanoprobe (NSLS-II, 3-ID).

``diffamp`` holds amplitudes, turned by a quarter and with the zero frequency in the corner; ``points`` the positions x and y in
micrometres; the geometry stands beside them. The stage may be turned by ``angle`` (degrees) about the vertical axis, which
shortens x by its cosine.
"""

from __future__ import annotations

import math

import numpy as np

from ptycho_ray.data.contents import PLANCK_TIMES_LIGHT_EV_M, FileContents
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.hdf5 import Hdf5Scan
from ptycho_ray.data.mended import TurnedFrames
from ptycho_ray.errors import InputError


def recognise(scan: Hdf5Scan) -> bool:
    return "diffamp" in scan and "points" in scan


def read(scan: Hdf5Scan) -> FileContents:
    """Amplitudes in the orientation of the detector, positions in metres, geometry."""
    points = scan.read("points").astype(np.float64)
    if points.ndim != 2 or 2 not in points.shape:
        raise InputError(file=scan.path, field="points", found=f"shape {points.shape}", expected="(2, n): x and y")
    x, y = points if points.shape[0] == 2 else points.T
    stored, field = scan.frames(None, "diffamp")
    wavelength = scan.number("lambda_nm")
    pixel, angle = scan.number("ccd_pixel_um"), scan.number("angle") or 0.0
    notes = []
    if abs(angle) > 1:
        notes.append(f"{scan.path}: the stage was turned by {angle:.4g} degrees: x is shortened by its cosine")
    return FileContents(
        frames=TurnedFrames(stored, transpose=True, flip_rows=True, from_corner=True),
        frames_field=field,
        domain="amplitude",
        positions=np.stack([y, x * math.cos(math.radians(angle))], axis=1) * 1e-6,
        positions_in_metres=True,
        positions_unit=1e-6,
        energy_eV=PLANCK_TIMES_LIGHT_EV_M / (wavelength * 1e-9) if wavelength else None,
        detector_distance_m=scan.number("z_m"),
        detector_pixel_m=pixel * 1e-6 if pixel else None,
        electrons=False,
        notes=notes,
    )


HXN = Format("hxn", "NSLS-II HXN scan", ("hdf5",), recognise, read)
