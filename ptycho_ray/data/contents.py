"""What a reader returns, whatever the file format, and small helpers shared by the readers."""

from __future__ import annotations

import ctypes
import difflib
import json
import os
import shlex
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ptycho_ray.data.patterns import ArrayFrames, Domain, FrameSource
from ptycho_ray.errors import InputError, to_type
from ptycho_ray.physics.electron_optics import ElectronOptics
from ptycho_ray.physics.optics import PLANCK_TIMES_LIGHT_EV_M as PLANCK_TIMES_LIGHT_EV_M
from ptycho_ray.physics.optics import beam_wavelength_m
from ptycho_ray.physics.units import JOULE_PER_EV as JOULE_PER_EV
from ptycho_ray.physics.units import LENGTHS, factor_of, is_pixels

MOST_COLUMNS = 8
OTHER_POSITIONS = "The positions may be in other arrays of the file, or in a file with a table. {}"


#: Where a container finds its limit and what it uses.
CGROUP = Path("/sys/fs/cgroup")
#: The problem of a file that lacks what a format keeps under some name.
MISSING_KEY = "missing key"


@dataclass
class FileContents:
    """The content of one scan file, as far as present: ``frames``, ``positions`` or both may be missing.

    ``positions`` and ``nominal`` are [n, 2] (row, column), in metres if ``positions_in_metres``, else in object pixels
    with patch pixel N//2 on the position. ``domain`` is None where it must be inferred from the values.
    ``frame_index`` and ``position_index`` are scan numbers by which frames and positions of two files are matched.
    ``far_field`` is None where the file does not say. ``probe_scale_known`` is False where the probe's photons cannot be
    trusted, ``column_scale`` a factor for the columns of positions that come from another file, ``beam_centre_px`` the
    (row, column) of the direct beam on the detector.

    ``positions_unit`` is the unit of length (of rows and columns, if they differ) that the file states for its positions and
    by which its numbers were multiplied; None where it states none.

    ``electrons`` says whether the beam consists of electrons, ``angle_per_pixel`` is what a detector pixel subtends
    (radian), ``raster`` the rows and columns of a scan whose frames are stored as one, ``step_m`` its steps.
    ``frequency_per_pixel`` is the same in 1/m. ``optics`` is what forms the probe of electrons, ``vacuum`` [H, W] the beam
    without a sample; ``pixel_size_given`` is True where the user states the object pixel, ``asked``
    are the options of reading as words of a command line.
    ``written_by_matlab`` marks frames whose rows and columns may be
    exchanged, ``incomplete`` a file of which a part is missing, so that positions without frames are expected.
    ``units_unknown`` says what the positions are whose unit only the user can tell. ``unused_masks`` are masks that could
    not be placed on the frames. ``notes`` holds what was mended or is odd, a line each.
    """

    frames: NDArray | FrameSource | None = None
    frames_field: str = ""
    positions: NDArray[np.float64] | None = None
    nominal: NDArray[np.float64] | None = None
    positions_in_metres: bool = False
    positions_unit: float | NDArray[np.float64] | None = None
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
    frame_index: NDArray[np.int64] | None = None
    position_index: NDArray[np.int64] | None = None
    far_field: bool | None = None
    probe_scale_known: bool = True
    column_scale: float = 1.0
    beam_centre_px: tuple[float, float] | None = None
    format: str = ""
    electrons: bool | None = None
    angle_per_pixel: float | None = None
    raster: tuple[int, int] | None = None
    step_m: tuple[float, float] | None = None
    written_by_matlab: bool = False
    incomplete: bool = False
    frequency_per_pixel: float | None = None
    optics: ElectronOptics | None = None
    vacuum: NDArray[np.float64] | None = None
    pixel_size_given: bool = False
    asked: tuple[str, ...] = ()
    units_unknown: str = ""
    unused_masks: dict[str, tuple[int, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, line: str) -> None:
        """Say what was mended or is odd, and keep it with the scan."""
        self.notes.append(line)
        warnings.warn(line, stacklevel=3)

    @property
    def frame_numbers(self) -> NDArray[np.int64]:
        """Numbers that the present frames have in the file, whatever has been left out, [n]."""
        assert self.frames is not None
        return np.arange(len(self.frames)) if isinstance(self.frames, np.ndarray) else self.frames.labels

    def keep(self, kept: NDArray[np.int64]) -> None:
        """Leave only the frames ``kept`` [k], and what belongs to them."""
        assert self.frames is not None
        n = self.frames.shape[0]
        if isinstance(self.frames, np.ndarray):
            self.frames = ArrayFrames(self.frames)
        self.frames = self.frames.take(kept)
        for name in ("positions", "nominal", "Y", "scan_index", "frame_index", "position_index"):
            values = getattr(self, name)
            if values is not None and len(values) == n:
                setattr(self, name, np.asarray(values)[kept])

    @property
    def wavelength_m(self) -> float | None:
        """Of photons or electrons, by the energy; None where that is not known."""
        return beam_wavelength_m(self.energy_eV, electrons=self.electrons)


def default_max_bytes() -> int:
    """0.8 of the physical memory."""
    if hasattr(os, "sysconf"):
        return int(0.8 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    kibibytes = ctypes.c_ulonglong()  # Windows
    ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kibibytes))  # type: ignore[attr-defined,unused-ignore]
    return int(0.8 * 1024 * kibibytes.value)


