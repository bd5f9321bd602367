"""Ptychodus: a product (probe, object, positions) and the patterns that belong to it, each as HDF5 or NPZ.

``product.h5`` and ``diffraction.h5`` of one folder are one scan; reading either finds the other, and frames and positions
are matched by their scan numbers. The files themselves are read and written in ``ptychodus_product``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import FileContents, square_pixel, whole_numbers
from ptycho_ray.data.formats.far_field_geometry import PROBE_IN_PHOTONS, geometry_of, half_pixel, object_of
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.formats.ptychodus_product import (
    Product,
    product_in,
    size_beside,
    write_diffraction,
    write_product,
)
from ptycho_ray.data.hdf5 import Hdf5Scan
from ptycho_ray.data.opening import Content
from ptycho_ray.errors import InputError

if TYPE_CHECKING:
    from ptycho_ray.data.scan import Scan


def recognise_product(content: Content) -> bool:
    keys = ("probe", "object", "probe_position_x_m", "probe_position_y_m", "probe_position_indexes")
    return all(key in content for key in keys)


def recognise_diffraction(content: Content) -> bool:
    return "patterns" in content and "indexes" in content


def companion(path: Path) -> Path | None:
    """The other file of the pair: 'diffraction' for 'product' in the name and the reverse."""
    for mine, other in (("product", "diffraction"), ("diffraction", "product")):
        if mine in path.name:
            found = path.with_name(path.name.replace(mine, other))
            plain = path.with_name(f"{other}{path.suffix}")  # product.000012.h5 goes with diffraction.h5
            return next((p for p in (found, plain) if p.is_file()), None)
    return None


def read_product(content: Content) -> FileContents:
    """Probe, object and positions of a product; object layers are multiplied, the probe's first coherent mode is kept."""
    path, product = content.path, product_in(content)
    layers, coherent = len(product.object), len(product.probe)
    if layers > 1:
        warnings.warn(f"{path}: the {layers} layers of the object were multiplied into one", stacklevel=5)
    if coherent > 1:
        warnings.warn(f"{path}: only the first of {coherent} coherent probes was read", stacklevel=5)
    image, told = product.object.prod(axis=0), product.metadata
    return FileContents(
        positions=product.to_object_px(product.positions_m, product.probe.shape[-1]),
        position_index=product.indexes if "probe_position_indexes" in content else None,
        probe=product.probe[0],
        probe_scale_known=PROBE_IN_PHOTONS in told.get("comments", ""),
        object_truth=image if np.ptp(image.real) + np.ptp(image.imag) > 0 else None,
        pixel_size_m=square_pixel(product.pixel_m[1], product.pixel_m[0], path, "object pixel width and height"),
        energy_eV=told.get("photon_energy_eV") or None,
        detector_distance_m=told.get("detector_object_distance_m") or None,
        far_field=told.get("far_field"),
        **_raw_data(content),
    )


def _raw_data(content: Content) -> dict[str, Any]:
    """Patterns in the group ``raw_data`` that PtychoPINN adds to a product: amplitudes."""
    if not isinstance(content, Hdf5Scan) or "raw_data/diffraction" not in content:
        return {}
    frames, field = content.frames(None, "raw_data/diffraction")
    return {"frames": frames, "frames_field": field, "domain": "amplitude"}


def read_diffraction(content: Content) -> FileContents:
    """Counts, their scan numbers, bad pixels and the detector's pixel."""
    path = content.path
    if isinstance(content, Hdf5Scan):
        frames: Any
        frames, field = content.frames(None, "patterns")
    else:
        frames, field = content.read("patterns"), "patterns"
        if frames.ndim != 3:
            raise InputError(file=path, field=field, found=f"shape {frames.shape}", expected="patterns (n, N, N)")
    index = whole_numbers(content.read("indexes"), frames.shape[0], path, "indexes")
    names = ("detector_pixel_width_m", "detector_pixel_height_m")
    width, height = (size_beside(content, "patterns", name, name) for name in names)
    return FileContents(
        frames=frames,
        frames_field=field,
        frame_index=index,
        domain="intensity",
        bad_pixels=content.read_optional("bad_pixels"),
        detector_pixel_m=square_pixel(width, height, path, "detector_pixel_width_m, detector_pixel_height_m"),
    )


def write(raw: Scan, path: Path) -> None:
    """Write the product to ``path`` and the patterns beside it, both as HDF5 or (suffix .npz) NPZ.

    The object of a scan that has none is ones, which is how it is recognised. InputError without a geometry.
    """
    geometry = geometry_of(raw)
    other = patterns_path(path)
    image, pixel, detector = object_of(raw), geometry.pixel_size_m, geometry.detector_pixel_m
    middle = (np.array(image.shape) - 1) / 2 + half_pixel(raw.N)
    index = raw.scan_index if len(np.unique(raw.scan_index)) == len(raw) else np.arange(len(raw))
    product = Product(
        probe=raw.probe[None],
        object=image[None],
        pixel_m=(pixel, pixel),
        centre_m=(0.0, 0.0),
        indexes=index,
        positions_m=(raw.positions_px - middle) * pixel,
        metadata={
            "name": path.stem,
            "comments": PROBE_IN_PHOTONS,
            "detector_object_distance_m": geometry.detector_distance_m,
            "photon_energy_eV": geometry.energy_eV,
            "probe_photon_count": float(np.sum(np.abs(raw.probe.astype(np.complex128)) ** 2)),
            "far_field": raw.far_field is not False,
        },
    )
    bad = np.zeros((raw.N, raw.N), dtype=bool) if raw.bad_pixels is None else raw.bad_pixels
    write_diffraction(other, pieces_of(raw), index, bad, (detector, detector))
    write_product(path, product)


def pieces_of(raw: Scan) -> Iterator[NDArray]:
    """The patterns of a scan piece by piece: counts as whole numbers where the scan has counts, else intensities."""
    counts = raw.patterns.domain == "intensity" and raw.patterns.source.dtype.kind in "ui"
    for _, piece in raw.patterns.chunks():
        yield piece.astype(np.uint32) if counts else piece


def patterns_path(path: Path) -> Path:
    """Where the patterns of the product ``path`` are written."""
    if "product" in path.name:
        return path.with_name(path.name.replace("product", "diffraction"))
    raise InputError(
        file=path,
        field="output",
        found=f"the name {path.name}",
        expected="a name with 'product' in it, beside which 'diffraction' is written",
    )


_HOLDS = {"patterns", "positions", "probe", "probe modes", "object", "scan numbers", "bad pixels"}
_HOLDS |= {"pixel size", "energy", "distance", "detector pixel"}
PRODUCT = Format(
    "ptychodus",
    "Ptychodus product with its diffraction file",
    ("hdf5", "npz"),
    recognise_product,
    read_product,
    write,
    frozenset(_HOLDS),
    companion,
    patterns_path,
)
DIFFRACTION = Format(
    "ptychodus-diffraction",
    "Ptychodus diffraction file",
    ("hdf5", "npz"),
    recognise_diffraction,
    read_diffraction,
    companion=companion,
)
