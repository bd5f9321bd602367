"""Reading a scan from a file, whatever its format."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.fields import ScanFields, default_max_bytes
from ptycho_ray.data.hdf5 import PLANCK_TIMES_LIGHT_EV_M, read_hdf5
from ptycho_ray.data.npz import read_npz
from ptycho_ray.data.patterns import Domain, FrameSource, PatternStack, is_integral
from ptycho_ray.data.raw_data import SMALLEST_SPAN_PX, RawData
from ptycho_ray.errors import InputError
from ptycho_ray.files import require_file

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def load_data(
    file_path: str | Path,
    n_images: int | None = None,
    n_subsample: int | None = None,
    flip_x: bool = False,
    flip_y: bool = False,
    swap_xy: bool = False,
    n_samples: int = 1,
    coord_scale: float = 1.0,
    subsample_seed: int | None = None,
    *,
    domain: Domain | Literal["auto"] = "auto",
    transpose: bool = False,
    pixel_size_m: float | None = None,
    probe: NDArray | None = None,
    bad_pixels: NDArray | None = None,
    in_memory: bool = False,
    max_bytes: int | None = None,
) -> RawData:
    """Read a scan (PtychoPINN chain, callchain 1.3): NPZ, HDF5 or CXI, told apart by content, not by name.

    n_subsample, n_images  use that many patterns (the first of the two that is given), chosen at random, in file order
    subsample_seed         seed of that choice in numpy's legacy stream, as in the reference; 0 when None
    flip_x, flip_y, swap_xy, coord_scale   applied to the positions in this order; patterns and probe are left alone
    n_samples              accepted for compatibility, without effect
    domain                 what the patterns hold; 'auto' asks the format and the values
    transpose              exchange rows and columns of every pattern
    pixel_size_m           object pixel size; needed where positions are in metres and the file does not tell it
    probe                  [N, N] or [P, N, N], replaces the probe of the file
    bad_pixels             bool [N, N], True where a detector pixel is bad (read as zero); replaces the file's mask
    in_memory              read the patterns of an HDF5 file at once instead of leaving them on disk
    max_bytes              refuse a file whose arrays would take more memory, 0.8 of the machine's by default

    A file without a probe gets one estimated from the mean pattern, with a warning. Patterns of HDF5 files stay on
    disk unless ``in_memory`` is set.
    Raises InputError (MissingFileError for a missing file) naming file, field, what was found and what was expected.
    """
    path = require_file(file_path)
    limit = default_max_bytes() if max_bytes is None else max_bytes
    fields = _read(path, limit)
    if pixel_size_m is not None:
        fields.pixel_size_m = pixel_size_m
    if bad_pixels is not None:
        fields.bad_pixels = bad_pixels
    if in_memory and not isinstance(fields.frames, np.ndarray):
        fields.frames = _all_frames(fields.frames, limit, path, fields.frames_field)
    patterns = _patterns(fields, domain, transpose, path)
    positions, nominal = _positions_px(fields, patterns.N, path)
    for coordinates in [positions] if nominal is None else [positions, nominal]:
        if flip_x:
            coordinates[:, 1] *= -1
        if flip_y:
            coordinates[:, 0] *= -1
        if swap_xy:
            coordinates[:] = coordinates[:, ::-1].copy()
        coordinates *= coord_scale
    given = fields.probe if probe is None else probe
    raw = RawData(
        positions[:, 1],
        positions[:, 0],
        None if nominal is None else nominal[:, 1],
        None if nominal is None else nominal[:, 0],
        patterns,
        estimate_probe(patterns) if given is None else given,
        fields.scan_index,
        fields.object_truth,
        fields.Y,
        metadata=fields.metadata,
        counts_are_photons=fields.counts_are_photons,
        pixel_size_m=fields.pixel_size_m,
        energy_eV=fields.energy_eV,
        detector_distance_m=fields.detector_distance_m,
        source=str(file_path),
    )
    if given is None:
        warnings.warn(f"{file_path}: no probe found, it was estimated from the mean pattern", stacklevel=2)
    return _subsampled(raw, n_images if n_subsample is None else n_subsample, subsample_seed)


def estimate_probe(patterns: PatternStack) -> NDArray[np.complex64]:
    """A crude probe [1, N, N]: the inverse transform of the mean pattern's square root, with its photons.

    Only the first patterns of a large stack are averaged.
    """
    _, intensity = next(patterns.chunks())
    amplitude = np.sqrt(intensity.mean(axis=0, dtype=np.float64))
    wave = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(amplitude), norm="ortho"))
    return wave[None].astype(np.complex64)


def _read(path: Path, max_bytes: int) -> ScanFields:
    with path.open("rb") as stream:
        start = stream.read(8)
    if start[:2] == b"PK":
        return read_npz(path, max_bytes=max_bytes)
    if start == HDF5_SIGNATURE:
        return read_hdf5(path, max_bytes=max_bytes)
    raise InputError(file=path, found="neither a zip archive nor HDF5", expected="a scan as NPZ, HDF5 or CXI")


def _all_frames(frames: FrameSource, limit: int, path: Path, field: str) -> NDArray:
    size = math.prod(frames.shape) * frames.dtype.itemsize
    if size > limit:
        raise InputError(
            file=path,
            field=field,
            found=f"{size / 2**20:.4g} MiB of patterns",
            expected=f"at most {limit / 2**20:.4g} MiB (max_bytes) with in_memory",
        )
    return frames.read(np.arange(frames.shape[0]))


def _patterns(fields: ScanFields, domain: Domain | Literal["auto"], transpose: bool, path: Path) -> PatternStack:
    stack = PatternStack(
        fields.frames,
        fields.domain or "amplitude" if domain == "auto" else domain,
        bad_pixels=fields.bad_pixels,
        transpose=transpose,
        file=path,
        field=fields.frames_field,
    )
    if len(stack) == 0:
        raise InputError(file=path, field=fields.frames_field, found="no patterns", expected="at least 2 patterns")
    if domain == "auto" and fields.domain is None and is_integral(stack.sample()):
        stack.domain = "intensity"
    return stack


def _positions_px(fields: ScanFields, N: int, path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Positions in object pixels, from metres where the file or the tiny numbers say so.

    The object pixel of a far-field geometry is wavelength * distance / (N * detector pixel). A near-field file does not
    say that it is one: its pixel size has to be given.
    """
    positions, nominal = fields.positions, fields.nominal
    size = fields.pixel_size_m
    energy, distance, detector_pixel = fields.energy_eV, fields.detector_distance_m, fields.detector_pixel_m
    if size is None and energy and distance and detector_pixel:
        size = PLANCK_TIMES_LIGHT_EV_M / energy * abs(distance) / (N * detector_pixel)
        fields.pixel_size_m = size
    if size is not None and not (np.isfinite(size) and size > 0):
        raise InputError(file=path, field="pixel_size_m", found=size, expected="a length above 0, in metres")
    tiny = len(positions) > 1 and 0 < np.ptp(positions, axis=0).max() < SMALLEST_SPAN_PX
    if not (fields.positions_in_metres or (tiny and size is not None)):
        return positions, nominal
    if size is None:
        raise InputError(
            file=path,
            field="pixel_size_m",
            found="positions in metres without a pixel size",
            expected="the object pixel size in metres, or energy, distance and detector pixel size in the file",
        )
    return positions / size, None if nominal is None else nominal / size


def _subsampled(raw: RawData, wanted: int | None, seed: int | None) -> RawData:
    """Choose patterns as the reference does: numpy's legacy choice without replacement, then sorted."""
    n = len(raw)
    if wanted is not None and wanted < 2:
        raise InputError(file=raw.source, field="n_subsample", found=wanted, expected="at least 2 patterns")
    if wanted is None or wanted >= n:
        raw.sample_indices = np.arange(n)
    else:
        raw = raw.select(np.sort(np.random.RandomState(seed or 0).choice(n, wanted, replace=False)))
    raw.subsample_seed = seed
    return raw
