"""Files of ptypy: ``.ptyd`` (a prepared scan) and ``.ptyr`` (a result). Read with h5py; ptypy is not needed. In a
``.ptyd`` a missing value is stored as the number 0, which is not a valid energy, length or mask. Positions are in
metres, (row, column), as seen by the object. If saved with links, its chunks are in files next to it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import FileContents, square_pixel, table_of_pairs, whole_numbers
from ptycho_ray.data.formats.far_field_geometry import geometry_of
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.formats.ptychopinn import write_patterns
from ptycho_ray.data.hdf5 import Hdf5Scan, new_hdf5
from ptycho_ray.errors import InputError

if TYPE_CHECKING:
    from ptycho_ray.data.scan import Scan

MASK_FRAMES_AT_ONCE = 32


def recognise_scan(scan: Hdf5Scan) -> bool:
    return "chunks" in scan and "meta" in scan


def recognise_result(scan: Hdf5Scan) -> bool:
    return "content/obj" in scan and "content/probe" in scan


def read_scan(scan: Hdf5Scan) -> FileContents:
    """A ``.ptyd``: patterns of all chunks (left on disk), positions in metres, weights as bad pixels, geometry."""
    names = sorted((name for name in scan.names("chunks") if name.isdigit()), key=int)
    if not names:
        raise InputError(file=scan.path, field="chunks", found="no chunks", expected="chunks/0 and so on")
    chunks = [f"chunks/{name}" for name in names]
    frames, field = scan.joined_frames([scan.dataset(f"{chunk}/data") for chunk in chunks])
    places = [table_of_pairs(scan.read(f"{c}/positions"), scan.path, f"{c}/positions") for c in chunks]
    numbers = [
        whole_numbers(scan.read(f"{c}/indices"), len(place), scan.path, f"{c}/indices")
        for c, place in zip(chunks, places, strict=True)
        if f"{c}/indices" in scan
    ]
    positions = np.concatenate(places)
    energy = _optional_number(scan, "meta/energy")
    psize = _optional(scan, "meta/psize")
    sides = None if psize is None else np.ravel(psize)
    return FileContents(
        frames=frames,
        frames_field=field,
        positions=positions,
        positions_in_metres=True,
        scan_index=np.concatenate(numbers) if len(numbers) == len(chunks) else None,
        bad_pixels=_bad_pixels(scan, chunks, frames.shape[1:]),
        domain="intensity",
        energy_eV=None if energy is None else 1e3 * energy,
        detector_distance_m=_optional_number(scan, "meta/distance"),
        detector_pixel_m=None
        if sides is None or not sides.size
        else square_pixel(float(sides[-1]), float(sides[0]), scan.path, "meta/psize"),
    )


def _optional(scan: Hdf5Scan, name: str) -> NDArray | None:
    """A value that ptypy may have stored as None, which is zero."""
    value = scan.read_optional(name)
    return value if value is not None and value.any() else None


def _optional_number(scan: Hdf5Scan, name: str) -> float | None:
    value = _optional(scan, name)
    return None if value is None or value.size != 1 or value.dtype.kind not in "biuf" else float(value.ravel()[0])


def _bad_pixels(scan: Hdf5Scan, chunks: list[str], frame: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """Pixels of weight zero in any frame, not counting frames that are masked entirely."""
    if (common := _optional(scan, "meta/weight2d")) is not None and common.shape == frame:
        return common == 0
    bad = np.zeros(frame, dtype=bool)
    for chunk in chunks:
        name = f"{chunk}/weights"
        if name not in scan:
            continue
        weights = scan.dataset(name)
        if weights.shape == frame:
            bad |= scan.read(name) == 0
        elif weights.ndim == 3 and weights.shape[1:] == frame and weights.dtype.kind in "biuf":
            for start in range(0, weights.shape[0], MASK_FRAMES_AT_ONCE):
                zero = np.asarray(weights[start : start + MASK_FRAMES_AT_ONCE]) == 0
                bad |= zero[~zero.all(axis=(1, 2))].any(axis=0)
    return bad if bad.any() else None


def read_result(scan: Hdf5Scan) -> FileContents:
    """A ``.ptyr``: the first storage of probe and object. It holds no patterns, and positions in newer versions only."""
    probe, image = (_storage(scan, f"content/{kind}") for kind in ("probe", "obj"))
    positions = None
    names = [f"content/positions/{name}" for name in scan.names("content/positions")]
    if names and isinstance(scan.file[names[0]], h5py.Dataset):
        positions = table_of_pairs(scan.read(names[0]), scan.path, names[0])
    energy = scan.number("content/pars/scans/energy")
    return FileContents(
        positions=positions,
        positions_in_metres=True,
        probe=probe,
        probe_scale_known=False,
        object_truth=None if image is None else image.reshape(-1, *image.shape[-2:])[0],
        energy_eV=None if energy is None else 1e3 * energy,
    )


def _storage(scan: Hdf5Scan, group: str) -> NDArray | None:
    names = scan.names(group)
    if not names:
        return None
    data = scan.read(f"{group}/{names[0]}/data")
    if data.ndim < 2 or data.dtype.kind != "c":
        raise InputError(
            file=scan.path,
            field=f"{group}/{names[0]}/data",
            found=f"{data.dtype} {data.shape}",
            expected="complex images",
        )
    return data


def write_scan(raw: Scan, path: Path) -> None:
    """Write a ``.ptyd`` of one chunk. InputError if the scan does not state its geometry."""
    geometry = geometry_of(raw)
    meta = {
        "energy": geometry.energy_eV / 1e3,
        "distance": geometry.detector_distance_m,
        "psize": np.full(2, geometry.detector_pixel_m),
        "shape": np.full(2, raw.N),
        "center": np.full(2, raw.N // 2),
        "num_frames": len(raw),
    }
    with new_hdf5(path) as file:
        for name, value in meta.items():
            file[f"meta/{name}"] = value
            file[f"meta/{name}"].attrs["type"] = "array" if isinstance(value, np.ndarray) else "scalar"
        chunk = file.create_group("chunks/0")
        for group in (file["meta"], file["chunks"], chunk):
            group.attrs["type"] = "dict"
        chunk["positions"] = raw.positions_px * geometry.pixel_size_m
        chunk["indices"] = raw.scan_index if raw.scan_index.any() else np.arange(len(raw))
        if raw.bad_pixels is not None:
            file["meta/weight2d"] = (~raw.bad_pixels).astype(np.float32)
            file["meta/weight2d"].attrs["type"] = "array"
        write_patterns(chunk, "data", raw)
        for name in chunk:
            chunk[name].attrs["type"] = "array"


_HOLDS = {"patterns", "positions", "scan numbers", "bad pixels", "pixel size", "energy", "distance", "detector pixel"}
PTYD = Format("ptyd", "ptypy .ptyd", ("hdf5",), recognise_scan, read_scan, write_scan, frozenset(_HOLDS))
PTYR = Format("ptyr", "ptypy .ptyr", ("hdf5",), recognise_result, read_result)
