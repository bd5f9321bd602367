"""Reading a scan from a file, whatever its format."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.auxiliary_file import combined
from ptycho_ray.data.contents import PLANCK_TIMES_LIGHT_EV_M, FileContents, default_max_bytes
from ptycho_ray.data.formats import format_named, read_fields
from ptycho_ray.data.patterns import Domain, FrameSource, PatternStack, is_integral
from ptycho_ray.data.raw_data import SMALLEST_SPAN_PX, RawData, probe_modes
from ptycho_ray.errors import InputError
from ptycho_ray.files import require_file
from ptycho_ray.physics.optics import fresnel_propagate

WIDEST_STEP = 0.5
"""Steps between neighbouring positions, in windows, above which the geometry of a file is doubted."""


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
    energy_eV: float | None = None,
    detector_distance_m: float | None = None,
    detector_pixel_m: float | None = None,
    near_field_px2: float | None = None,
    companion: str | Path | None = None,
    probe: NDArray | None = None,
    bad_pixels: NDArray | None = None,
    in_memory: bool = False,
    max_bytes: int | None = None,
) -> RawData:
    """Read a scan (PtychoPINN chain, callchain 1.3) in any format of docs/formats.md, told by content, not by name.

    n_subsample, n_images  use that many patterns (the first of the two that is given), chosen at random, in file order
    subsample_seed         seed of that choice in numpy's legacy stream, as in the reference; 0 when None
    flip_x, flip_y, swap_xy, coord_scale   applied to the positions in this order; patterns and probe are left alone
    n_samples              accepted for compatibility, without effect
    domain                 what the patterns hold; 'auto' asks the format and the values
    transpose              exchange rows and columns of every pattern
    pixel_size_m           object pixel size; needed where positions are in metres and the file does not tell it
    energy_eV, detector_distance_m, detector_pixel_m   geometry that the file does not tell, or tells wrongly
    near_field_px2         the detector was in the near field: wavelength * distance / pixel size**2 (effective ones)
    companion              a second file with what the first does not hold (positions, probe, object, patterns); formats
                           that consist of two files find the other one by its name
    probe                  [N, N] or [P, N, N], replaces the probe of the file
    bad_pixels             bool [N, N], True where a detector pixel is bad (read as zero); replaces the file's mask
    in_memory              read the patterns of an HDF5 file at once instead of leaving them on disk
    max_bytes              refuse a file whose arrays would take more memory, 0.8 of the machine's by default

    A file without a probe gets one estimated from the mean pattern, with a warning; a probe of unknown scale is given
    the mean photons of a pattern. Patterns of HDF5 files stay on
    disk unless ``in_memory`` is set.
    Raises InputError (MissingFileError for a missing file) naming file, field, what was found and what was expected.
    """
    path = require_file(file_path)
    limit = default_max_bytes() if max_bytes is None else max_bytes
    fields = read_both(path, companion, limit)
    for name, value in (
        ("pixel_size_m", pixel_size_m),
        ("energy_eV", energy_eV),
        ("detector_distance_m", detector_distance_m),
        ("detector_pixel_m", detector_pixel_m),
        ("bad_pixels", bad_pixels),
    ):
        if value is not None:
            setattr(fields, name, value)
    if in_memory and fields.frames is not None and not isinstance(fields.frames, np.ndarray):
        fields.frames = _all_frames(fields.frames, limit, path, fields.frames_field)
    raw = scan_from_fields(
        fields,
        path,
        domain=domain,
        transpose=transpose,
        flip_x=flip_x,
        flip_y=flip_y,
        swap_xy=swap_xy,
        coord_scale=coord_scale,
        probe=probe,
        near_field_px2=near_field_px2,
        source=str(file_path),
    )
    return _subsampled(raw, n_images if n_subsample is None else n_subsample, subsample_seed)


def scan_from_fields(
    fields: FileContents,
    path: Path,
    *,
    domain: Domain | Literal["auto"] = "auto",
    transpose: bool = False,
    flip_x: bool = False,
    flip_y: bool = False,
    swap_xy: bool = False,
    coord_scale: float = 1.0,
    probe: NDArray | None = None,
    near_field_px2: float | None = None,
    source: str | None = None,
) -> RawData:
    """The scan that a file's content makes, with positions in object pixels; arguments as in ``load_data``."""
    if fields.frames is None:
        raise InputError(
            file=path,
            field="patterns",
            found=f"a file of the format {fields.format}, which holds no diffraction patterns",
            expected="a scan",
            hint="name the file with the patterns, and this one as its companion (--companion)",
        )
    patterns = _patterns(fields, domain, transpose, path)
    if near_field_px2 is not None:
        fields.far_field = False
    far_field_assumed = fields.pixel_size_m is None
    positions, nominal = _positions_px(fields, patterns.N, path)
    if far_field_assumed and fields.positions_in_metres and fields.far_field is None:
        assert fields.pixel_size_m is not None
        _warn_of_wide_steps(positions, patterns.N, fields.pixel_size_m, path)
    for coordinates in [positions] if nominal is None else [positions, nominal]:
        if flip_x:
            coordinates[:, 1] *= -1
        if flip_y:
            coordinates[:, 0] *= -1
        if swap_xy:
            coordinates[:] = coordinates[:, ::-1].copy()
        coordinates *= coord_scale
    given = fields.probe if probe is None else probe
    if given is not None and probe is None and not fields.probe_scale_known:
        given = with_mean_photons(given, patterns)
    raw = RawData(
        positions[:, 1],
        positions[:, 0],
        None if nominal is None else nominal[:, 1],
        None if nominal is None else nominal[:, 0],
        patterns,
        estimate_probe(patterns, near_field_px2) if given is None else given,
        fields.scan_index,
        fields.object_truth,
        fields.Y,
        metadata=fields.metadata,
        counts_are_photons=fields.counts_are_photons,
        pixel_size_m=fields.pixel_size_m,
        energy_eV=fields.energy_eV,
        detector_distance_m=fields.detector_distance_m,
        detector_pixel_m=fields.detector_pixel_m,
        far_field=fields.far_field,
        source=str(path) if source is None else source,
    )
    if given is None:
        warnings.warn(f"{path}: no probe found, it was estimated from the mean pattern", stacklevel=3)
    return raw


