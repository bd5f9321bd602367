"""The files of Ptychodus: ``diffraction.h5``, ``product.h5`` and its checkpoints, read and written with h5py alone.

Lengths are metres, +x is along columns and +y along rows, and nothing is flipped. A position p lies at object pixel
``(p - centre) / pixel + (W - 1) / 2`` (since Ptychodus 1.6), and the middle of the patch, (N - 1) / 2, lies there. Here patch
pixel N // 2 lies on the position, so our positions are half a pixel further where N is even.

Releases 1.3 to 1.6 and 1.7 use different names for two attributes; both are written and either is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.fields import default_max_bytes
from ptycho_ray.data.hdf5 import Hdf5Scan, open_hdf5
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
        pixel = length_attributes(scan, "object", "pixel_height_m", "pixel_width_m")
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
            probe_pixel_m=length_attributes(scan, "probe", "pixel_height_m", "pixel_width_m", pixel),
            centre_m=length_attributes(scan, "object", "center_y_m", "center_x_m"),
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


def _complex(scan: Hdf5Scan, name: str, dimensions: int) -> NDArray[np.complexfloating]:
    """A complex array with leading axes of length one where some are left out."""
    array = scan.read(name)
    if not 2 <= array.ndim <= dimensions or 0 in array.shape:
        raise InputError(
            file=scan.path, field=name, found=f"shape {array.shape}", expected=f"2 to {dimensions} dimensions"
        )
    return array.reshape((1,) * (dimensions - array.ndim) + array.shape).astype(np.complex64)


def length_attributes(
    scan: Hdf5Scan, name: str, first: str, second: str, default: tuple[float, float] | None = None
) -> tuple[float, float]:
    """Two attributes of a dataset that are lengths in metres, or their defaults."""
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
        found = attributes.get(key, default)
        if isinstance(found, bytes):
            found = found.decode(errors="replace")
        values[name] = type(default)(found)
    if "polarization" in attributes:
        values["polarization"] = str(attributes["polarization"])
    return values
