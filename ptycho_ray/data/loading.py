"""What a file, or a pair of files, says about a scan: read, completed and put into the units of the program."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.auxiliary_file import combined
from ptycho_ray.data.contents import PLANCK_TIMES_LIGHT_EV_M, FileContents
from ptycho_ray.data.formats import format_named, read_fields
from ptycho_ray.data.patterns import Domain, FrameSource, PatternStack, evenly_spread, is_integral
from ptycho_ray.data.scan import SMALLEST_SPAN_PX, probe_modes
from ptycho_ray.errors import InputError
from ptycho_ray.files import require_file
from ptycho_ray.physics.optics import fresnel_propagate

WIDEST_STEP = 0.5
"""Steps between neighbouring positions, in windows, above which the geometry of a file is doubted."""


def estimate_probe(patterns: PatternStack, near_field_px2: float | None = None) -> NDArray[np.complex64]:
    """A crude probe [1, N, N]: the square root of the mean pattern propagated back to the sample, with its photons.

    From the far field by the inverse transform, from the near field (``near_field_px2`` = wavelength * distance / pixel**2) by
    paraxial propagation. Only the first patterns of a large stack are averaged.
    """
    _, intensity = next(patterns.chunks())
    amplitude = np.sqrt(intensity.mean(axis=0, dtype=np.float64))
    if near_field_px2 is None:
        wave = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(amplitude), norm="ortho"))
    else:
        wave = fresnel_propagate(amplitude, -near_field_px2)
    return wave[None].astype(np.complex64)


def with_mean_photons(probe: NDArray, patterns: PatternStack) -> NDArray[np.complex64]:
    """The modes of a probe scaled so that together they hold the mean intensity of (a sample of) the patterns."""
    modes = probe_modes(probe).astype(np.complex128)
    rows = evenly_spread(len(patterns), 64)
    wanted = float(patterns.intensity(rows).sum(axis=(1, 2), dtype=np.float64).mean())
    energy = float(np.sum(np.abs(modes) ** 2))
    scale = math.sqrt(wanted / energy) if energy > 0 and math.isfinite(energy) else 1.0
    return (modes * scale).astype(np.complex64)


def read_both(path: Path, companion: str | Path | None, max_bytes: int) -> FileContents:
    """The contents of a file and its auxiliary file, which is searched for if none is given."""
    fields = read_fields(path, max_bytes)
    incomplete = fields.frames is None or fields.positions is None
    find = format_named(fields.format).companion
    if companion is not None:
        other: Path | None = require_file(companion, "companion")
    else:
        other = find(path) if find is not None and incomplete else None
    if other is not None:
        fields = combined(fields, read_fields(other, max_bytes), path)
    return fields


def warn_of_wide_steps(positions: NDArray[np.float64], N: int, size: float, path: Path) -> None:
    """Warn of a far-field pixel for which neighbours share less than half a window: it is most likely wrong."""
    if not np.isfinite(positions).all():
        return  # refused later, with the number of the position
    step = float(np.median(nearest_distances(positions)))
    if step > WIDEST_STEP * N:
        warnings.warn(
            f"{path}: with the far-field pixel of {size * 1e9:.4g} nm, neighbouring positions lie {step:.3g} px "
            "apart in a "
            f"window of {N} px; a near-field scan, or a wrong distance? The object's pixel size may be given "
            "(--pixel-size-m)",
            stacklevel=3,
        )


def nearest_distances(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each position [n, 2] from the nearest different one."""
    from scipy.spatial import cKDTree

    distinct = np.unique(positions, axis=0)
    if len(distinct) < 2:
        return np.zeros(1)
    distances: NDArray[np.float64] = cKDTree(distinct).query(distinct, k=2)[0][:, 1]
    return distances


def all_frames(frames: FrameSource, limit: int, path: Path, field: str) -> NDArray:
    size = math.prod(frames.shape) * frames.dtype.itemsize
    if size > limit:
        raise InputError(
            file=path,
            field=field,
            found=f"{size / 2**20:.4g} MiB of patterns",
            expected=f"at most {limit / 2**20:.4g} MiB (max_bytes) with in_memory",
        )
    return frames.read(np.arange(frames.shape[0]))


def patterns_of(fields: FileContents, domain: Domain | Literal["auto"], transpose: bool, path: Path) -> PatternStack:
    assert fields.frames is not None
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


def positions_px(fields: FileContents, N: int, path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Positions in object pixels, from metres where the file or the tiny numbers say so.

    The object pixel of a far-field geometry is wavelength * distance / (N * detector pixel). A near-field file does not
    identify itself as such: its pixel size has to be given.
    """
    positions, nominal = fields.positions, fields.nominal
    if positions is None:
        raise InputError(
            file=path,
            field="positions",
            found=f"none in a file of the format {fields.format}",
            expected="scan positions",
            hint="give the file that holds them as the auxiliary file (--companion)",
        )
    size = fields.pixel_size_m
    energy, distance, detector_pixel = fields.energy_eV, fields.detector_distance_m, fields.detector_pixel_m
    if size is None and fields.far_field is False:
        raise InputError(
            file=path,
            field="pixel_size_m",
            found="a near-field scan without one",
            expected="the effective pixel size in metres (--pixel-size-m)",
        )
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
            hint="give --pixel-size-m, or --energy-eV, --detector-distance-m and --detector-pixel-m",
        )
    return positions / size, None if nominal is None else nominal / size
