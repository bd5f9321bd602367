"""What a file, or a pair of files, says about a scan: read, completed and put into the units of the program."""

from __future__ import annotations

import math
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.config.reading import Reading, read_indices
from ptycho_ray.data.auxiliary_file import combined
from ptycho_ray.data.choices import chosen_files, positions_file, positions_of_file
from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.electron_beam import refuse_photons, take_optics
from ptycho_ray.data.formats import format_named, read_fields
from ptycho_ray.data.masks import filled, note_masks_beside, settle_mask
from ptycho_ray.data.patterns import Domain, FrameSource, PatternStack, evenly_spread, is_integral
from ptycho_ray.data.placing import drop_missing, drop_spikes, place_on_raster, scale_positions
from ptycho_ray.data.plausible import check_energy, check_pixel, far_field_pixel, has_geometry
from ptycho_ray.data.scan import SMALLEST_SPAN_PX, probe_modes
from ptycho_ray.data.screening import bring_to_middle, screen_frames
from ptycho_ray.data.settling import settle_quantity, settle_turn
from ptycho_ray.errors import InputError, to_type
from ptycho_ray.files import require_file
from ptycho_ray.physics.optics import fresnel_propagate

EXAMPLES = {
    "axes": "--axes yxn",
    "drop": "--drop 77,120",
    "raster": "--raster ROWSxCOLUMNS --step 0.5um",
    "select": "--select 0:100",
    "step": "--step 0.5um",
    "units": "--units um",
}
"""What can be typed for an option whose value was not understood."""


def estimate_probe(patterns: PatternStack, near_field_px2: float | None = None) -> NDArray[np.complex64]:
    """A crude probe [1, N, N]: the square root of the mean pattern propagated back to the sample, with its photons.

    From the far field by the inverse transform, from the near field (``near_field_px2`` = wavelength * distance / pixel**2) by
    paraxial propagation. Only the first patterns of a large stack are averaged. Bad pixels, which are read as zero, are filled:
    a dark stripe in the far field is a second probe beside the first.
    """
    _, intensity = next(patterns.chunks())
    amplitude = np.sqrt(intensity.mean(axis=0, dtype=np.float64))
    if patterns.bad_pixels is not None:
        amplitude = filled(amplitude, patterns.bad_pixels)
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


def starting_probe(fields: FileContents, patterns: PatternStack) -> NDArray[np.complex64] | None:
    """The modes [P, N, N] of the probe: of the file, or of an electron microscope's optics; with the photons of a mean pattern
    where their scale is not known. None where nothing says them."""
    if fields.probe is not None:
        return probe_modes(fields.probe) if fields.probe_scale_known else with_mean_photons(fields.probe, patterns)
    if fields.optics is None or not fields.pixel_size_m or not fields.wavelength_m:
        return None
    return with_mean_photons(fields.optics.modes(patterns.N, fields.pixel_size_m, fields.wavelength_m), patterns)


def read_both(path: Path, reading: Reading | None, max_bytes: int, bad_pixels: NDArray | None = None) -> FileContents:
    """The contents of a file and its auxiliary file (searched for if none is given), as the user says they are to be read, with
    what is no measurement taken out and what is odd noted. ``bad_pixels`` replaces the file's mask.

    Raises InputError for a file that does not hold what is asked for, and for numbers of frames and positions that differ.
    """
    reading = reading or Reading()
    with keeping_options(path, reading):
        return _read_both(path, reading, max_bytes, bad_pixels)


@contextmanager
def keeping_options(path: Path, reading: Reading) -> Iterator[None]:
    """The commands that errors propose to type keep the options of reading that were given, and every error about one of these
    options proposes one."""
    try:
        yield
    except InputError as error:
        if error.file is None and error.hint is None and error.field in EXAMPLES:
            example = to_type(path, EXAMPLES[error.field])
            error = InputError(field=error.field, found=error.found, expected=error.expected, hint=example)
        raise error.with_options(path, reading.words()) from error.__cause__


def _read_both(path: Path, reading: Reading, max_bytes: int, bad_pixels: NDArray | None) -> FileContents:
    fields = read_fields(path, max_bytes, reading)
    incomplete = fields.frames is None or fields.positions is None
    find = format_named(fields.format).companion
    if reading.companion is not None:
        other: Path | None = require_file(reading.companion, "companion")
    else:
        other = find(path) if find is not None and incomplete else None
    table = None if reading.keys_only else positions_file(reading, path, max_bytes)
    if table is not None:
        fields.positions = fields.nominal = fields.object_truth = fields.position_index = None
    for second in (table, other):
        if second is not None:
            found = positions_of_file(second, max_bytes) if second is table else None
            fields = combined(fields, found or read_fields(second, max_bytes), path)
    chosen_files(fields, reading, path, max_bytes)
    refuse_photons(fields, reading, path)
    for name in ("pixel_size_m", "energy_eV", "detector_distance_m", "detector_pixel_m"):
        if (value := getattr(reading, name)) is not None:
            setattr(fields, name, value)
    fields.pixel_size_given, fields.asked = reading.pixel_size_m is not None, tuple(map(shlex.quote, reading.words()))
    if reading.beam != "auto":
        fields.electrons = reading.beam == "electrons"
    take_optics(fields, reading, path, max_bytes)
    if bad_pixels is not None:
        fields.bad_pixels = bad_pixels
    for line in fields.notes:
        warnings.warn(line, stacklevel=6)
    complete(fields, reading, path, mask_is_given=bad_pixels is not None)
    return fields


