"""How much compressed data may inflate to: one rule for archives, HDF5 and Zarr.

``max_bytes`` of whoever opens a file bounds what is held in memory; this bounds what a small file may claim, so that it is
refused at once and not after it has filled the memory. The service hands its own ``max_bytes`` to the same functions.
"""

from __future__ import annotations

from pathlib import Path

from ptycho_ray.errors import InputError

SUSPICIOUS_BYTES = 256 * 2**20
"""Less than this may have any ratio."""
ARCHIVE_RATIO = 300
"""Of NPZ, bz2, gzip and xz. Frames of a few counts reach some tens."""
DATASET_RATIO = 2000
"""Of an HDF5 dataset, whose chunks of zeros may be missing or inflate a thousandfold."""
LARGEST_CHUNK = 2**30
"""A chunk is inflated whole, however little of it is asked for."""


def check_ratio(path: Path, field: str | None, stored: int, inflated: int, most: int = ARCHIVE_RATIO) -> None:
    """InputError if ``stored`` bytes inflate, or claim to inflate, to more than ``most`` times as many."""
    if inflated > SUSPICIOUS_BYTES and inflated > most * max(stored, 1):
        raise InputError(
            file=path,
            field=field,
            found=f"{stored} bytes that inflate to {inflated} or more",
            expected=f"a ratio below {most}",
            hint="This looks like a decompression bomb. If it is a scan, store it as HDF5, which is read in parts.",
        )


def check_chunk(path: Path, field: str, chunk_bytes: int) -> None:
    """InputError for chunks that do not fit into the memory beside the frames."""
    if chunk_bytes > LARGEST_CHUNK:
        raise InputError(
            file=path,
            field=field,
            found=f"chunks of {chunk_bytes / 2**20:.4g} MiB, each of which is inflated whole",
            expected=f"at most {LARGEST_CHUNK / 2**20:.4g} MiB",
            hint="Store it in smaller chunks: h5repack -l FIELD:CHUNK=1xROWSxCOLUMNS IN OUT",
        )
