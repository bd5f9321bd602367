"""Master files of DECTRIS detectors (EIGER, ARINA, QUADRO ...): frames in linked files, the geometry in the master.

Of present firmware (links in ``entry/data``) and older (links in ``entry``). Positions are in a text file (``table``),
given as the auxiliary file or found under the master's name. The Velociprobe (APS 2-ID-D), whose files these were first,
rotates its stage by ``chi`` about the vertical axis, so x is multiplied by its cosine. Detectors for electrons say so in
their description.
"""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import PLANCK_TIMES_LIGHT_EV_M, FileContents, square_pixel
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.hdf5 import Hdf5Frames, Hdf5Scan
from ptycho_ray.data.masks import as_mask
from ptycho_ray.errors import InputError

DETECTOR = "entry/instrument/detector"
SPECIFIC = f"{DETECTOR}/detectorSpecific"
BEAM = "entry/instrument/beam"
LARGEST_FILE_COUNT = 100_000
OF_ELECTRONS = ("arina", "quadro", "singla", "ela")


def recognise(scan: Hdf5Scan) -> bool:
    return DETECTOR in scan and bool(_links(scan))


def _links(scan: Hdf5Scan) -> list[str]:
    """The links to files of frames, in the order of their numbers, whether these are there or not."""
    for group in ("entry/data", "entry"):
        names = sorted(name for name in scan.names(group) if name.startswith("data_"))
        if names:
            return [f"{group}/{name}" for name in names]
    return []


def read(scan: Hdf5Scan) -> FileContents:
    """Frames of all linked files that are there, up to the first that is not; counts, with pixels marked by the detector as bad
    pixels."""
    names, notes = _links(scan), []
    if len(names) > LARGEST_FILE_COUNT:
        raise InputError(file=scan.path, field="entry/data", found=f"{len(names)} links", expected="fewer")
    there, lost = _present(scan, names)
    if not there:
        scan.dataset(names[0])  # says which file is not there
    if lost:
        notes.append(
            f"{scan.path}: {len(names) - len(there)} of {len(names)} linked files of frames are missing ({lost}): the frames "
            "before the first missing one are read"
        )
    frames, field = scan.joined_frames([scan.dataset(name) for name in there])
    width, height = scan.number(f"{DETECTOR}/x_pixel_size"), scan.number(f"{DETECTOR}/y_pixel_size")
    chi = scan.number("entry/sample/goniometer/chi") if _is_number(scan, "entry/sample/goniometer/chi") else None
    centre = [scan.number(f"{DETECTOR}/beam_center_{axis}") for axis in ("y", "x")]
    made = FileContents(
        frames=frames,
        frames_field=field,
        domain="intensity",
        energy_eV=_energy(scan),
        detector_distance_m=scan.number(f"{DETECTOR}/detector_distance") or None,
        detector_pixel_m=square_pixel(width, height, scan.path, f"{DETECTOR}/x_pixel_size, y_pixel_size"),
        frame_index=np.arange(frames.shape[0]),
        column_scale=1.0 if chi is None else math.cos(math.radians(chi)),
        beam_centre_px=None if None in centre else (float(centre[0] or 0), float(centre[1] or 0)),
        electrons=_electrons(scan),
        incomplete=bool(lost),
        notes=notes,
    )
    made.raster = frames.raster
    _take_mask(scan, frames, made)
    return made


def _present(scan: Hdf5Scan, names: list[str]) -> tuple[list[str], str]:
    """The links before the first that leads nowhere, and the name of the file that it leads to."""
    there = []
    for name in names:
        try:
            scan.check_links(name)
            if isinstance(scan.file.get(name), h5py.Dataset):
                there.append(name)
                continue
            return there, name
        except InputError as error:
            if "which is not there" not in str(error.found):
                raise
            link = scan.file.get(name, getlink=True)
            return there, str(getattr(link, "filename", name))
        except (KeyError, OSError):
            return there, name
    return there, ""


def _is_number(scan: Hdf5Scan, name: str) -> bool:
    return name in scan and isinstance(scan.file[name], h5py.Dataset) and scan.file[name].size == 1


def _energy(scan: Hdf5Scan) -> float | None:
    """In eV; older firmware stores the wavelength (Angstrom)."""
    energy = scan.number(f"{SPECIFIC}/photon_energy", f"{DETECTOR}/photon_energy", f"{BEAM}/photon_energy")
    if energy:
        return energy
    wavelength = scan.number(f"{BEAM}/incident_wavelength", f"{BEAM}/wavelength")
    return PLANCK_TIMES_LIGHT_EV_M / (wavelength * 1e-10) if wavelength else None


def _electrons(scan: Hdf5Scan) -> bool | None:
    said = " ".join(filter(None, (scan.text(f"{DETECTOR}/{name}") for name in ("description", "type")))).lower()
    if not said:
        return None
    return any(name in said.replace(",", " ").split() for name in OF_ELECTRONS)


def _take_mask(scan: Hdf5Scan, frames: Hdf5Frames, made: FileContents) -> None:
    """The detector's mask on the frames; one of the whole detector with frames of a region is cut where the file says where."""
    name = next((f"{place}/pixel_mask" for place in (SPECIFIC, DETECTOR) if f"{place}/pixel_mask" in scan), None)
    if name is None:
        return
    mask: NDArray = scan.read(name)
    placed = as_mask(mask, frames.shape[1:])
    origin = scan.read_optional(f"{DETECTOR}/region_origin", f"{SPECIFIC}/roi_origin")
    if placed is None and origin is not None and origin.size == 2 and mask.ndim == 2:
        x, y = (int(value) for value in origin.ravel())  # x, y in NeXus
        placed = (
            as_mask(mask[y : y + frames.shape[1], x : x + frames.shape[2]], frames.shape[1:])
            if min(x, y) >= 0
            else None
        )
    if placed is None and mask.ndim == 2 and not mask.any():
        return
    if placed is None:
        made.unused_masks[name] = mask.shape
    else:
        made.bad_pixels = placed


def companion(path: Path) -> Path | None:
    """The table of positions with the name of the master file."""
    stem = path.stem.removesuffix("_master")
    return next((p for p in (path.with_name(f"{stem}{end}") for end in (".csv", ".txt")) if p.is_file()), None)


VELOCIPROBE = Format("velociprobe", "DECTRIS master file", ("hdf5",), recognise, read, companion=companion)
