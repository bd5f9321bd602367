"""Scans in CXI files (cxidb.org layout 1.6, an HDF5 file).

CXI knows no object pixel and does not say whether the detector was in the far field. We store this, and the origin of
the positions, in our own group ``entry_1/ptycho_ray``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import JOULE_PER_EV, PLANCK_TIMES_LIGHT_EV_M, FileContents, square_pixel, whole_numbers
from ptycho_ray.data.formats.far_field_geometry import completed, half_pixel, pixel_size_of
from ptycho_ray.data.formats.format import FIELDS, Format
from ptycho_ray.data.formats.ptychodus_product import Product
from ptycho_ray.data.formats.ptychopinn import write_patterns
from ptycho_ray.data.hdf5 import Hdf5Scan, new_hdf5
from ptycho_ray.errors import InputError

if TYPE_CHECKING:
    from ptycho_ray.data.scan import Scan

HAS_SIGNAL = 0x1000
"""The one mask bit that does not mark a defect."""

DETECTOR = "entry_1/instrument_1/detector_1"
SOURCE = "entry_1/instrument_1/source_1"
OURS = "entry_1/ptycho_ray"
PTYCHODUS = "entry_1/ptychodus"


def recognise(scan: Hdf5Scan) -> bool:
    """True for a file with CXI's version number or its first entry."""
    return "cxi_version" in scan or "entry_1/instrument_1" in scan


def read(scan: Hdf5Scan) -> FileContents:
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
    if f"{PTYCHODUS}/object_pixel_width_m" in scan:
        return _read_product(scan, translation)
    frames, field = scan.frames(len(translation), f"{DETECTOR}/data", "entry_1/data_1/data")
    basis = _basis(scan)
    directions = basis / np.linalg.norm(basis, axis=0)
    ours = OURS in scan
    counts, far = scan.number(f"{OURS}/counts_are_photons"), scan.number(f"{OURS}/far_field")
    return FileContents(
        frames=frames,
        frames_field=field,
        positions=-translation.astype(np.float64) @ np.linalg.pinv(directions).T,
        positions_in_metres=True,
        probe=_probe(scan, frames.shape[1:]),
        object_truth=scan.read_optional("entry_1/image_2/data") if ours else None,
        scan_index=scan.read_optional(f"{OURS}/scan_index"),
        counts_are_photons=None if counts is None else bool(counts),
        far_field=None if far is None else bool(far),
        pixel_size_m=scan.number(f"{OURS}/pixel_size_m"),
        bad_pixels=_bad_pixels(scan),
        domain="intensity",
        energy_eV=_energy_eV(scan),
        detector_distance_m=scan.number(f"{DETECTOR}/distance"),
        detector_pixel_m=_detector_pixel(scan, basis),
    )


def _read_product(scan: Hdf5Scan, translation: NDArray) -> FileContents:
    """A product that Ptychodus wrote as CXI: its translation is the position on the object; patterns may be missing."""
    image, probe = scan.read("entry_1/image_2/data"), scan.read("entry_1/image_1/data")
    if image.ndim not in (2, 3) or not image.size or probe.ndim not in (3, 4) or not probe.size:
        raise InputError(
            file=scan.path,
            field="image_1, image_2",
            found=f"shapes {probe.shape} and {image.shape}",
            expected="a probe (coherent, incoherent, N, N) and an object (layers, H, W)",
        )
    image = image.reshape(-1, *image.shape[-2:]).prod(axis=0)
    width, height = (scan.number(f"{PTYCHODUS}/object_pixel_{side}_m") for side in ("width", "height"))
    pixel = square_pixel(width, height, scan.path, "object pixel width and height")
    if not pixel or not pixel > 0:
        raise InputError(file=scan.path, field="object_pixel_width_m", found=pixel, expected="a length above 0")
    centre = np.array([scan.number(f"{PTYCHODUS}/object_center_{axis}_m") or 0.0 for axis in "yx"])
    middle = (np.array(image.shape) - 1) / 2 + half_pixel(probe.shape[-1])
    index = scan.read_optional(f"{PTYCHODUS}/probe_position_indexes")
    fields = FileContents(
        positions=(translation[:, [1, 0]].astype(np.float64) - centre) / pixel + middle,
        position_index=None
        if index is None
        else whole_numbers(index, len(translation), scan.path, "probe_position_indexes"),
        probe=probe,
        probe_scale_known=False,
        object_truth=image if np.ptp(np.abs(image)) + np.ptp(np.angle(image)) > 0 else None,
        pixel_size_m=pixel,
        energy_eV=_energy_eV(scan),
        detector_distance_m=scan.number(f"{DETECTOR}/distance"),
    )
    if f"{DETECTOR}/data" in scan:
        fields.frames, fields.frames_field = scan.frames(len(translation), f"{DETECTOR}/data")
        fields.domain, fields.bad_pixels = "intensity", _bad_pixels(scan)
    return fields


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
    wavelength, energy = scan.number(f"{SOURCE}/wavelength"), scan.number(f"{SOURCE}/energy")
    if energy:
        return energy / JOULE_PER_EV if energy < 1e-10 else energy
    return PLANCK_TIMES_LIGHT_EV_M / wavelength if wavelength else None


