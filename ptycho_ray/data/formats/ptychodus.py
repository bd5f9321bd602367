"""Ptychodus: a product (probe, object, positions) and the patterns that belong to it, each as HDF5 or NPZ.

``product.h5`` and ``diffraction.h5`` of one folder are one scan; reading either finds the other, and frames and positions
are matched by their scan numbers. Attributes are written under the names of releases 1.3 to 1.7 alike.
Lengths are metres; a position is the middle of a patch, half a pixel before its pixel N//2 where N is even.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.content import Content
from ptycho_ray.data.fields import ScanFields, pairs, square_pixel, whole_numbers
from ptycho_ray.data.formats.geometry import PROBE_IN_PHOTONS, geometry_of, half_pixel, object_of
from ptycho_ray.data.formats.ptychopinn import write_patterns
from ptycho_ray.data.formats.registry import Format
from ptycho_ray.data.hdf5 import Hdf5Scan
from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path

if TYPE_CHECKING:
    from ptycho_ray.data.raw_data import RawData


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


def read_product(content: Content) -> ScanFields:
    """Probe, object and positions of a product; object layers are multiplied, the probe's first coherent mode is kept."""
    path = content.path
    image, probe = content.read("object"), content.read("probe")
    if image.ndim not in (2, 3) or image.size == 0 or probe.ndim not in (2, 3, 4) or probe.size == 0:
        raise InputError(
            file=path,
            field="object, probe",
            found=f"shapes {image.shape} and {probe.shape}",
            expected="(layers, H, W) and (coherent, incoherent, N, N)",
        )
    if image.ndim == 3:
        if len(image) > 1:
            warnings.warn(f"{path}: the {len(image)} layers of the object were multiplied into one", stacklevel=5)
        image = image.prod(axis=0)
    if probe.ndim == 4:
        if len(probe) > 1:
            warnings.warn(f"{path}: only the first of {len(probe)} coherent probes was read", stacklevel=5)
        probe = probe[0]
    width, height = (_about(content, "object", f"pixel_{side}_m") for side in ("width", "height"))
    pixel = square_pixel(width, height, path, "object pixel width and height")
    if not pixel or not np.isfinite(pixel) or pixel < 0:
        raise InputError(file=path, field="object_pixel_width_m", found=pixel, expected="a length in metres above 0")
    rows, columns = content.read("probe_position_y_m"), content.read("probe_position_x_m")
    metres = pairs(rows, columns, path, "probe_position_x_m, probe_position_y_m")
    centre = np.array([_about(content, "object", f"center_{axis}_m") or 0.0 for axis in "yx"])
    positions = (metres - centre) / pixel + (np.array(image.shape) - 1) / 2 + half_pixel(probe.shape[-1])
    index = content.read_optional("probe_position_indexes")
    far = _root(content, "far_field")
    distance = _root(content, "detector_object_distance_m")
    return ScanFields(
        positions=positions,
        position_index=None if index is None else whole_numbers(index, len(positions), path, "probe_position_indexes"),
        probe=probe,
        probe_scale_known=PROBE_IN_PHOTONS in (content.text("comments") or ""),
        object_truth=image if np.ptp(image.real) + np.ptp(image.imag) > 0 else None,
        pixel_size_m=pixel,
        energy_eV=_root(content, "photon_energy_eV", "probe_energy_eV") or None,
        detector_distance_m=distance or None,
        far_field=None if far is None else bool(far),
        **_raw_data(content),
    )


def _raw_data(content: Content) -> dict[str, Any]:
    """Patterns in the group ``raw_data`` that PtychoPINN adds to a product: amplitudes."""
    if not isinstance(content, Hdf5Scan) or "raw_data/diffraction" not in content:
        return {}
    frames, field = content.frames(None, "raw_data/diffraction")
    return {"frames": frames, "frames_field": field, "domain": "amplitude"}


def read_diffraction(content: Content) -> ScanFields:
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
    width, height = (_about(content, "patterns", f"detector_pixel_{side}_m", "") for side in ("width", "height"))
    return ScanFields(
        frames=frames,
        frames_field=field,
        frame_index=index,
        domain="intensity",
        bad_pixels=content.read_optional("bad_pixels"),
        detector_pixel_m=square_pixel(width, height, path, "detector_pixel_width_m, detector_pixel_height_m"),
    )


