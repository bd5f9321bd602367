"""``ptycho-ray prepare``: analysis of raw frames, and the scan prepared from them.

The steps: read all frames once (mean, marked pixels, intensity of each), find hot and dead pixels, the beam centre and
    the background, choose the window, drop dark frames, and convert the rest of the file to the new pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.inspection import dead_pixels, hot_pixels, symmetry_centre
from ptycho_ray.data.mended import invalid_in
from ptycho_ray.data.patterns import FrameSource, evenly_spread, is_integral
from ptycho_ray.data.prepared import FrameSteps, PreparedFrames, as_source, clean, cropped_probe, narrowed_probe
from ptycho_ray.data.raw_data import RawData, scan_from_fields
from ptycho_ray.errors import InputError

AT_ONCE_BYTES = 64 * 2**20
LOOKED_AT = 64
SIDES = (256, 128, 64, 32, 16)


@dataclass(frozen=True)
class Survey:
    """Results of one pass over all raw frames [n, H, W], in the orientation of the file.

    mean          mean frame [H, W], without the marks of bad pixels
    bad           pixels that are marked in a frame or masked in the file, bool [H, W]
    hot, dead     suspected hot and dead pixels, bool [H, W]
    intensities   sum of each frame over the good pixels [n]
    """

    mean: NDArray[np.float64]
    bad: NDArray[np.bool_]
    hot: NDArray[np.bool_]
    dead: NDArray[np.bool_]
    intensities: NDArray[np.float64]


def is_amplitude(fields: FileContents) -> bool:
    """Whether the frames of a file hold amplitudes: by the format or, where it does not say, by the values."""
    assert fields.frames is not None
    if fields.domain is not None:
        return fields.domain == "amplitude"
    source = as_source(fields.frames)
    return not is_integral(clean(source.read(np.arange(min(8, source.shape[0])))))


def survey(source: FrameSource, amplitude: bool, masked: NDArray[np.bool_] | None) -> Survey:
    """Analyse all frames, in parts. InputError if they hold no signal."""
    n, height, width = source.shape
    step = max(1, AT_ONCE_BYTES // (4 * height * width))
    total, bad = np.zeros((height, width)), np.zeros((height, width), dtype=bool)
    if masked is not None:
        if masked.shape != bad.shape:
            raise InputError(field="bad_pixels", found=f"shape {masked.shape}", expected=f"{bad.shape}")
        bad |= masked.astype(bool)
    for start in range(0, n, step):
        raw = source.read(np.arange(start, min(start + step, n)))
        bad |= invalid_in(raw).any(axis=0)
        total += clean(raw, amplitude).sum(axis=0, dtype=np.float64)
    if not total.any():
        raise InputError(field="patterns", found="no signal in any frame", expected="light")
    rows = evenly_spread(n, LOOKED_AT)
    some = np.where(bad, 0, clean(source.read(rows), amplitude))
    hot, dead = hot_pixels(some) & ~bad, dead_pixels(some) & ~bad & (total == 0)
    good = ~(bad | hot | dead)
    intensities = np.empty(n)
    for start in range(0, n, step):
        frames = clean(source.read(np.arange(start, min(start + step, n))), amplitude)
        intensities[start : start + len(frames)] = frames[:, good].sum(axis=1, dtype=np.float64)
    return Survey(total / n, bad, hot, dead, intensities)


def filled(mean: NDArray[np.float64], bad: NDArray[np.bool_]) -> NDArray[np.float64]:
    """A mean frame with its bad pixels replaced by the median around them."""
    return np.where(bad, median_filter(np.where(bad, 0.0, mean), size=5), mean)


def background_level(mean: NDArray[np.float64], bad: NDArray[np.bool_]) -> float:
    """Median of the mean frame along its edge (the outermost tenth), which contains little but background."""
    border = np.ones(mean.shape, dtype=bool)
    margins = [max(1, side // 20) for side in mean.shape]
    border[margins[0] : -margins[0], margins[1] : -margins[1]] = False
    border &= ~bad
    return float(np.median(mean[border])) if border.any() else 0.0


def largest_side(shape: tuple[int, ...], binning: int) -> int:
    """The largest of SIDES that fits on the detector when ``binning`` pixels are summed."""
    fitting = [side for side in SIDES if side * binning <= min(shape)]
    if not fitting:
        raise InputError(field="binning", found=binning, expected=f"fewer, for a detector of {shape} pixels")
    return fitting[0]


def plan(
    found: Survey,
    *,
    size: int | None = None,
    binning: int = 1,
    centre: tuple[float, float] | None = None,
    background: float | None = 0.0,
    transpose: bool = False,
    flip_rows: bool = False,
    flip_columns: bool = False,
) -> FrameSteps:
    """The steps for frames of which ``found`` is known; ``centre`` and ``background`` are measured where they are None.

    ``centre`` is (row, column) on the detector after its orientation.
    """
    draft = FrameSteps(transpose, flip_rows, flip_columns)
    bad = found.bad | found.hot | found.dead
    level = background_level(found.mean, bad) if background is None else background
    mean = draft.oriented(filled(found.mean, bad))
    if binning < 1 or level < 0:
        raise InputError(field="binning, background", found=f"{binning}, {level}", expected="1 or more, 0 or more")
    N = largest_side(mean.shape, binning) if size is None else size
    if N < 8 or N * binning > 2 * max(mean.shape):
        raise InputError(field="size", found=N, expected=f"8 or more, with a window that suits {mean.shape} pixels")
    where = symmetry_centre(mean) if centre is None else centre
    return replace(
        draft, centre=(float(where[0]), float(where[1])), side=N * binning, binning=binning, background=level
    )


def prepared_fields(
    fields: FileContents, found: Survey, steps: FrameSteps, amplitude: bool, path: Path
) -> FileContents:
    """The content of a file with its frames prepared and everything that depends on the detector pixels converted.

    Frames without any signal are dropped. A window other than the whole detector changes the object pixel: positions in
    pixels are rescaled and a stored object is dropped.

    Raises InputError for positions in pixels of frames that are not square, of which no object pixel follows.
    """
    assert fields.frames is not None
    source, bad = as_source(fields.frames), found.bad | found.hot | found.dead
    _, height, width = source.shape
    prepared: FrameSource = PreparedFrames(source, steps, bad, amplitude)
    made = replace(fields, frames=prepared, domain="intensity")
    made.bad_pixels = mask if (mask := steps.mask(bad)).any() else None
    scale = steps.side / height
    if not fields.positions_in_metres and fields.positions is not None and height != width:
        raise InputError(
            file=path,
            field="positions",
            found=f"object pixels, for frames of {height} x {width}",
            expected="positions in metres, or square frames",
        )
    if not fields.positions_in_metres and fields.positions is not None:
        made.positions = fields.positions * scale
        made.nominal = None if fields.nominal is None else fields.nominal * scale
    if fields.pixel_size_m is not None and height == width:
        made.pixel_size_m = fields.pixel_size_m / scale
    if fields.detector_pixel_m is not None:
        made.detector_pixel_m = fields.detector_pixel_m * steps.binning
    for name in ("angle_per_pixel", "frequency_per_pixel"):
        value = getattr(fields, name)
        setattr(made, name, None if value is None else value * steps.binning)
    if fields.vacuum is not None:
        made.vacuum = steps.apply(fields.vacuum, np.zeros(fields.vacuum.shape, bool)).astype(np.float64)
    if fields.counts_are_photons is None and not amplitude:
        made.counts_are_photons = is_integral(clean(source.read(np.arange(min(8, source.shape[0])))))
    made.Y = None
    same_object = scale == 1 and not (steps.transpose or steps.flip_rows or steps.flip_columns)
    made.object_truth = fields.object_truth if same_object else None
    made.probe = None if fields.probe is None else _probe(fields.probe, steps, height)
    kept = np.flatnonzero(found.intensities > 0)
    if len(kept) < source.shape[0]:
        made.frames = prepared.take(kept)
        for name in ("positions", "nominal", "scan_index"):
            values = getattr(made, name)
            setattr(made, name, None if values is None else values[kept])
    return made


def _probe(probe: NDArray, steps: FrameSteps, side: int) -> NDArray | None:
    """The probe on the pixels of the prepared scan; None if it did not belong to frames of ``side``."""
    if probe.ndim == 4:
        probe = probe[0]
    modes = probe.reshape(-1, *probe.shape[-2:])
    if modes.shape[-2:] != (side, side):
        return modes if modes.shape[-2:] == (steps.N, steps.N) else None
    whole = modes if steps.side == side else cropped_probe(modes, steps.side)
    whole = steps.oriented_probe(whole)
    return whole if steps.binning == 1 else narrowed_probe(whole, steps.N)


def prepared_scan(
    fields: FileContents, found: Survey, steps: FrameSteps, amplitude: bool, path: Path, **options: Any
) -> RawData:
    """The scan, with a record of the preparation in its metadata under 'prepared'; ``options`` as in ``scan_from_fields``."""
    scan = scan_from_fields(prepared_fields(fields, found, steps, amplitude, path), path, **options)
    record = {
        "input": path.name,
        "format": fields.format,
        "frames": steps.to_dict(),
        "bad_pixels": {name: int(getattr(found, name).sum()) for name in ("bad", "hot", "dead")},
        "dark_frames_dropped": int((found.intensities <= 0).sum()),
    }
    scan.metadata = {**(scan.metadata or {}), "prepared": record}
    return scan