def free_memory_bytes() -> int:
    """Memory that this process could still use: of the machine, or of its container if that has less."""
    free = default_max_bytes()
    with suppress(OSError, StopIteration, ValueError):  # not on Linux
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        limit, used = (int((CGROUP / name).read_text(encoding="ascii")) for name in ("memory.max", "memory.current"))
        free = min(free, max(0, limit - used))
    return free


def with_patterns(path: Path) -> str:
    """The end of an error about a file without patterns: how it is read beside the file that has them."""
    return to_type(Path("PATTERNS"), f"--companion {shlex.quote(str(path))}")


def choose_key(path: Path, keys: Iterable[str], *names: str) -> str:
    """The first of ``names`` among ``keys``; otherwise InputError that lists the keys and suggests the nearest ones."""
    present = [str(key) for key in keys]
    for name in names:
        if name in present:
            return name
    close = difflib.get_close_matches(names[0], present, n=1, cutoff=0.6)
    raise InputError(
        MISSING_KEY,
        file=path,
        field=names[0],
        found="keys " + (", ".join(sorted(present)) or "none"),
        expected=" or ".join(names),
        hint=f"did you mean {close[0]!r}?" if close else None,
    )


def metadata_from_text(text: str) -> dict[str, Any]:
    """Metadata stored as JSON; any other text is kept under ``text``."""
    try:
        parsed = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return {"text": text}
    return parsed if isinstance(parsed, dict) else {"text": text}


def pairs(first: NDArray, second: NDArray, path: Path, field: str) -> NDArray[np.float64]:
    """Positions [n, 2] from two arrays of one length: rows and columns."""
    first, second = np.atleast_1d(np.squeeze(first)), np.atleast_1d(np.squeeze(second))
    if (
        first.shape != second.shape
        or first.ndim != 1
        or first.dtype.kind not in "fiu"
        or second.dtype.kind not in "fiu"
    ):
        raise InputError(
            file=path,
            field=field,
            found=f"{second.dtype} {second.shape} and {first.dtype} {first.shape}",
            expected="real numbers, one per pattern in each",
            hint=OTHER_POSITIONS.format(to_type(path, "--positions ROWS,COLUMNS")),
        )
    return np.stack([first, second], axis=1).astype(np.float64)


def unit_of_positions(stated: Any) -> tuple[float | None, str]:
    """The unit that an array of positions states, in metres, None if it states none or pixels; and what is said of one that is
    not known (``FileContents.units_unknown``)."""
    unit = "" if stated is None else str(stated).strip()
    factor = factor_of(unit, LENGTHS) if unit else None
    known = factor is not None or not unit or is_pixels(unit)
    return factor, "" if known else f"lengths in {unit!r}, which is no unit that is known"


def without_other_columns(values: NDArray) -> NDArray:
    """A table [n, k] with more than two columns without those that are no positions: that count the lines, or are constant."""
    if (
        values.ndim != 2
        or not 2 < values.shape[1] < min(values.shape[0], MOST_COLUMNS)
        or values.dtype.kind not in "fiu"
    ):
        return values
    with np.errstate(invalid="ignore"):
        steps = np.diff(values.astype(np.float64), axis=0)
        other = (steps == 1).all(axis=0) | (steps == 0).all(axis=0)
    return values[:, ~other] if (~other).sum() >= 2 else values


def table_of_pairs(values: NDArray, path: Path, field: str) -> NDArray[np.float64]:
    """Positions [n, 2] from an array (..., n, 2), or [n, k] of which two columns are positions."""
    if values.ndim == 2 and values.shape[0] in (2, 3) and values.shape[1] > 3:
        values = values.T  # as MATLAB leaves it
    values = without_other_columns(values)
    if values.dtype.kind not in "fiu" or values.ndim < 2 or values.shape[-1] != 2:
        raise InputError(
            file=path,
            field=field,
            found=f"{values.dtype} {values.shape}",
            expected="real numbers (n, 2): row, column",
            hint=OTHER_POSITIONS.format(to_type(path, "--positions ROWS,COLUMNS")),
        )
    return values.reshape(-1, 2).astype(np.float64)


def whole_numbers(values: ArrayLike, n: int, path: Path, field: str) -> NDArray[np.int64]:
    """Scan numbers [n] as int64."""
    array = np.asarray(values)
    if array.shape != (n,) or array.dtype.kind not in "iuf" or not np.isfinite(array).all():
        raise InputError(file=path, field=field, found=f"{array.dtype} {array.shape}", expected=f"{n} whole numbers")
    return array.astype(np.int64)


def square_pixel(width: float | None, height: float | None, path: Path, field: str) -> float | None:
    """The side of a pixel from its width and height."""
    if width and height and abs(width - height) > 1e-3 * abs(width):
        raise InputError(
            file=path, field=field, found=f"{width:.6g} and {height:.6g} m", expected="square detector pixels"
        )
    return width or height
