"""From our scans to Ptychodus products and back; for the conventions see ``data.formats.ptychodus_product``."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.auxiliary_file import matched
from ptycho_ray.data.contents import default_max_bytes
from ptycho_ray.data.formats.far_field_geometry import PROBE_IN_PHOTONS, half_pixel
from ptycho_ray.data.formats.ptychodus import pieces_of, read_diffraction
from ptycho_ray.data.formats.ptychodus_product import (
    DIFFRACTION_FILE,
    PRODUCT_FILE,
    Product,
    lengths_beside,
    read_product,
    write_diffraction,
    write_product,
)
from ptycho_ray.data.hdf5 import Hdf5Frames
from ptycho_ray.data.opening import opened
from ptycho_ray.data.patterns import PatternStack
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import InputError, to_type
from ptycho_ray.files import require_file
from ptycho_ray.physics.optics import beam_energy_eV, electron_wavelength_m

#: How the line of the comments begins that says what scale the probe has.
PROBE_REMARK = "The probe is"


def product_of_scan(
    raw: RawData, image: NDArray[np.complexfloating], origin_px: Sequence[float], remark: str, name: str = "ptycho_ray"
) -> Product:
    """:func:`product_of` a scan, with the probe unchanged."""
    return product_of(
        image,
        origin_px,
        raw.probe,
        raw.positions_px,
        position_indexes(raw),
        remark,
        name=name,
        **{field: getattr(raw, field) for field in ("pixel_size_m", "energy_eV", "detector_distance_m", "electrons")},
    )


def product_of(
    image: NDArray[np.complexfloating],
    origin_px: Sequence[float],
    probe: NDArray[np.complexfloating],
    positions_px: NDArray[np.float64],
    indexes: NDArray[np.int64],
    remark: str,
    *,
    name: str = "ptycho_ray",
    pixel_size_m: float | None = None,
    energy_eV: float | None = None,
    detector_distance_m: float | None = None,
    electrons: bool = False,
) -> Product:
    """A product of a scan that came from elsewhere: ``image`` [H, W], whose first pixel lies at ``origin_px``.

    ``positions_px`` [n, 2] are (row, column) where pixel N // 2 of a patch lies, the probe is [P, N, N]. ``indexes`` [n] that
    are not unique are replaced. A pixel size or energy that is None is written as 1 m or 0 eV,
    and the comments say so. That of electrons is written as the energy of photons of the same wavelength, the only one that a
    product knows.
    """
    facts = {"pixel_size_m": pixel_size_m, "energy_eV": energy_eV, "detector_distance_m": detector_distance_m}
    unknown = [field for field, value in facts.items() if value is None]
    size, n = pixel_size_m or 1.0, probe.shape[-1]
    middle = (np.array(origin_px) + (np.array(image.shape) - 1) / 2) * size
    photons = float(np.sum(np.abs(probe.astype(np.complex128)) ** 2))
    comments = f"{remark}\n{PROBE_REMARK} as in the file: sum |P|^2 = {photons:.6g}."
    photon_energy = energy_eV or 0.0
    if electrons and energy_eV:
        photon_energy = beam_energy_eV(electron_wavelength_m(energy_eV), electrons=False)
        comments += f" Electrons of {energy_eV:.6g} eV; the photon energy is that of the same wavelength."
    if unknown:
        comments += f" Unknown, and not what stands here: {', '.join(unknown)}."
    return Product(
        probe=probe[None],
        object=image[None],
        pixel_m=(size, size),
        centre_m=(float(middle[0]), float(middle[1])),
        indexes=indexes if len(np.unique(indexes)) == len(positions_px) else np.arange(len(positions_px)),
        positions_m=(positions_px - half_pixel(n)) * size,
        metadata={
            "name": name,
            "comments": comments,
            "probe_photon_count": photons,
            "photon_energy_eV": photon_energy,
            "detector_object_distance_m": detector_distance_m or 0.0,
        },
    )


def position_indexes(raw: RawData) -> NDArray[np.int64]:
    """A unique number for each position: ``scan_index`` if unique, else the index in the file."""
    if len(np.unique(raw.scan_index)) == len(raw):
        return raw.scan_index
    return np.arange(len(raw)) if raw.sample_indices is None else raw.sample_indices


def write_standard_folder(
    folder: str | Path,
    raw: RawData,
    *,
    energy_eV: float | None = None,
    detector_distance_m: float | None = None,
    detector_pixel_m: float | None = None,
) -> Path:
    """Write a scan as ``diffraction.h5`` and ``product.h5``; the start object is the scan's truth, or ones.

    The geometry of the scan is used unless it is given here.

    Raises:
        InputError: neither the scan nor the caller states the geometry (two of the three lengths and the energy).
    """
    raw = with_geometry(raw, energy_eV, detector_distance_m, detector_pixel_m)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    bad = np.zeros((raw.N, raw.N), bool) if raw.bad_pixels is None else raw.bad_pixels
    pixel = detector_pixel_of(raw)
    write_diffraction(folder / DIFFRACTION_FILE, pieces_of(raw), position_indexes(raw), bad, (pixel, pixel))
    write_product(folder / PRODUCT_FILE, start_product(raw))
    return folder


def start_product(raw: RawData) -> Product:
    """The initial product for a reconstruction of a scan: its positions and probe, and its true object or ones."""
    half = raw.N // 2
    origin = np.floor(raw.positions_px.min(axis=0)) - half
    extent = np.ceil(raw.positions_px.max(axis=0)) + half - origin + 1
    image: NDArray[np.complexfloating] = np.ones(extent.astype(int), np.complex64)
    if raw.object_truth is not None:
        image, origin = raw.object_truth, np.zeros(2)
    return product_of_scan(raw, image, origin.tolist(), f"Read from {Path(raw.source).name}.")


def with_geometry(
    raw: RawData, energy_eV: float | None, detector_distance_m: float | None, detector_pixel_m: float | None
) -> RawData:
    """The scan with the geometry given, and its object pixel from wavelength, distance and detector pixel (far field)."""
    scan = copy.copy(raw)
    scan.energy_eV = energy_eV or raw.energy_eV
    scan.detector_distance_m = detector_distance_m or raw.detector_distance_m
    wavelength = scan.wavelength_m
    if detector_pixel_m and wavelength and scan.detector_distance_m:
        scan.pixel_size_m = wavelength * abs(scan.detector_distance_m) / (raw.N * detector_pixel_m)
    for name in ("energy_eV", "detector_distance_m", "pixel_size_m"):
        if not getattr(scan, name):
            raise InputError(
                file=raw.source or None,
                field=name,
                found="nothing",
                expected="a number above 0, since Ptychodus works in metres",
                hint=to_type(
                    raw.source or "SCAN",
                    "--product product.h5 --energy-eV EV --detector-distance-m METRES --detector-pixel-m METRES",
                    program="reconstruct",
                ),
            )
    return scan


def detector_pixel_of(raw: RawData) -> float:
    """The detector pixel in metres that the far-field geometry of a scan implies."""
    assert raw.wavelength_m is not None
    assert raw.detector_distance_m is not None
    assert raw.pixel_size_m is not None
    return raw.wavelength_m * abs(raw.detector_distance_m) / (raw.N * raw.pixel_size_m)


def read_standard_folder(folder: str | Path) -> tuple[RawData, Product]:
    """The scan in a folder of the standard layout, with its patterns on disk, and the product it starts from.

    Positions are in pixels of the product's object, which is the scan's truth. The probe is scaled so that sum |P|**2 is the
    mean sum of a pattern, whatever its original scale (programs differ by a factor of N**2).
    """
    folder = Path(folder)
    product = read_product(folder / PRODUCT_FILE)
    path = require_file(folder / DIFFRACTION_FILE, "diffraction")
    with opened(path, default_max_bytes()) as content:
        fields = read_diffraction(content)
        pixel = lengths_beside(content, "patterns", prefix="detector_")
    frames, indexes = fields.frames, fields.frame_index
    assert isinstance(frames, Hdf5Frames)
    assert indexes is not None
    rows, positions_m = matched(indexes, product.indexes, product.positions_m, path)
    raw = _raw_data(frames.take(rows), fields.frames_field, product, positions_m, fields.bad_pixels, str(path))
    raw.scan_index = indexes[rows]
    raw.metadata = {"detector_pixel_m": list(pixel)}
    return with_photons_of_patterns(raw), product


def with_photons_of_patterns(raw: RawData) -> RawData:
    """The scan with its probe scaled so that sum |P|**2 is the mean sum of a pattern."""
    energy = float(np.sum(np.abs(raw.probe.astype(np.complex128)) ** 2))
    raw.probe = raw.probe * np.float32(np.sqrt(raw.pattern_energies().mean() / energy))
    return raw


def reconstructed(
    product: Product,
    image: NDArray[np.complex64],
    origin_px: Sequence[float],
    probe: NDArray[np.complex64],
    losses: Sequence[float],
    remark: str,
) -> Product:
    """``product`` with a new object, probe [I, N, N] in sqrt(photons) and losses, one per epoch.

    ``image`` [H, W] with its first pixel at ``origin_px`` of the former object is put in the former object's frame, whose
    centre and pixel stay; the frame grows on both sides if it is too small. What was not measured is zero.
    """
    photons = float(np.sum(np.abs(probe.astype(np.complex128)) ** 2))
    former = str(product.metadata.get("comments", "")).splitlines()
    comments = [
        *(line for line in former if not line.startswith((PROBE_REMARK, PROBE_IN_PHOTONS))),
        remark,
        PROBE_IN_PHOTONS,
        f"{PROBE_REMARK} scaled so that sum |P|^2 = {photons:.6g} photons; object pixels that no pattern reached "
        "are 0.",
    ]
    if len(product.probe) > 1:
        comments.append("Of several orthogonal probe modes only the first was used and is kept.")
    if len(product.object) > 1:
        comments.append("The object has one layer now.")
    return replace(
        product,
        object=in_frame(image, origin_px, product.object.shape[-2:])[None],
        layer_spacing_m=np.zeros(0),
        probe=probe[None].astype(np.complex64),
        opr_weights=None,
        losses=np.array([[number + 1, value] for number, value in enumerate(losses)], dtype=np.float64).reshape(-1, 2),
        metadata=product.metadata
        | {"comments": "\n".join(line for line in comments if line), "probe_photon_count": photons},
    )


def with_positions(product: Product, indexes: NDArray[np.int64], positions_px: NDArray[np.float64], n: int) -> Product:
    """``product`` with other positions (row, column) [k, 2], in pixels of its object, for the numbers ``indexes`` [k] of its
    scan; ``n`` is the side of a pattern."""
    middle = (np.array(product.object.shape[-2:]) - 1) / 2
    metres = (positions_px - middle - half_pixel(n)) * product.pixel_m + product.centre_m
    moved = product.positions_m.copy()
    row_of = {int(index): row for row, index in enumerate(product.indexes)}
    for index, position in zip(indexes, metres, strict=True):
        moved[row_of[int(index)]] = position
    return replace(product, positions_m=moved)


def in_frame(image: NDArray[np.complex64], origin_px: Sequence[float], shape: tuple[int, ...]) -> NDArray[np.complex64]:
    """``image`` with its pixel (0, 0) at pixel ``origin_px`` (whole numbers) of a frame, which grows evenly if necessary."""
    first = np.rint(origin_px).astype(int)
    beyond = np.maximum(-first, first + image.shape - np.array(shape)).clip(min=0)
    frame = np.zeros(np.array(shape) + 2 * beyond, dtype=np.complex64)
    row, column = first + beyond
    frame[row : row + image.shape[0], column : column + image.shape[1]] = image
    return frame


def _raw_data(
    frames: Hdf5Frames,
    name: str,
    product: Product,
    positions_m: NDArray[np.float64],
    bad_pixels: NDArray | None,
    source: str,
) -> RawData:
    n = frames.shape[-1]
    positions = product.to_object_px(positions_m, n)
    return RawData(
        positions[:, 1],
        positions[:, 0],
        None,
        None,
        PatternStack(
            frames,
            "intensity",
            bad_pixels=None if bad_pixels is None else bad_pixels.astype(bool),
            file=source,
            field=name,
        ),
        product.probe[0],
        objectGuess=product.object.prod(axis=0),  # layers of one thin object
        counts_are_photons=True,
        pixel_size_m=product.pixel_m[1],
        energy_eV=product.metadata["photon_energy_eV"],
        detector_distance_m=product.metadata["detector_object_distance_m"],
        source=source,
    )
