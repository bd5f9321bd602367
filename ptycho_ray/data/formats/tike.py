"""Arrays of tike: ``data``, ``scan`` and ``probe`` in an NPZ file, plain or compressed once more (bz2, gzip, xz).

``data`` (..., n, N, N) is intensity with the zero frequency in the corner; ``scan`` (..., n, 2) is (row, column) of the
patch's first pixel; ``probe`` (..., 1, 1, modes, N, N).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_ray.data.contents import FileContents, table_of_pairs
from ptycho_ray.data.formats.far_field_geometry import PROBE_IN_PHOTONS
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.formats.ptychopinn import metadata_of_npz
from ptycho_ray.data.npz import NpzFile
from ptycho_ray.data.opening import Content
from ptycho_ray.errors import InputError
from ptycho_ray.files import atomic_path

if TYPE_CHECKING:
    from ptycho_ray.data.scan import Scan


def recognise(content: Content) -> bool:
    return "data" in content and "scan" in content


def read(npz: NpzFile) -> FileContents:
    """A file of one view: all leading axes but the frames' must be 1."""
    frames, probe, image = npz.read("data"), npz.read_optional("probe"), npz.read_optional("psi")
    if frames.ndim < 3 or np.prod(frames.shape[:-3], dtype=object) != 1:
        raise InputError(
            file=npz.path, field="data", found=f"shape {frames.shape}", expected="patterns (n, N, N) of one view"
        )
    frames = frames.reshape(-1, *frames.shape[-2:])
    positions = table_of_pairs(npz.read("scan"), npz.path, "scan") + frames.shape[-1] // 2
    if image is not None:
        image = image.reshape(image.shape[-2:]) if np.prod(image.shape[:-2], dtype=object) == 1 else None
    return FileContents(
        frames=np.fft.fftshift(frames, axes=(-2, -1)),
        frames_field="data",
        positions=positions,
        probe=None if probe is None or probe.ndim < 2 else probe.reshape(-1, *probe.shape[-2:]),
        object_truth=image,
        probe_scale_known=PROBE_IN_PHOTONS in (npz.text("comments") or ""),
        domain="intensity",
        metadata=metadata_of_npz(npz),
    )


def write(raw: Scan, path: Path) -> None:
    """Write a scan as tike's arrays with a leading axis of one view; bad pixels are zero."""
    arrays: dict[str, Any] = {
        "data": np.fft.ifftshift(raw.patterns.intensity(), axes=(1, 2))[None],
        "scan": (raw.positions_px - raw.N // 2)[None],
        "probe": raw.probe[None, None, None],
        "comments": PROBE_IN_PHOTONS,
    }
    if raw.object_truth is not None:
        arrays["psi"] = raw.object_truth[None]
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)


TIKE = Format(
    "tike",
    "arrays of tike",
    ("npz",),
    recognise,
    read,
    write,
    frozenset({"patterns", "positions", "probe", "probe modes", "object"}),
)
