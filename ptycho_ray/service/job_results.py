"""The result files of a finished job. ``result.npz`` is written by the job, the others are made from it on request."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data import RawData
from ptycho_ray.data.formats.cxi import write_product_cxi
from ptycho_ray.data.formats.ptychodus_folder import product_of
from ptycho_ray.data.formats.ptychodus_product import Product, write_product
from ptycho_ray.data.raw_data import REFINED_SCAN
from ptycho_ray.display.automatic_report import REPORT
from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path
from ptycho_ray.reconstruction.stitching import StitchedObject

RESULT = "result.npz"
GEOMETRY = ("pixel_size_m", "energy_eV", "detector_distance_m")
#: Format -> file name and media type.
FORMATS = {
    "npz": (RESULT, "application/x-npz"),
    "hdf5": ("result.h5", "application/x-hdf5"),
    "cxi": ("result.cxi", "application/x-cxi"),
    "tiff": ("result.tif", "image/tiff"),
    "png": ("result.png", "image/png"),
    "raw": ("result.raw", "application/x-ptycho-ray-image"),
    "probe": ("probe.raw", "application/x-ptycho-ray-image"),
}

#: Further files of a job without a model, by the names of ``ptycho-ray reconstruct``.
FILES = {"report": (REPORT, "text/html"), "scan": (REFINED_SCAN, "application/x-npz")}


@dataclass(frozen=True)
class Solution:
    """An image, the scan with the probe and the positions that it was solved with, and, of a thick object, its slices
    [S, H, W]."""

    stitched: StitchedObject
    scan: RawData
    slices: NDArray[np.complex64] | None = None


def write_result(path: Path, solution: Solution, provenance: dict[str, Any]) -> None:
    """Write image, coverage, probe and geometry; the keys of the image are those of ``ptycho-ray reconstruct``."""
    stitched, scan = solution.stitched, solution.scan
    arrays: dict[str, Any] = {
        "object": stitched.image,
        "weight": stitched.weight,
        "origin_px": np.array(stitched.origin_px),
        "probe": scan.probe,
        "positions_px": scan.positions_px,
        "scan_index": scan.scan_index,
        "provenance": np.array(json.dumps(provenance)),
        **stitched.deviations(),
    }
    for name in GEOMETRY:
        if (value := getattr(scan, name)) is not None:
            arrays[name] = np.float64(value)
    if solution.slices is not None:
        arrays["slices"] = solution.slices
    if scan.electrons:
        arrays["electrons"] = np.True_
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def result_file(folder: Path, form: str) -> Path:
    """The result of a job in one of FORMATS, made from ``result.npz`` if it does not exist yet, or one of FILES.

    Raises:
        FileNotFoundError: the job has no such file, or none any more.
        InputError: the scan does not state what this format needs.
    """
    path = folder / (FORMATS | FILES)[form][0]
    if form in FILES and not path.exists():
        raise FileNotFoundError(path)
    if not path.exists():
        with np.load(folder / RESULT, allow_pickle=False) as result:
            _WRITERS[form](path, result)
    return path


def pack_image(header: dict[str, Any], image: NDArray[Any]) -> bytes:
    """The binary form of an image, for streams and the page: length of the header (4 bytes), header (JSON), pixels.

    All little-endian; pixels are complex64 [rows, columns], row by row, or float32 of what is real (``dtype`` of the header).
    """
    dtype = "complex64" if np.iscomplexobj(image) else "float32"
    text = json.dumps(header | {"shape": list(image.shape), "dtype": dtype}).encode()
    text += b" " * (-len(text) % 4)  # so that a browser can look at the pixels without copying them
    pixels = np.ascontiguousarray(image, np.dtype(dtype).newbyteorder("<"))
    return struct.pack("<I", len(text)) + text + pixels.tobytes()


def _write_product(path: Path, result: Any) -> None:
    """The HDF5 product of Ptychodus: lengths in metres, positions at the middle of patches."""
    write_product(path, _product(result))


def _write_cxi(path: Path, result: Any) -> None:
    """The same as CXI, whose lengths are in metres."""
    if "pixel_size_m" not in result:
        raise InputError(
            field="pixel_size_m",
            found="none in the scan",
            expected="the size of an object pixel: CXI has lengths in metres",
            hint="Reconstruct it again with pixel_size_m, or take another format",
        )
    write_product_cxi(path, _product(result))


def _product(result: Any) -> Product:
    remark = f"Reconstructed by ptycho_ray. {result['provenance']}"
    geometry: dict[str, Any] = {name: float(result[name]) if name in result else None for name in GEOMETRY}
    return product_of(
        result["object"],
        result["origin_px"].tolist(),
        result["probe"],
        result["positions_px"],
        result["scan_index"],
        remark,
        electrons="electrons" in result,
        **geometry,
    )


def _write_tiff(path: Path, result: Any) -> None:
    """Amplitude and phase (radian) as the two channels of a stack, cropped to what is covered, zero where it is not."""
    from ptycho_ray.display.depth import write_tiff

    covered, window = covered_window(result)
    image = np.where(covered, result["object"], 0)[window]
    stack = np.stack([np.abs(image), np.angle(image)]).astype(np.float32)
    pixel = float(result["pixel_size_m"]) if "pixel_size_m" in result else None
    write_tiff(path, stack, {"axes": "CYX", "Labels": ["amplitude", "phase / rad"], "mode": "grayscale"}, pixel)


def _write_png(path: Path, result: Any) -> None:
    from ptycho_ray.display.figures import plot_object, save_figure

    stitched = StitchedObject(result["object"], result["weight"], (0.0, 0.0))
    pixel = float(result["pixel_size_m"]) if "pixel_size_m" in result else None
    save_figure(plot_object(stitched.image, region=stitched.covered(), pixel_size_m=pixel), path)


def covered_window(result: Any) -> tuple[NDArray[np.bool_], tuple[slice, slice]]:
    """Which pixels of the ``object`` of a result are covered, bool [H, W], and the smallest window that holds them."""
    covered = StitchedObject(result["object"], result["weight"], (0.0, 0.0)).covered()
    rows, columns = (np.flatnonzero(covered.any(axis=axis)) for axis in (1, 0))
    return covered, np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _write_raw(path: Path, result: Any) -> None:
    """The image cropped to what is covered; zero where it is not."""
    covered, window = covered_window(result)
    image = np.where(covered, result["object"], 0)[window].astype(np.complex64)
    origin = result["origin_px"] + [side.start for side in window]
    pixel = float(result["pixel_size_m"]) if "pixel_size_m" in result else None
    with atomic_path(path) as temporary:
        temporary.write_bytes(pack_image({"origin_px": origin.tolist(), "pixel_size_m": pixel}, image))


def _write_probe(path: Path, result: Any) -> None:
    pixel = float(result["pixel_size_m"]) if "pixel_size_m" in result else None
    header = {"pixel_size_m": pixel, "modes": len(result["probe"])}
    with atomic_path(path) as temporary:
        temporary.write_bytes(pack_image(header, result["probe"][0].astype(np.complex64)))


_WRITERS = {
    "hdf5": _write_product,
    "cxi": _write_cxi,
    "tiff": _write_tiff,
    "png": _write_png,
    "raw": _write_raw,
    "probe": _write_probe,
}
