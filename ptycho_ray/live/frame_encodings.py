"""Frames as detectors compress them, to arrays and back.

The filters of HDF5 that ``hdf5plugin`` brings do the work: a compressed frame is handed to HDF5 as a chunk of a file in memory,
and HDF5 inflates all of them at once.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.live.wire_events import Frame

#: Bytes of a block of bitshuffle, where a frame does not say it.
BLOCK_BYTES = 8192
#: Bytes of a frame, at most: what a message says of its own size is not believed beyond that.
MOST_BYTES = 2**28


def _filters(encoding: str) -> dict[str, Any]:
    return dict(hdf5plugin.Bitshuffle(cname="lz4") if encoding == "bslz4" else hdf5plugin.LZ4())


def framed_lz4(block: bytes, inflated_bytes: int) -> bytes:
    """A bare LZ4 block as HDF5's filter frames it: size, size of a block, and each block behind its length."""
    return struct.pack(">QII", inflated_bytes, inflated_bytes, len(block)) + block


def bare_lz4(chunk: bytes) -> bytes:
    """The LZ4 block in a chunk of one block."""
    return chunk[16:]


def framed_bslz4(blocks: bytes, inflated_bytes: int) -> bytes:
    """Bare blocks of bitshuffle and LZ4 as HDF5's filter frames them."""
    return struct.pack(">QI", inflated_bytes, BLOCK_BYTES) + blocks


def problem_of(frame: Frame) -> str:
    """Why a frame cannot be read as what it says it is; empty if it can."""
    size = int(np.prod(frame.shape)) * np.dtype(frame.dtype).itemsize
    if not 0 < size <= MOST_BYTES:
        return f"{frame.shape[0]} x {frame.shape[1]} pixels"
    if frame.encoding == "none":
        return "" if len(frame.content) == size else f"{len(frame.content)} bytes for {size}"
    if len(frame.content) < 12:
        return "an empty content"
    (said,) = struct.unpack_from(">Q", frame.content)
    return "" if said == size else f"a content of {said} bytes for {size}"


def inflated(frames: Sequence[Frame]) -> NDArray:
    """Frames of one shape, type and encoding as an array [k, rows, columns].

    Raises:
        OSError: one of them is damaged.
    """
    first = frames[0]
    shape, dtype = (len(frames), *first.shape), np.dtype(first.dtype)
    if first.encoding == "none":
        joined = b"".join(frame.content for frame in frames)
        return np.frombuffer(joined, dtype).reshape(shape).astype(dtype.newbyteorder("="), copy=False)
    with h5py.File("frames", "w", driver="core", backing_store=False) as file:
        stack = file.create_dataset("frames", shape, dtype, chunks=(1, *first.shape), **_filters(first.encoding))
        for number, frame in enumerate(frames):
            stack.id.write_direct_chunk((number, 0, 0), frame.content)
        found: NDArray = stack[()]
    return found.astype(dtype.newbyteorder("="), copy=False)


def deflated(patterns: NDArray, encoding: str) -> list[bytes]:
    """The contents of frames [k, rows, columns]: little-endian, compressed one by one."""
    patterns = np.ascontiguousarray(patterns, dtype=patterns.dtype.newbyteorder("<"))
    if encoding == "none":
        return [pattern.tobytes() for pattern in patterns]
    with h5py.File("frames", "w", driver="core", backing_store=False) as file:
        stack = file.create_dataset("frames", data=patterns, chunks=(1, *patterns.shape[1:]), **_filters(encoding))
        return [stack.id.read_direct_chunk((number, 0, 0))[1] for number in range(len(patterns))]