def estimate_probe(patterns: PatternStack, near_field_px2: float | None = None) -> NDArray[np.complex64]:
    """A crude probe [1, N, N]: the mean pattern's square root taken back to the sample, with its photons.

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
    rows = np.unique(np.linspace(0, len(patterns) - 1, min(64, len(patterns))).astype(np.int64))
    wanted = float(patterns.intensity(rows).sum(axis=(1, 2), dtype=np.float64).mean())
    energy = float(np.sum(np.abs(modes) ** 2))
    scale = math.sqrt(wanted / energy) if energy > 0 and math.isfinite(energy) else 1.0
    return (modes * scale).astype(np.complex64)


def read_both(path: Path, companion: str | Path | None, max_bytes: int) -> FileContents:
    """What a file and its companion hold together; the companion is looked for if none is given."""
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


def _warn_of_wide_steps(positions: NDArray[np.float64], N: int, size: float, path: Path) -> None:
    """A far-field pixel under which neighbours share less than half a window is most likely not the pixel."""
    if not np.isfinite(positions).all():
        return  # refused later, with the number of the position
    step = float(np.median(nearest_distances(positions)))
    if step > WIDEST_STEP * N:
        warnings.warn(
            f"{path}: with the far-field pixel of {size * 1e9:.4g} nm, neighbouring positions lie {step:.3g} px apart in a "
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


def _patterns(fields: FileContents, domain: Domain | Literal["auto"], transpose: bool, path: Path) -> PatternStack:
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


def _positions_px(fields: FileContents, N: int, path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Positions in object pixels, from metres where the file or the tiny numbers say so.

    The object pixel of a far-field geometry is wavelength * distance / (N * detector pixel). A near-field file does not
    say that it is one: its pixel size has to be given.
    """
    positions, nominal = fields.positions, fields.nominal
    if positions is None:
        raise InputError(
            file=path,
            field="positions",
            found=f"none in a file of the format {fields.format}",
            expected="scan positions",
            hint="name the file that holds them as the companion (--companion)",
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
            hint="--pixel-size-m says it, or --energy-eV, --detector-distance-m and --detector-pixel-m do",
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
