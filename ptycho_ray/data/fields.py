"""What a reader hands over, whatever the file format, and small helpers shared by the readers."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.patterns import Domain, FrameSource
from ptycho_ray.errors import InputError


@dataclass
class ScanFields:
    """The content of one scan file.

    ``positions`` and ``nominal`` are [n, 2] (row, column), in metres if ``positions_in_metres``, else in object pixels
    with patch pixel N//2 on the position. ``domain`` is None where the format leaves it to the values.
    """

    frames: NDArray | FrameSource
    frames_field: str
    positions: NDArray[np.float64]
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


def default_max_bytes() -> int:
    """0.8 of the physical memory."""
    return int(0.8 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def choose_key(path: Path, keys: Iterable[str], *names: str) -> str:
    """The first of ``names`` among ``keys``; otherwise InputError that lists the keys and guesses what was meant."""
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