def _detector_pixel(scan: Hdf5Scan, basis: NDArray[np.float64]) -> float | None:
    x, y = scan.number(f"{DETECTOR}/x_pixel_size"), scan.number(f"{DETECTOR}/y_pixel_size")
    if x is None and y is None and f"{DETECTOR}/basis_vectors" in scan:
        y, x = (float(length) for length in np.linalg.norm(basis, axis=0))
    return square_pixel(x, y, scan.path, f"{DETECTOR}/x_pixel_size, y_pixel_size")


def _bad_pixels(scan: Hdf5Scan) -> NDArray[np.bool_] | None:
    """True where any mask bit but 'has signal' is set; a mask per frame counts a pixel as bad if any frame does."""
    mask = scan.read_optional(f"{DETECTOR}/mask")
    if mask is None:
        return None
    bad = (mask.astype(np.int64) & ~HAS_SIGNAL) != 0
    return bad.any(axis=0) if bad.ndim == 3 else bad


def _probe(scan: Hdf5Scan, frame_shape: tuple[int, ...]) -> NDArray | None:
    """The first complex image of the patterns' size at a path where programs store the probe."""
    for name in (f"{SOURCE}/illumination", "entry_1/image_1/data"):
        image = scan.read_optional(name)
        if image is not None and image.dtype.kind == "c" and image.shape[-2:] == frame_shape:
            return image
    return None


def write(raw: Scan, path: Path) -> None:
    """Write a scan with CXI's default axes, pattern by pattern. InputError without an object pixel size."""
    raw = completed(raw)
    pixel = pixel_size_of(raw)
    translation = np.zeros((len(raw), 3))
    translation[:, :2] = raw.positions_px[:, ::-1] * pixel
    with new_hdf5(path) as file:
        file["cxi_version"] = 160
        source, detector = file.create_group(SOURCE), file.create_group(DETECTOR)
        if raw.energy_eV is not None:
            source["energy"] = raw.energy_eV * JOULE_PER_EV
            source["wavelength"] = PLANCK_TIMES_LIGHT_EV_M / raw.energy_eV
        source["illumination"] = raw.probe
        write_patterns(detector, "data", raw)
        if raw.detector_distance_m is not None:
            detector["distance"] = raw.detector_distance_m
        if raw.detector_pixel_m is not None:
            detector["x_pixel_size"] = detector["y_pixel_size"] = raw.detector_pixel_m
        if raw.bad_pixels is not None:
            detector["mask"] = raw.bad_pixels.astype(np.uint32)
        file["entry_1/sample_1/geometry_1/translation"] = translation
        data = file.create_group("entry_1/data_1")
        data["data"] = h5py.SoftLink(f"/{DETECTOR}/data")
        data["translation"] = h5py.SoftLink("/entry_1/sample_1/geometry_1/translation")
        if raw.object_truth is not None:
            file["entry_1/image_2/data"] = raw.object_truth
        ours = file.create_group(OURS)
        ours["pixel_size_m"], ours["scan_index"] = pixel, raw.scan_index
        ours["counts_are_photons"] = raw.counts_are_photons
        if raw.far_field is not None:
            ours["far_field"] = raw.far_field


def write_product_cxi(path: Path, product: Product) -> None:
    """Write a reconstruction as Ptychodus writes its products as CXI, so that :func:`read` reads it: the probe
    [C, I, N, N] as image 1, the object [L, H, W] as image 2, lengths in metres."""
    translation = np.zeros((len(product.positions_m), 3))
    translation[:, [1, 0]] = product.positions_m
    energy = product.metadata["photon_energy_eV"]
    with new_hdf5(path) as file:
        file["cxi_version"] = 160
        entry = file.create_group("entry_1")
        entry["title"] = product.metadata["name"]
        entry["program_name"] = "ptycho_ray"
        source = file.create_group(SOURCE)
        if energy:
            source["energy"] = energy * JOULE_PER_EV
            source["wavelength"] = PLANCK_TIMES_LIGHT_EV_M / energy
        distance = product.metadata["detector_object_distance_m"]
        if distance:
            file[f"{DETECTOR}/distance"] = distance
        file["entry_1/sample_1/geometry_1/translation"] = translation
        for number, image in ((1, product.probe), (2, product.object)):
            group = entry.create_group(f"image_{number}")
            group["data"], group["data_space"], group["is_fft_shifted"] = image, "real", 0
        lengths = {
            "object_pixel_height_m": product.pixel_m[0],
            "object_pixel_width_m": product.pixel_m[1],
            "object_center_y_m": product.centre_m[0],
            "object_center_x_m": product.centre_m[1],
        }
        theirs = entry.create_group("ptychodus")
        for name, value in lengths.items():
            theirs[name] = value
        theirs["probe_position_indexes"] = product.indexes
        theirs["comments"] = product.metadata["comments"]


_LOST = {"nominal positions", "truth patches", "metadata", "electrons", "optics"}
CXI = Format("cxi", "CXI 1.6", ("hdf5",), recognise, read, write, frozenset(FIELDS) - _LOST)
