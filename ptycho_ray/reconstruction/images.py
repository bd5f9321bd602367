"""Reading complex images, for ``evaluate``, ``compare`` and ``info``."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.bundle import FILE_NAME
from ptycho_ray.data import load_data
from ptycho_ray.data.contents import MISSING_KEY, FileContents, default_max_bytes
from ptycho_ray.data.loading import read_both
from ptycho_ray.data.npz import NpzFile
from ptycho_ray.errors import InputError
from ptycho_ray.files import require_file

RECONSTRUCTION = "reconstruction.npz"


@dataclass(frozen=True)
class Image:
    """A complex image [H, W], its well-covered pixels, and the position of its pixel (0, 0) in scan coordinates; for
    an ensemble also the standard deviations of amplitude and phase."""

    pixels: NDArray[np.complex64]
    region: NDArray[np.bool_]
    origin_px: tuple[float, float] = (0.0, 0.0)
    amplitude_std: NDArray[np.float32] | None = None
    phase_std: NDArray[np.float32] | None = None


def find_image(path: Path) -> Path | None:
    """The reconstruction in a file or folder, or None."""
    file = path / RECONSTRUCTION if path.is_dir() else path
    if not file.is_file() or not zipfile.is_zipfile(file):
        return None
    with NpzFile(file, default_max_bytes()) as npz:
        return file if {"object", "weight", "origin_px"} <= set(npz.keys()) else None


def read_image(path: Path) -> Image:
    """A reconstruction, or the true object in a scan. InputError if the file has neither."""
    found = find_image(path)
    if found is not None:
        from ptycho_ray.reconstruction.stitching import StitchedObject

        with NpzFile(found, default_max_bytes()) as npz:
            row, column = (float(value) for value in npz.read("origin_px"))
            stitched = StitchedObject(npz.read("object"), npz.read("weight"), (row, column))
            deviations = [npz.read(name) for name in ("amplitude_std", "phase_std") if name in npz.keys()]  # noqa: SIM118
        return Image(stitched.image, stitched.covered(), stitched.origin_px, *deviations)
    if path.is_dir():
        require_file(path / RECONSTRUCTION)
    with _named_as_image(path):
        truth = load_data(path).object_truth
    if truth is None:
        raise InputError(
            file=path, found="a scan without a true object", expected="a reconstruction, or a scan with its true object"
        )
    return Image(truth, np.ones(truth.shape, dtype=bool))


#: Names under which programs keep a reconstructed object that is no part of a scan.
OBJECT_KEYS = ("reconstructed_object", "object", "obj", "psi", "objectGuess")


def read_any_image(path: Path, middle_px: tuple[float, float]) -> Image:
    """:func:`read_image`, and results of other programs: any format of docs/formats.md that holds an object, or an NPZ file
    with a complex array under one of OBJECT_KEYS.

    Programs differ in the position of pixel (0, 0). The centre of the positions in the file, or of the image if there
    are none, is placed at ``middle_px`` of the scan's coordinates; registration has to find the remaining shift.

    Raises:
        InputError: the file holds no complex image, or one that is empty.
    """
    if path.is_dir() or find_image(path) is not None:
        return read_image(path)
    with _named_as_image(path):
        fields = _bare_object(require_file(path)) or read_both(path, None, default_max_bytes())
    if fields.object_truth is None:
        raise InputError(file=path, field="object", found=f"none in the format {fields.format}", expected="an image")
    pixels = np.squeeze(np.asarray(fields.object_truth))
    if pixels.ndim != 2 or not np.iscomplexobj(pixels):
        found = f"{pixels.dtype} of shape {pixels.shape}"
        raise InputError(file=path, field="object", found=found, expected="a complex image [H, W]")
    if not np.isfinite(pixels).any():
        raise InputError(file=path, field="object", found="no pixel that is a number", expected="a complex image")
    if fields.frames is not None:
        return Image(pixels.astype(np.complex64), np.isfinite(pixels) & (pixels != 0))
    good = np.isfinite(pixels) & (pixels != 0)
    middle = (np.array(pixels.shape) - 1) / 2
    if fields.positions is not None and not fields.positions_in_metres:
        low, high = fields.positions.min(axis=0), fields.positions.max(axis=0)
        middle = (low + high) / 2
        rows, columns = (np.arange(side) for side in pixels.shape)
        inside = np.ix_((rows >= low[0]) & (rows <= high[0]), (columns >= low[1]) & (columns <= high[1]))
        scanned = np.zeros_like(good)
        scanned[inside] = True
        good &= scanned
    origin = np.asarray(middle_px) - middle
    return Image(
        np.where(np.isfinite(pixels), pixels, 0).astype(np.complex64), good, (float(origin[0]), float(origin[1]))
    )


@contextlib.contextmanager
def _named_as_image(path: Path) -> Iterator[None]:
    """Of a file in which no scan is found that it is no image, either, which was asked for."""
    try:
        yield
    except InputError as error:
        if error.problem != MISSING_KEY:
            raise
        raise InputError(
            file=path,
            field="image",
            found=error.found,
            expected="a reconstruction.npz or its folder, or a scan with its true object",
            hint=f"Images of other programs, under {', '.join(OBJECT_KEYS)}, are taken by ptycho-ray compare",
        ) from error


def _bare_object(path: Path) -> FileContents | None:
    """The object of an NPZ file that has neither patterns nor positions."""
    if not zipfile.is_zipfile(path):
        return None
    with NpzFile(path, default_max_bytes()) as npz:
        name = next((name for name in OBJECT_KEYS if name in npz), None)
        others = {"diffraction", "diff3d", "xcoords", "probe_position_x_m", "scan", "data"}
        if name is None or any(key in npz for key in others):
            return None
        return FileContents(object_truth=npz.read(name), format="npz")


def label_of(path: Path) -> str:
    """A short label: the folder of a reconstruction or a model, the stem of any other file."""
    return path.parent.name if path.name in (RECONSTRUCTION, FILE_NAME) else path.stem if path.is_file() else path.name