def complete(fields: FileContents, reading: Reading, path: Path, *, mask_is_given: bool = False) -> None:
    """Bring frames and positions together and take out what is no measurement; see ``read_both``."""
    scale_positions(fields, reading, path)
    place_on_raster(fields, reading, path)
    if fields.frames is None:
        return
    take_common_part(fields, reading, path)
    drop_missing(fields, path)
    if not mask_is_given:
        settle_mask(fields, path)
        if reading.mask is None and not reading.keys_only:
            note_masks_beside(fields, path)
    bring_to_middle(fields, path)
    screen_frames(fields, path)
    if reading.domain == "auto":
        settle_quantity(fields, path)
    if not reading.transpose and reading.axes is None:
        settle_turn(fields, path)
    drop_spikes(fields, path)


def take_common_part(fields: FileContents, reading: Reading, path: Path) -> None:
    """The frames and positions that are selected, of the same numbers. InputError for numbers that differ, with the command for
    the common part."""
    assert fields.frames is not None
    n, places = fields.frames.shape[0], None if fields.positions is None else len(fields.positions)
    common = n if places is None else min(n, places)
    if reading.select is not None or reading.drop is not None:
        rows = list(range(common)) if reading.select is None else read_indices(reading.select, common, "select")
        dropped = set() if reading.drop is None else {*read_indices(reading.drop, max(n, common), "drop")}
        _cut(fields, np.array([row for row in rows if row not in dropped], dtype=np.int64))
    elif places is not None and places != n:
        if not fields.incomplete or places < n:
            raise InputError(
                file=path,
                field="positions",
                found=f"{places} positions for {n} patterns",
                expected="as many positions as patterns",
                hint=f"For the first {common} of both. {to_type(path, f'--select 0:{common}')}",
            )
        fields.note(f"{path}: the first {common} of {places} positions belong to the {n} frames that are there")
        _cut(fields, np.arange(common))


def _cut(fields: FileContents, rows: NDArray[np.int64]) -> None:
    """Only these rows of frames and of positions, whose numbers may differ before."""
    assert fields.frames is not None
    n = fields.frames.shape[0]
    for name in ("positions", "nominal"):
        values = getattr(fields, name)
        if values is not None and len(values) != n:
            setattr(fields, name, values[rows])
    fields.keep(rows)


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
    bad = fields.bad_pixels
    if transpose and bad is not None:
        bad = np.asarray(bad).T  # it is stored like the frames
    stack = PatternStack(
        fields.frames,
        fields.domain or "amplitude" if domain == "auto" else domain,
        bad_pixels=bad,
        transpose=transpose,
        file=path,
        field=fields.frames_field,
    )
    if len(stack) == 0:
        raise InputError(
            file=path,
            field=fields.frames_field,
            found="no patterns",
            expected="at least 2 patterns",
            hint=to_type(path, "--select FIRST:END"),
        )
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
        on_raster = fields.raster is not None
        raise InputError(
            file=path,
            field="step" if on_raster else "positions",
            found=f"a raster of {fields.raster[0]} x {fields.raster[1]} without its step" if fields.raster else
            f"none in a file of the format {fields.format}",
            expected="the step of the raster" if on_raster else "scan positions",
            hint=f"A length, or object pixels (--step 2.5px). {to_type(path, '--step 0.5nm')}" if on_raster else
            f"A raster (--raster ROWSxCOLUMNS --step 50nm), or the file that holds them. {to_type(path, '--companion FILE')}",
        )  # fmt: skip
    size = fields.pixel_size_m
    if size is None and fields.far_field is False:
        raise InputError(
            file=path,
            field="pixel_size_m",
            found="a near-field scan without one",
            expected="the effective pixel size in metres",
            hint=to_type(path, "--pixel-size-m METRES"),
        )
    tiny = len(positions) > 1 and 0 < np.ptp(positions, axis=0).max() < SMALLEST_SPAN_PX
    in_metres = (
        fields.positions_in_metres or (tiny and size is None and has_geometry(fields)) or (tiny and size is not None)
    )
    check_energy(fields, path, needed=size is None and in_metres)
    if size is None:
        size = fields.pixel_size_m = far_field_pixel(fields, N)
    check_pixel(fields, path)
    if not in_metres:
        return positions, nominal
    if size is None and fields.electrons:
        lacking = "" if fields.energy_eV else "--voltage-kV 300 "
        raise InputError(
            file=path,
            field="semiangle_mrad",
            found=f"electrons without {'a voltage and ' if lacking else ''}the angle of a detector pixel",
            expected="the convergence semi-angle, by which the bright-field disc tells it",
            hint="Camera length and pixel (--detector-distance-m, --detector-pixel-m) tell it, too. "
            + to_type(path, *fields.asked, f"{lacking}--semiangle-mrad 20"),
        )
    if size is None:
        raise InputError(
            file=path,
            field="pixel_size_m",
            found="positions in metres without a pixel size",
            expected="the object pixel size in metres, or energy, distance and detector pixel size in the file",
            hint="It follows from --energy-eV, --detector-distance-m and --detector-pixel-m, too. "
            + to_type(path, "--pixel-size-m METRES"),
        )
    return positions / size, None if nominal is None else nominal / size
