"""The files of Ptychodus, read and written without it: products with their checkpoints, and the patterns.

Lengths are metres, +x is along columns and +y along rows, and nothing is flipped. A position p lies at object pixel
``(p - centre) / pixel + (W - 1) / 2`` (since Ptychodus 1.6), and the middle of the patch, (N - 1) / 2, lies there. Here patch
pixel N // 2 lies on the position, so our positions are half a pixel further where N is even.

HDF5 keeps sizes as attributes of ``probe``, ``object`` and ``patterns``, NPZ under names like ``object_pixel_width_m``.
Releases 1.3 to 1.6 and 1.7 use different names for two entries; both are written and either is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import default_max_bytes, pairs, whole_numbers
from ptycho_ray.data.formats.far_field_geometry import half_pixel
from ptycho_ray.data.hdf5 import Hdf5Scan, check_room, new_hdf5
from ptycho_ray.data.opening import Content, opened
from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path, require_file

#: Names in a folder of the standard layout.
DIFFRACTION_FILE, PRODUCT_FILE = "diffraction.h5", "product.h5"

#: What a product says about itself: name -> default.
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
        metadata: entries of METADATA, and ``polarization`` where there is one.
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
        return (positions_m - self.centre_m) / self.pixel_m + middle + half_pixel(n)


def read_product(path: str | Path, *, max_bytes: int | None = None) -> Product:
    """Read a product of any release, HDF5 or NPZ; MissingFileError or InputError where it is none, or lacks its geometry."""
    path = require_file(path, "product")
    with opened(path, default_max_bytes() if max_bytes is None else max_bytes) as content:
        product = product_in(content)
        for name in REQUIRED:
            if name not in product.metadata:
                raise _missing(path, f"attribute {name}", "a number")
        for name in ("center_y_m", "center_x_m"):
            if size_beside(content, "object", name) is None:
                raise _missing(path, f"attribute {name} of object", "a length in metres")
        content.read("probe_position_indexes")
    return replace(product, metadata=METADATA | product.metadata)


def product_in(content: Content) -> Product:
    """The product in an open file. What is missing of centre and scan numbers is 0, 0 and 0, 1, ...; ``metadata`` has the
    entries that are there.

    Raises InputError where object, probe, positions or the object's pixel are missing or wrong.
    """
    probe, image = _complex(content, "probe", 4), _complex(content, "object", 3)
    pixel = lengths_beside(content, "object")
    rows, columns = content.read("probe_position_y_m"), content.read("probe_position_x_m")
    positions = pairs(rows, columns, content.path, "probe_position_x_m, probe_position_y_m")
    if not len(positions):
        raise InputError(file=content.path, field="probe_position_x_m", found="no position", expected="at least one")
    index = content.read_optional("probe_position_indexes")
    if index is None:
        index = np.arange(len(positions))
    spacing = content.read_optional("object_layer_spacing_m")
    return Product(
        probe=probe,
        object=image,
        pixel_m=pixel,
        probe_pixel_m=lengths_beside(content, "probe", pixel),
        centre_m=(
            size_beside(content, "object", "center_y_m") or 0.0,
            size_beside(content, "object", "center_x_m") or 0.0,
        ),
        indexes=whole_numbers(index, len(positions), content.path, "probe_position_indexes"),
        positions_m=positions,
        layer_spacing_m=np.zeros(0) if spacing is None else spacing,
        losses=_losses(content),
        opr_weights=content.read_optional("opr_weights"),
        photon_counts=content.read_optional("probe_photon_counts"),
        metadata=_metadata(content),
    )


def write_product(path: str | Path, product: Product) -> None:
    """Write a product that releases 1.3 to 1.7 of Ptychodus read, as NPZ where the name ends so, else as HDF5; atomically."""
    metadata = METADATA | product.metadata
    for name, former in FORMER_NAMES.items():
        metadata[former] = metadata[name]
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
    arrays = {name: array for name, array in arrays.items() if array is not None}
    height, width = product.probe_pixel_m or product.pixel_m
    beside = {
        "probe": {"pixel_height_m": height, "pixel_width_m": width},
        "object": {
            "pixel_height_m": product.pixel_m[0],
            "pixel_width_m": product.pixel_m[1],
            "center_y_m": product.centre_m[0],
            "center_x_m": product.centre_m[1],
        },
    }
    if Path(path).suffix.lower() == ".npz":
        flat = {f"{place}_{name}": value for place, sizes in beside.items() for name, value in sizes.items()}
        arrays["costs"] = product.losses[:, 1]  # older releases want it
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, **metadata, **arrays, **flat)  # type: ignore[arg-type]
        return
    with new_hdf5(path) as file:
        file.attrs.update(metadata)
        for name, array in arrays.items():
            file[name] = array
        for place, sizes in beside.items():
            file[place].attrs.update(sizes)


def write_diffraction(
    path: str | Path,
    pieces: Iterable[NDArray],
    indexes: NDArray[np.int64],
    bad_pixels: NDArray[np.bool_],
    detector_pixel_m: tuple[float, float],
) -> None:
    """Write patterns [n, N, N] in counts, handed over in one or more pieces, as NPZ where the name ends so, else as HDF5.

    ``detector_pixel_m`` is (height, width); ``bad_pixels`` [N, N] is True where a pixel is bad. Atomic; for NPZ all patterns
    are held in memory.
    """
    sizes = {"detector_pixel_height_m": detector_pixel_m[0], "detector_pixel_width_m": detector_pixel_m[1]}
    if Path(path).suffix.lower() == ".npz":
        patterns: Any = np.concatenate(list(pieces))
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, patterns=patterns, indexes=indexes, bad_pixels=bad_pixels, **sizes)  # type: ignore[arg-type]
        return
    with new_hdf5(path) as file:
        first, dataset = 0, None
        for piece in pieces:
            if dataset is None:
                shape = (len(indexes), *piece.shape[1:])
                chunks = (1, *piece.shape[1:])
                dataset = file.create_dataset("patterns", shape, piece.dtype, chunks=chunks, compression="lzf")
                dataset.attrs.update(sizes)
            check_room(file, piece.nbytes)
            dataset[first : first + len(piece)] = piece
            first += len(piece)
        file["indexes"], file["bad_pixels"] = indexes, bad_pixels


def size_beside(content: Content, place: str, name: str, npz_name: str | None = None) -> float | None:
    """A number that HDF5 keeps as an attribute of the dataset ``place`` and NPZ under a name of its own."""
    if not isinstance(content, Hdf5Scan):
        return content.number(npz_name or f"{place}_{name}")
    value = content.attribute(place, name)
    array = None if value is None else np.asarray(value)
    return float(array.ravel()[0]) if array is not None and array.size == 1 and array.dtype.kind in "biuf" else None


def lengths_beside(
    content: Content, place: str, default: tuple[float, float] | None = None, *, prefix: str = ""
) -> tuple[float, float]:
    """(height, width) in metres of a pixel of ``place``, or the default. InputError where they are no lengths."""
    found = []
    for number, side in enumerate(("height", "width")):
        name = f"{prefix}pixel_{side}_m"
        value = size_beside(content, place, name, name if prefix else None)
        if value is None and default is not None:
            value = default[number]
        if value is None:
            raise _missing(content.path, f"attribute {name} of {place}", "a length in metres")
        if not np.isfinite(value) or value <= 0:
            raise InputError(
                file=content.path,
                field=f"attribute {name} of {place}",
                found=value,
                expected="a length in metres above 0",
            )
        found.append(value)
    return found[0], found[1]


def _complex(content: Content, name: str, dimensions: int) -> NDArray[np.complexfloating]:
    """A complex array with leading axes of length one where some are left out."""
    array = content.read(name)
    if not 2 <= array.ndim <= dimensions or 0 in array.shape:
        raise InputError(
            file=content.path, field=name, found=f"shape {array.shape}", expected=f"2 to {dimensions} dimensions"
        )
    return array.reshape((1,) * (dimensions - array.ndim) + array.shape).astype(np.complex64)


def _losses(content: Content) -> NDArray[np.float64]:
    epochs, values = content.read_optional("loss_epochs"), content.read_optional("loss_values")
    if epochs is None or values is None:
        return np.zeros((0, 2))
    return pairs(epochs.ravel(), values.ravel(), content.path, "loss_epochs, loss_values")


def _metadata(content: Content) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, default in METADATA.items():
        found: Any
        if isinstance(default, str):
            found = content.text(name)
        else:
            found = content.number(name, *([FORMER_NAMES[name]] if name in FORMER_NAMES else []))
        if found is not None:
            values[name] = type(default)(found)
    polarization = content.text("polarization")
    if polarization is not None:
        values["polarization"] = polarization
    return values


def _missing(path: Path, field: str, expected: str) -> InputError:
    return InputError(file=path, field=field, found="nothing", expected=expected, hint="is it a product?")
