"""NPZ files ``dp``/``pos``: counts, positions of the patches' corners, and the true object."""

from __future__ import annotations

from ptycho_ray.data.contents import FileContents, table_of_pairs
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.formats.ptychopinn import metadata_of_npz
from ptycho_ray.data.npz import NpzFile
from ptycho_ray.data.opening import Content
from ptycho_ray.errors import InputError


def recognise(content: Content) -> bool:
    return "dp" in content and "pos" in content


def read(npz: NpzFile) -> FileContents:
    """dp (n, N, N) counts, pos (n, 2) = row, column of the patch corner, probe_guess, obj (truth)."""
    frames = npz.read("dp")
    if frames.ndim != 3:
        raise InputError(file=npz.path, field="dp", found=f"shape {frames.shape}", expected="patterns (n, N, N)")
    return FileContents(
        frames=frames,
        frames_field="dp",
        positions=table_of_pairs(npz.read("pos"), npz.path, "pos") + frames.shape[-1] // 2,
        probe=npz.read_optional("probe_guess", "probe"),
        object_truth=npz.read_optional("obj"),
        domain="intensity",
        metadata=metadata_of_npz(npz),
    )


DP_POS = Format("dp-pos", "NPZ with dp and pos", ("npz",), recognise, read)
