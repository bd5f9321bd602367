"""The files of Ptychodus: ``diffraction.h5``, ``product.h5`` and its checkpoints, read and written with h5py alone.

Lengths are metres, +x is along columns and +y along rows, and nothing is flipped. A position p lies at object pixel
``(p - centre) / pixel + (W - 1) / 2`` (since Ptychodus 1.6), and the middle of the patch, (N - 1) / 2, lies there. Here patch
pixel N // 2 lies on the position, so our positions are half a pixel further where N is even.

Releases 1.3 to 1.6 and 1.7 use different names for two attributes; both are written and either is read.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.fields import default_max_bytes
from ptycho_ray.data.hdf5 import PLANCK_TIMES_LIGHT_EV_M, Hdf5Frames, Hdf5Scan, open_hdf5
from ptycho_ray.data.patterns import PatternStack
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path, require_file

DIFFRACTION, PRODUCT, SETTINGS = "diffraction.h5", "product.h5", "settings.ini"

#: Attributes of a product: name -> default.
METADATA: dict[str, Any] = {
    "name": "Unnamed",
    "comments": "",
    "detector_object_distance_m": 0.0,
    "photon_energy_eV": 0.0,
    "probe_photon_count": 0.0,
    "exposure_time_s": 0.0,
    "mass_attenuation_m2_per_kg": 0.0,
    "tomography_angle_deg": 0.0,
    "focus_object_distance_m": 0.0,
    "tilt_angle_deg": 0.0,
    "far_field": True,
}
REQUIRED = ("detector_object_distance_m", "photon_energy_eV")
#: Names up to release 1.6.
FORMER_NAMES = {"photon_energy_eV": "probe_energy_eV", "mass_attenuation_m2_per_kg": "mass_attenuation_m2_kg"}


@dataclass(frozen=True)
class Product:
    """What Ptychodus knows about a reconstruction.

    Attributes:
        probe: complex [C, I, N, N]: orthogonal (C) and incoherent (I) modes.
        object: complex [L, H, W]: layers.
        pixel_m, probe_pixel_m: (height, width) of a pixel of the object and of the probe.
        centre_m: (row, column) position of the middle of the object.
        indexes: number of each position in the scan, int64 [n]; may repeat and have gaps.
        positions_m: (row, column), float64 [n, 2].
        losses: (epoch, value) pairs, float64 [E, 2].
        metadata: the attributes METADATA, and ``polarization`` where there is one.
    """

    probe: NDArray[np.complexfloating]
    object: NDArray[np.complexfloating]
    pixel_m: tuple[float, float]
    centre_m: tuple[float, float]
    indexes: NDArray[np.int64]
    positions_m: NDArray[np.float64]
    probe_pixel_m: tuple[float, float] | None = None
    layer_spacing_m: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    losses: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    opr_weights: NDArray | None = None
    photon_counts: NDArray | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def to_object_px(self, positions_m: NDArray[np.float64], n: int) -> NDArray[np.float64]:
        """Positions (row, column) [n, 2] in pixels of ``object``, where pixel n // 2 of a patch of side n lies."""
        middle = (np.array(self.object.shape[-2:]) - 1) / 2
        return (positions_m - self.centre_m) / self.pixel_m + middle + (n // 2 - (n - 1) / 2)


def read_product(path: str | Path, *, max_bytes: int | None = None) -> Product:
    """Read a product of any release; MissingFileError or InputError where it is none."""
    path = require_file(path, "product")
    with open_hdf5(path) as file:
        scan = Hdf5Scan(path, file, default_max_bytes() if max_bytes is None else max_bytes)
        probe, image = _complex(scan, "probe", 4), _complex(scan, "object", 3)
        pixel = _pair(scan, "object", "pixel_height_m", "pixel_width_m")
        indexes = scan.read("probe_position_indexes")
        rows, columns = scan.read("probe_position_y_m"), scan.read("probe_position_x_m")
        if not (indexes.shape == rows.shape == columns.shape and indexes.ndim == 1 and indexes.size):
            raise InputError(
                file=path,
                field="probe_position_indexes, probe_position_x_m, probe_position_y_m",
                found=f"shapes {indexes.shape}, {columns.shape}, {rows.shape}",
                expected="one index and two coordinates for each position",
            )
        epochs, values = scan.read_optional("loss_epochs"), scan.read_optional("loss_values")
        spacing = scan.read_optional("object_layer_spacing_m")
        return Product(
            probe=probe,
            object=image,
            pixel_m=pixel,
            probe_pixel_m=_pair(scan, "probe", "pixel_height_m", "pixel_width_m", pixel),
            centre_m=_pair(scan, "object", "center_y_m", "center_x_m"),
            indexes=indexes.astype(np.int64),
            positions_m=np.stack([rows, columns], axis=1).astype(np.float64),
            layer_spacing_m=np.zeros(0) if spacing is None else spacing,
            losses=np.zeros((0, 2)) if epochs is None or values is None else np.stack([epochs, values], axis=1),
            opr_weights=scan.read_optional("opr_weights"),
            photon_counts=scan.read_optional("probe_photon_counts"),
            metadata=_metadata(scan),
        )


def write_product(path: str | Path, product: Product) -> None:
    """Write a product that releases 1.3 to 1.7 of Ptychodus read; atomically."""
    metadata = METADATA | product.metadata
    for name, former in FORMER_NAMES.items():
        metadata[former] = metadata[name]
    height, width = product.probe_pixel_m or product.pixel_m
    arrays: dict[str, Any] = {
        "probe": product.probe,
        "object": product.object,
        "object_layer_spacing_m": product.layer_spacing_m,
        "probe_position_indexes": product.indexes,
        "probe_position_x_m": product.positions_m[:, 1],
        "probe_position_y_m": product.positions_m[:, 0],
        "loss_epochs": product.losses[:, 0],
        "loss_values": product.losses[:, 1],
        "opr_weights": product.opr_weights,
        "probe_photon_counts": product.photon_counts,
    }
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(metadata)
        for name, array in arrays.items():
            if array is not None:
                file[name] = array
        file["probe"].attrs.update(pixel_height_m=height, pixel_width_m=width)
        file["object"].attrs.update(
            pixel_height_m=product.pixel_m[0],
            pixel_width_m=product.pixel_m[1],
            center_y_m=product.centre_m[0],
            center_x_m=product.centre_m[1],
        )


def write_diffraction(
    path: str | Path,
    pieces: Iterable[NDArray],
    indexes: NDArray[np.int64],
    bad_pixels: NDArray[np.bool_],
    detector_pixel_m: tuple[float, float],
) -> None:
    """Write ``diffraction.h5``: patterns [n, N, N] in counts, handed over in one or more pieces; atomically.

    ``detector_pixel_m`` is (height, width); ``bad_pixels`` [N, N] is True where a pixel is bad.
    """
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        first, dataset = 0, None
        for piece in pieces:
            if dataset is None:
                shape = (len(indexes), *piece.shape[1:])
                chunks = (1, *piece.shape[1:])
                dataset = file.create_dataset("patterns", shape, piece.dtype, chunks=chunks, compression="lzf")
                dataset.attrs["detector_pixel_height_m"], dataset.attrs["detector_pixel_width_m"] = detector_pixel_m
            dataset[first : first + len(piece)] = piece
            first += len(piece)
        file["indexes"], file["bad_pixels"] = indexes, bad_pixels


def product_of_scan(
    raw: RawData, image: NDArray[np.complexfloating], origin_px: Sequence[float], remark: str, name: str = "ptycho_ray"
) -> Product:
    """A product of a scan that came from elsewhere, with ``image`` [H, W], whose first pixel lies at ``origin_px``.

    A pixel size or energy that the scan does not tell is 1 m or 0 eV, and the comments say so.
    """
    facts = {field: getattr(raw, field) for field in ("pixel_size_m", "energy_eV", "detector_distance_m")}
    unknown = [field for field, value in facts.items() if value is None]
    size = raw.pixel_size_m or 1.0
    half = raw.N // 2 - (raw.N - 1) / 2
    middle = (np.array(origin_px) + (np.array(image.shape) - 1) / 2) * size
    photons = float(np.sum(np.abs(raw.probe.astype(np.complex128)) ** 2))
    comments = f"{remark}\nThe probe is as in the file: sum |P|^2 = {photons:.6g}."
    if unknown:
        comments += f" Unknown, and not what stands here: {', '.join(unknown)}."
    return Product(
        probe=raw.probe[None],
        object=image[None],
        pixel_m=(size, size),
        centre_m=(float(middle[0]), float(middle[1])),
        indexes=position_indexes(raw),
        positions_m=(raw.positions_px - half) * size,
        metadata={
            "name": name,
            "comments": comments,
            "probe_photon_count": photons,
            "photon_energy_eV": raw.energy_eV or 0.0,
            "detector_object_distance_m": raw.detector_distance_m or 0.0,
        },
    )


def position_indexes(raw: RawData) -> NDArray[np.int64]:
    """A number of its own for each position: ``scan_index`` where it is one, else the place in the file."""
    distinct = len(np.unique(raw.scan_index)) == len(raw)
    if distinct:
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
        InputError: neither the scan nor the caller tells the geometry (two of the three lengths and the energy).
    """
    raw = with_geometry(raw, energy_eV, detector_distance_m, detector_pixel_m)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    half = raw.N // 2
    origin = np.floor(raw.positions_px.min(axis=0)) - half
    extent = np.ceil(raw.positions_px.max(axis=0)) + half - origin + 1
    image: NDArray[np.complexfloating] = np.ones(extent.astype(int), np.complex64)
    if raw.object_truth is not None:
        image, origin = raw.object_truth, np.zeros(2)
    bad = np.zeros((raw.N, raw.N), bool) if raw.bad_pixels is None else raw.bad_pixels
    pixel = detector_pixel_of(raw)
    pieces = (piece for _, piece in raw.patterns.chunks())
    write_diffraction(folder / DIFFRACTION, pieces, position_indexes(raw), bad, (pixel, pixel))
    write_product(folder / PRODUCT, product_of_scan(raw, image, origin.tolist(), f"Written from {raw.source}."))
    return folder


def with_geometry(
    raw: RawData, energy_eV: float | None, detector_distance_m: float | None, detector_pixel_m: float | None
) -> RawData:
    """The scan with the geometry given, and its object pixel from wavelength, distance and detector pixel (far field)."""
    scan = copy.copy(raw)
    scan.energy_eV = energy_eV or raw.energy_eV
    scan.detector_distance_m = detector_distance_m or raw.detector_distance_m
    if detector_pixel_m and scan.energy_eV and scan.detector_distance_m:
        wavelength = PLANCK_TIMES_LIGHT_EV_M / scan.energy_eV
        scan.pixel_size_m = wavelength * abs(scan.detector_distance_m) / (raw.N * detector_pixel_m)
    for name in ("energy_eV", "detector_distance_m", "pixel_size_m"):
        if not getattr(scan, name):
            raise InputError(
                file=raw.source or None,
                field=name,
                found="nothing",
                expected="a number above 0",
                hint="give energy_eV, detector_distance_m and detector_pixel_m: Ptychodus works in metres",
            )
    return scan


def detector_pixel_of(raw: RawData) -> float:
    """The detector pixel in metres that the far-field geometry of a scan implies."""
    assert raw.energy_eV and raw.detector_distance_m and raw.pixel_size_m
    return PLANCK_TIMES_LIGHT_EV_M / raw.energy_eV * abs(raw.detector_distance_m) / (raw.N * raw.pixel_size_m)


def read_standard_folder(folder: str | Path) -> tuple[RawData, Product]:
    """The scan in a folder of the standard layout, with its patterns on disk, and the product it starts from.

    Positions are in pixels of the product's object, which is the scan's truth. The probe is scaled so that sum |P|**2 is the
    mean sum of a pattern, whatever scale it came with (programs differ by a factor of N**2).
    """
    folder = Path(folder)
    product = read_product(folder / PRODUCT)
    path = require_file(folder / DIFFRACTION, "diffraction")
    with open_hdf5(path) as file:
        scan = Hdf5Scan(path, file, default_max_bytes())
        indexes = scan.read("indexes")
        frames, name = scan.frames(len(indexes), "patterns")
        bad_pixels = scan.read_optional("bad_pixels")
        pixel = _pair(scan, "patterns", "detector_pixel_height_m", "detector_pixel_width_m")
    rows, positions_m = match_positions(indexes, product, path)
    raw = _raw_data(frames.take(rows), name, product, positions_m, bad_pixels, str(path))
    raw.scan_index = indexes[rows].astype(np.int64)
    raw.metadata = {"detector_pixel_m": list(pixel)}
    return with_photons_of_patterns(raw), product


def match_positions(
    pattern_indexes: NDArray[np.int64], product: Product, path: Path
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Which patterns have a position, and their positions [k, 2], by the rules of Ptychodus.

    The pattern's index counts. Positions of the same index are averaged, missing ones interpolated between their
    neighbours, and patterns outside the range of the positions left out.
    """
    known, back = np.unique(product.indexes, return_inverse=True)
    counts = np.bincount(back)
    rows = np.flatnonzero((pattern_indexes >= known[0]) & (pattern_indexes <= known[-1]))
    if rows.size == 0:
        raise InputError(
            file=path,
            field="indexes",
            found=f"patterns {pattern_indexes.min()} to {pattern_indexes.max()}",
            expected=f"some of the positions' numbers, {known[0]} to {known[-1]}",
        )
    anchors = [np.bincount(back, weights=product.positions_m[:, axis]) / counts for axis in (0, 1)]
    columns = [np.interp(pattern_indexes[rows], known, anchor) for anchor in anchors]
    return rows, np.stack(columns, axis=1)


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
    """``product`` with a new object, probe [I, N, N] in sqrt(photons) and losses, one an epoch.

    ``image`` [H, W] with its first pixel at ``origin_px`` of the former object is put in the former object's frame, whose
    centre and pixel stay; the frame grows on both sides if it is too small. What was not measured is zero.
    """
    photons = float(np.sum(np.abs(probe.astype(np.complex128)) ** 2))
    comments = [
        str(product.metadata.get("comments", "")),
        remark,
        f"The probe is scaled so that sum |P|^2 = {photons:.6g} photons (Fourier transform with norm='ortho'); object pixels "
        "that no pattern reached are 0.",
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


def in_frame(
    image: NDArray[np.complex64], origin_px: Sequence[float], shape: tuple[int, ...]
) -> NDArray[np.complex64]:
    """``image`` with its pixel (0, 0) at pixel ``origin_px`` (whole numbers) of a frame, which grows evenly if need be."""
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


def _complex(scan: Hdf5Scan, name: str, dimensions: int) -> NDArray[np.complexfloating]:
    """A complex array with leading axes of length one where some are left out."""
    array = scan.read(name)
    if not 2 <= array.ndim <= dimensions or 0 in array.shape:
        raise InputError(
            file=scan.path, field=name, found=f"shape {array.shape}", expected=f"2 to {dimensions} dimensions"
        )
    return array.reshape((1,) * (dimensions - array.ndim) + array.shape).astype(np.complex64)


def _pair(
    scan: Hdf5Scan, name: str, first: str, second: str, default: tuple[float, float] | None = None
) -> tuple[float, float]:
    attributes = scan.file[name].attrs
    values = []
    for number, attribute in enumerate((first, second)):
        if attribute not in attributes and default is None:
            raise InputError(
                file=scan.path,
                field=f"attribute {attribute} of {name}",
                found="nothing",
                expected="a length in metres",
            )
        value = attributes[attribute] if attribute in attributes else default[number]  # type: ignore[index]
        if not np.isfinite(value) or (attribute.startswith("pixel") and value <= 0):
            raise InputError(
                file=scan.path, field=f"attribute {attribute} of {name}", found=value, expected="a length in metres"
            )
        values.append(float(value))
    return values[0], values[1]


def _metadata(scan: Hdf5Scan) -> dict[str, Any]:
    attributes = scan.file.attrs
    values: dict[str, Any] = {}
    for name, default in METADATA.items():
        key = name if name in attributes else FORMER_NAMES.get(name, name)
        if key not in attributes and name in REQUIRED:
            raise InputError(
                file=scan.path, field=f"attribute {name}", found="nothing", expected="a number", hint="is it a product?"
            )
        found = attributes[key] if key in attributes else default
        if isinstance(found, bytes):
            found = found.decode(errors="replace")
        values[name] = type(default)(found)
    if "polarization" in attributes:
        values["polarization"] = str(attributes["polarization"])
    return values
