"""What a reader returns, whatever the file format, and small helpers shared by the readers."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_ray.data.patterns import Domain, FrameSource
from ptycho_ray.errors import InputError
from ptycho_ray.physics.optics import PLANCK_TIMES_LIGHT_EV_M as PLANCK_TIMES_LIGHT_EV_M

JOULE_PER_EV = 1.602176634e-19


@dataclass
class FileContents:
    """The content of one scan file, as far as present: ``frames``, ``positions`` or both may be missing.

    ``positions`` and ``nominal`` are [n, 2] (row, column), in metres if ``positions_in_metres``, else in object pixels
    with patch pixel N//2 on the position. ``domain`` is None where it must be inferred from the values.
    ``frame_index`` and ``position_index`` are scan numbers by which frames and positions of two files are matched.
    ``far_field`` is None where the file does not say. ``probe_scale_known`` is False where the probe's photons cannot be
    trusted, ``column_scale`` a factor for the columns of positions that come from another file, ``beam_centre_px`` the
    (row, column) of the direct beam on the detector.
    """

    frames: NDArray | FrameSource | None = None
    frames_field: str = ""
    positions: NDArray[np.float64] | None = None
    nominal: NDArray[np.float64] | None = None
    positions_in_metres: bool = False
    probe: NDArray | None = None
    object_truth: NDArray | None = None
    Y: NDArray | None = None
    scan_index: NDArray | None = None
    bad_pixels: NDArray | None = None
    domain: Domain | None = None
    counts_are_photons: bool | None = None
    pixel_size_m: float | None = None
    energy_eV: float | None = None
    detector_distance_m: float | None = None
    detector_pixel_m: float | None = None
    metadata: dict[str, Any] | None = None
    frame_index: NDArray[np.int64] | None = None
    position_index: NDArray[np.int64] | None = None
    far_field: bool | None = None
    probe_scale_known: bool = True
    column_scale: float = 1.0
    beam_centre_px: tuple[float, float] | None = None
    format: str = ""


def default_max_bytes() -> int:
    """0.8 of the physical memory."""
    return int(0.8 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def choose_key(path: Path, keys: Iterable[str], *names: str) -> str:
    """The first of ``names`` among ``keys``; otherwise InputError that lists the keys and suggests the nearest ones."""
    present = [str(key) for key in keys]
    for name in names:
        if name in present:
            return name
    close = difflib.get_close_matches(names[0], present, n=1, cutoff=0.6)
    raise InputError(
        "missing key",
        file=path,
        field=names[0],
        found="keys " + (", ".join(sorted(present)) or "none"),
        expected=" or ".join(names),
        hint=f"did you mean {close[0]!r}?" if close else None,
    )


def frames_axis(shape: tuple[int, ...], n: int, path: Path, field: str) -> int:
    """The axis of a three-dimensional stack that counts its frames: 0, or 2 where only the last axis has length n."""
    if len(shape) == 3 and shape[0] != n and shape[2] == n:
        return 2
    if len(shape) != 3 or shape[0] != n:
        raise InputError(
            file=path,
            field=field,
            found=f"shape {shape} for {n} positions",
            expected=f"({n}, N, N): as many patterns as positions",
        )
    return 0


def frames_first(frames: NDArray, n: int, path: Path, field: str) -> NDArray:
    """Frames [n, H, W] from (n, H, W), (n, H, W, 1) or (H, W, n)."""
    if frames.ndim == 4 and frames.shape[-1] == 1:
        frames = frames[..., 0]
    return frames if frames_axis(frames.shape, n, path, field) == 0 else np.moveaxis(frames, 2, 0)


def metadata_from_text(text: str) -> dict[str, Any]:
    """Metadata stored as JSON; any other text is kept under ``text``."""
    try:
        parsed = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return {"text": text}
    return parsed if isinstance(parsed, dict) else {"text": text}


def pairs(first: NDArray, second: NDArray, path: Path, field: str) -> NDArray[np.float64]:
    """Positions [n, 2] from two arrays of one length: rows and columns."""
    first, second = np.atleast_1d(np.squeeze(first)), np.atleast_1d(np.squeeze(second))
    if (
        first.shape != second.shape
        or first.ndim != 1
        or first.dtype.kind not in "fiu"
        or second.dtype.kind not in "fiu"
    ):
        raise InputError(
            file=path,
            field=field,
            found=f"{second.dtype} {second.shape} and {first.dtype} {first.shape}",
            expected="real numbers, one per pattern in each",
        )
    return np.stack([first, second], axis=1).astype(np.float64)


def table_of_pairs(values: NDArray, path: Path, field: str) -> NDArray[np.float64]:
    """Positions [n, 2] from an array (..., n, 2)."""
    if values.dtype.kind not in "fiu" or values.ndim < 2 or values.shape[-1] != 2:
        raise InputError(
            file=path, field=field, found=f"{values.dtype} {values.shape}", expected="real numbers (n, 2): row, column"
        )
    return values.reshape(-1, 2).astype(np.float64)


def whole_numbers(values: ArrayLike, n: int, path: Path, field: str) -> NDArray[np.int64]:
    """Scan numbers [n] as int64."""
    array = np.asarray(values)
    if array.shape != (n,) or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise InputError(file=path, field=field, found=f"{array.dtype} {array.shape}", expected=f"{n} whole numbers")
    return array.astype(np.int64)


def square_pixel(width: float | None, height: float | None, path: Path, field: str) -> float | None:
    """The side of a pixel from its width and height."""
    if width and height and abs(width - height) > 1e-3 * abs(width):
        raise InputError(
            file=path, field=field, found=f"{width:.6g} and {height:.6g} m", expected="square detector pixels"
        )
    return width or height
