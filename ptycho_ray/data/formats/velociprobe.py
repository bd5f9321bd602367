"""Master files of the Velociprobe (APS 2-ID-D): frames in linked files, the geometry in the master.

Positions are in a text file (``table``), given as the auxiliary file or found under the master's name. The stage is
rotated by ``chi`` about the vertical axis, so x is multiplied by its cosine.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ptycho_ray.data.contents import FileContents, square_pixel
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.hdf5 import Hdf5Scan
from ptycho_ray.errors import InputError

DETECTOR = "entry/instrument/detector"
SPECIFIC = f"{DETECTOR}/detectorSpecific"
LARGEST_FILE_COUNT = 100_000


def recognise(scan: Hdf5Scan) -> bool:
    return SPECIFIC in scan and any(name.startswith("data_") for name in scan.names("entry/data"))


def read(scan: Hdf5Scan) -> FileContents:
    """Frames of all linked files in the order of their numbers; counts, with pixels marked by the detector as bad pixels."""
    names = sorted(name for name in scan.names("entry/data") if name.startswith("data_"))
    if len(names) > LARGEST_FILE_COUNT:
        raise InputError(file=scan.path, field="entry/data", found=f"{len(names)} links", expected="fewer")
    frames, field = scan.joined_frames([scan.dataset(f"entry/data/{name}") for name in names])
    width, height = scan.number(f"{DETECTOR}/x_pixel_size"), scan.number(f"{DETECTOR}/y_pixel_size")
    mask = scan.read_optional(f"{SPECIFIC}/pixel_mask")
    chi = scan.number("entry/sample/goniometer/chi")
    centre = [scan.number(f"{DETECTOR}/beam_center_{axis}") for axis in ("y", "x")]
    return FileContents(
        frames=frames,
        frames_field=field,
        domain="intensity",
        bad_pixels=None if mask is None or mask.shape != frames.shape[1:] else mask != 0,
        energy_eV=scan.number(f"{SPECIFIC}/photon_energy", f"{DETECTOR}/photon_energy"),
        detector_distance_m=scan.number(f"{DETECTOR}/detector_distance"),
        detector_pixel_m=square_pixel(width, height, scan.path, f"{DETECTOR}/x_pixel_size, y_pixel_size"),
        frame_index=np.arange(frames.shape[0]),
        column_scale=1.0 if chi is None else math.cos(math.radians(chi)),
        beam_centre_px=None if None in centre else (float(centre[0] or 0), float(centre[1] or 0)),
    )


def companion(path: Path) -> Path | None:
    """The table of positions with the name of the master file."""
    stem = path.stem.removesuffix("_master")
    return next((p for p in (path.with_name(f"{stem}{end}") for end in (".csv", ".txt")) if p.is_file()), None)


VELOCIPROBE = Format("velociprobe", "Velociprobe master file", ("hdf5",), recognise, read, companion=companion)
