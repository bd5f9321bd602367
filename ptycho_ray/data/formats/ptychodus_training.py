"""What Ptychodus writes to train networks on: HDF5 of its own, and NPZ with the keys of PtychoPINN.

The HDF5 has patterns and positions in object pixels, scalars as datasets. The NPZ differs from PtychoPINN's own in that
``diff3d`` is counts and a position the middle of a patch; it is recognised by its keys, a combination that no other
program writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ptycho_ray.data.contents import FileContents, pairs, square_pixel
from ptycho_ray.data.formats.far_field_geometry import PROBE_IN_PHOTONS, geometry_of, half_pixel, object_of
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.formats.ptychopinn import read_npz, write_patterns
from ptycho_ray.data.hdf5 import Hdf5Scan, new_hdf5
from ptycho_ray.data.npz import NpzFile
from ptycho_ray.data.opening import Content

if TYPE_CHECKING:
    from ptycho_ray.data.scan import Scan


def recognise(scan: Hdf5Scan) -> bool:
    return "patterns" in scan and "probe_position_x_px" in scan


def read(scan: Hdf5Scan) -> FileContents:
    """A position is the middle of a patch. The object is read unless it is flat."""
    rows, columns = scan.read("probe_position_y_px"), scan.read("probe_position_x_px")
    positions = pairs(rows, columns, scan.path, "probe_position_x_px, probe_position_y_px")
    frames, field = scan.frames(len(positions), "patterns")
    probe, image = scan.read_optional("probe", "probeGuess"), scan.read_optional("object")
    if image is not None and image.ndim == 3 and image.size:
        image = image.prod(axis=0)
    width, height = scan.number("object_pixel_width_m"), scan.number("object_pixel_height_m")
    return FileContents(
        frames=frames,
        frames_field=field,
        positions=positions + half_pixel(frames.shape[-1]),
        probe=probe,
        probe_scale_known=PROBE_IN_PHOTONS in (scan.text("comments") or ""),
        object_truth=image if image is not None and np.ptp(np.abs(image)) + np.ptp(np.angle(image)) > 0 else None,
        bad_pixels=scan.read_optional("bad_pixels"),
        domain="intensity",
        pixel_size_m=square_pixel(width, height, scan.path, "object_pixel_width_m, object_pixel_height_m"),
        energy_eV=scan.number("photon_energy_eV", "probe_energy_eV"),
        detector_distance_m=scan.number("detector_object_distance_m"),
    )


def write(raw: Scan, path: Path) -> None:
    """Write a scan as training data. InputError if it does not state its geometry."""
    geometry = geometry_of(raw)
    positions = raw.positions_px - half_pixel(raw.N)
    with new_hdf5(path) as file:
        file.attrs["comments"] = PROBE_IN_PHOTONS
        write_patterns(file, "patterns", raw)
        file["bad_pixels"] = np.zeros((raw.N, raw.N), dtype=bool) if raw.bad_pixels is None else raw.bad_pixels
        file["probe"], file["object"] = raw.probe[None], object_of(raw)[None]
        file["probe_position_x_px"], file["probe_position_y_px"] = positions[:, 1], positions[:, 0]
        file["object_pixel_width_m"] = file["object_pixel_height_m"] = geometry.pixel_size_m
        file["detector_object_distance_m"] = geometry.detector_distance_m
        file["photon_energy_eV"] = geometry.energy_eV


EXPORTED = frozenset(
    {
        *("xcoords", "ycoords", "xcoords_start", "ycoords_start", "diff3d"),
        *("bad_pixels", "probeGuess", "objectGuess", "scan_index"),
    }
)


def recognise_export(content: Content) -> bool:
    return set(content.keys()) == EXPORTED


def read_export(npz: NpzFile) -> FileContents:
    """PtychoPINN's keys with Ptychodus' contents: intensities, and the middle of the patch as position."""
    fields = read_npz(npz)
    assert fields.frames is not None
    assert fields.positions is not None
    fields.domain, fields.probe_scale_known = "intensity", False
    fields.positions = fields.positions + half_pixel(fields.frames.shape[-1])
    fields.nominal = None
    return fields


PTYCHODUS_EXPORT = Format(
    "ptychodus-ptychopinn", "NPZ for PtychoPINN by Ptychodus", ("npz",), recognise_export, read_export
)

_HOLDS = {"patterns", "positions", "probe", "probe modes", "object", "bad pixels", "pixel size", "energy", "distance"}
PTYCHODUS_TRAINING = Format(
    "ptychodus-training", "Ptychodus training data", ("hdf5",), recognise, read, write, frozenset(_HOLDS)
)