def _about(content: Content, place: str, name: str, prefix: str | None = None) -> float | None:
    """A number that HDF5 keeps as an attribute of a dataset and NPZ under a name of its own."""
    if isinstance(content, Hdf5Scan):
        value = content.attribute(place, name)
        array = None if value is None else np.asarray(value)
        return float(array.ravel()[0]) if array is not None and array.size == 1 and array.dtype.kind in "biuf" else None
    return content.number(f"{place}_{name}" if prefix is None else name)


def _root(content: Content, *names: str) -> float | None:
    return next((value for name in names if (value := content.number(name)) is not None), None)


def write(raw: RawData, path: Path) -> None:
    """Write the product to ``path`` and the patterns beside it, both as HDF5 or (suffix .npz) NPZ.

    The object of a scan that has none is ones, which is how it is recognised. InputError without a geometry.
    """
    geometry = geometry_of(raw)
    other = patterns_path(path)
    image = object_of(raw)
    middle = (np.array(image.shape) - 1) / 2 + half_pixel(raw.N)
    metres = (raw.positions_px - middle) * geometry.pixel_size_m
    index = raw.scan_index if len(np.unique(raw.scan_index)) == len(raw) else np.arange(len(raw))
    photons = float(np.sum(np.abs(raw.probe.astype(np.complex128)) ** 2))
    facts: dict[str, Any] = {
        "name": path.stem,
        "comments": PROBE_IN_PHOTONS,
        "detector_object_distance_m": geometry.detector_distance_m,
        "photon_energy_eV": geometry.energy_eV,
        "probe_energy_eV": geometry.energy_eV,
        "probe_photon_count": photons,
        "exposure_time_s": 0.0,
        "mass_attenuation_m2_per_kg": 0.0,
        "mass_attenuation_m2_kg": 0.0,
        "tomography_angle_deg": 0.0,
        "focus_object_distance_m": 0.0,
        "tilt_angle_deg": 0.0,
        "far_field": raw.far_field is not False,
    }
    arrays = {
        "probe_position_indexes": index,
        "probe_position_x_m": metres[:, 1],
        "probe_position_y_m": metres[:, 0],
        "probe": raw.probe[None],
        "object": image[None],
        "object_layer_spacing_m": np.empty(0),
    }
    pixel = {"pixel_width_m": geometry.pixel_size_m, "pixel_height_m": geometry.pixel_size_m}
    centre = {"center_x_m": 0.0, "center_y_m": 0.0}
    detector = dict.fromkeys(("detector_pixel_width_m", "detector_pixel_height_m"), geometry.detector_pixel_m)
    bad = np.zeros((raw.N, raw.N), dtype=bool) if raw.bad_pixels is None else raw.bad_pixels
    if path.suffix.lower() == ".npz":
        _write_npz_pair(path, other, raw, facts | arrays, pixel, centre, detector, index, bad)
        return
    with atomic_path(other) as temporary, h5py.File(temporary, "w") as file:
        write_patterns(file, "patterns", raw).attrs.update(detector)
        file["indexes"], file["bad_pixels"] = index, bad
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(facts)
        for name, array in arrays.items():
            file[name] = array
        file["probe"].attrs.update(pixel)
        file["object"].attrs.update(pixel | centre)


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


def _write_npz_pair(
    path: Path,
    other: Path,
    raw: RawData,
    values: dict[str, Any],
    pixel: dict[str, float],
    centre: dict[str, float],
    detector: dict[str, float],
    index: NDArray[np.int64],
    bad: NDArray[np.bool_],
) -> None:
    values |= {f"probe_{name}": value for name, value in pixel.items()}
    values |= {f"object_{name}": value for name, value in (pixel | centre).items()}
    values |= {name: np.empty(0) for name in ("costs", "loss_values", "loss_epochs")}  # older releases want the first
    patterns = raw.patterns.intensity()
    with atomic_path(other) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, patterns=patterns, indexes=index, bad_pixels=bad, **detector)  # type: ignore[arg-type]
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **values)


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
)
DIFFRACTION = Format(
    "ptychodus-diffraction",
    "Ptychodus diffraction file",
    ("hdf5", "npz"),
    recognise_diffraction,
    read_diffraction,
    companion=companion,
)
