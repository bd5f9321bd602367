"""Positions as they come: on a raster, in steps, with values missing, with an encoder's spikes and jumps."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from ptycho_ray.config.reading import Reading
from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.position_maps import position_matrix, transformed_positions
from ptycho_ray.errors import InputError, to_type
from ptycho_ray.physics.units import LENGTHS, factor_of, is_pixels, read_length

FAR = 20.0
"""Positions this many usual distances from all others do not belong to them."""
FEW = 0.02
"""So small a part of the positions is left out; more are named."""


def read_raster(text: str) -> tuple[int, int]:
    """Rows and columns of '15x20'. InputError for another text."""
    try:
        rows, columns = (int(part) for part in text.lower().replace("×", "x").split("x"))
        if rows < 1 or columns < 1 or rows * columns > 10**9:
            raise ValueError
    except ValueError:
        raise InputError(field="raster", found=repr(text), expected="ROWSxCOLUMNS: 15x20") from None
    return rows, columns


def read_step(text: str) -> tuple[tuple[float, float], bool]:
    """Steps of rows and columns and whether they are object pixels, from '0.5um', '0.5um x 0.4um' or '2.5px'."""
    parts = [part for part in text.lower().replace("×", "x").replace("px", "\0").split("x") if part.strip()]
    lengths = [read_length(part.replace("\0", "px"), "step") for part in parts]
    if len(lengths) not in (1, 2) or len({pixels for _, pixels in lengths}) != 1:
        raise InputError(
            field="step", found=repr(text), expected="one length, or ROWSxCOLUMNS: 0.5um, 0.5umx0.4um, 2.5px"
        )
    return (lengths[0][0], lengths[-1][0]), lengths[0][1]


def on_raster(shape: tuple[int, int], step: tuple[float, float]) -> NDArray[np.float64]:
    """Positions [n, 2] of a raster, row by row."""
    rows, columns = np.indices(shape).reshape(2, -1)
    return np.stack([rows * step[0], columns * step[1]], axis=1).astype(np.float64)


def place_on_raster(fields: FileContents, reading: Reading, path: Path) -> None:
    """Positions of a raster: of the raster that is asked for, or of frames that are stored as one. InputError without a step,
    or if the raster has another number of places than there are frames."""
    asked = None if reading.raster is None else read_raster(reading.raster)
    if fields.frames is None or (asked is None and (fields.positions is not None or fields.raster is None)):
        return
    shape = asked or fields.raster
    assert shape is not None
    n = fields.frames.shape[0]
    places = shape[0] * shape[1]
    if places != n and reading.select is None:  # which takes as many of both
        raise InputError(
            file=path,
            field="raster",
            found=f"{shape[0]} x {shape[1]} = {places} places for {n} frames",
            expected="as many places as frames",
            hint=f"For the first {min(places, n)} of both. "
            + to_type(path, f"--raster {shape[0]}x{shape[1]} --step 50nm --select 0:{min(places, n)}"),
        )
    pixels = False
    if reading.step is not None:
        step, pixels = read_step(reading.step)
    elif fields.step_m is not None:
        step = fields.step_m
    else:
        return
    fields.positions, fields.positions_in_metres, fields.nominal = on_raster(shape, step), not pixels, None
    if pixels:
        fields.positions += fields.frames.shape[-1] // 2
    turn_positions(fields, reading)


def scale_positions(fields: FileContents, reading: Reading, path: Path) -> None:
    """Positions in the unit that the user names, or counted in steps. InputError where only the user can tell, and did not."""
    if fields.positions is None:
        return
    if reading.units is not None:
        factor = None if is_pixels(reading.units) else factor_of(reading.units, LENGTHS)
        if factor is None and not is_pixels(reading.units):
            raise InputError(
                field="units", found=repr(reading.units), expected="a length: m, mm, um, nm, angstrom, or px"
            )
        _rescale(fields, np.array([factor or 1.0] * 2), f"--units {reading.units}", path, in_metres=factor is not None)
    elif reading.step is not None and reading.raster is None and fields.raster is None:
        step, pixels = read_step(reading.step)
        _rescale(fields, np.array(step), f"--step {reading.step}", path, in_metres=not pixels)
    elif fields.units_unknown:
        raise InputError(
            file=path,
            field="positions",
            found=fields.units_unknown,
            expected="lengths",
            hint=f"Their unit, or the length of one step (--step 0.5um). {to_type(path, '--units um')}",
        )
    turn_positions(fields, reading)


def turn_positions(fields: FileContents, reading: Reading) -> None:
    """Positions turned about their centre as the user asks for, rows towards columns."""
    turn = position_matrix(rotation_rad=math.radians(reading.rotation))
    for name in ("positions", "nominal"):
        values = getattr(fields, name)
        if values is not None and reading.rotation:
            setattr(fields, name, transformed_positions(values, turn))


def _rescale(fields: FileContents, unit: NDArray[np.float64], option: str, path: Path, *, in_metres: bool) -> None:
    """Positions in the ``unit`` (rows, columns) that an option states, which holds against that of the file."""
    stated = fields.positions_unit
    if stated is not None and not (in_metres and np.allclose(stated, unit, rtol=1e-9, atol=0)):
        said = " and ".join(dict.fromkeys(f"{length:.3g} m" for length in np.atleast_1d(stated)))
        fields.note(
            f"{path}: the file states a unit of its positions ({said}), and {option} another one, which is used"
        )
    for name in ("positions", "nominal"):
        if (values := getattr(fields, name)) is not None:
            setattr(fields, name, values / (1.0 if stated is None else stated) * unit)
    fields.positions_in_metres, fields.positions_unit = in_metres, None


def drop_missing(fields: FileContents, path: Path) -> None:
    """Leave out frames whose position is not a number."""
    if fields.positions is None or fields.frames is None or len(fields.positions) != fields.frames.shape[0]:
        return
    missing = ~np.asarray(np.isfinite(fields.positions).all(axis=1))
    if missing.any() and not missing.all():
        fields.note(
            f"{path}: {_counted(missing)} no number as position and were left out: {_shown(fields.frame_numbers[missing])}"
        )
        fields.keep(np.flatnonzero(~missing))


def drop_spikes(fields: FileContents, path: Path) -> None:
    """Leave out the few frames whose position lies far from all others; name a scan that falls apart, and flyback."""
    positions = fields.positions
    if positions is None or fields.frames is None or len(positions) != fields.frames.shape[0] or len(positions) < 8:
        return
    if not np.isfinite(positions).all():
        return
    group = groups_of(positions)
    sizes = np.bincount(group)
    if len(sizes) > 1:
        apart = sizes[group] <= max(1, int(FEW * len(positions)))
        if apart.any() and not apart.all():
            fields.note(
                f"{path}: {_counted(apart)} a position far from all others (an encoder's spike) and were left out: "
                f"{_shown(fields.frame_numbers[apart])}"
            )
            fields.keep(np.flatnonzero(~apart))
            group = group[~apart]
        if len(np.unique(group)) > 1:
            first = int(fields.frame_numbers[np.flatnonzero(group != group[0])[0]])
            fields.note(
                f"{path}: the positions fall into {len(np.unique(group))} groups far from each other, the first change at "
                f"frame {first}: a jump of the encoder? --select 0:{first} takes what lies before it"
            )
            return
    assert fields.positions is not None
    flown = flyback(fields.positions)
    if flown.any():
        fields.note(
            f"{path}: {_counted(flown)} positions far from those before and after: flyback, or a jump? --drop leaves them out: "
            f"{_shown(fields.frame_numbers[flown])}"
        )


def groups_of(positions: NDArray[np.float64]) -> NDArray[np.int64]:
    """The group of each position [n], where groups lie some FAR usual distances apart: cells of this size that touch are
    one."""
    distinct = np.unique(positions, axis=0)
    if len(distinct) < 3:
        return np.zeros(len(positions), np.int64)
    usual = float(np.median(cKDTree(distinct).query(distinct, k=2)[0][:, 1]))
    cells, back = np.unique(np.floor(positions / (FAR * usual)), axis=0, return_inverse=True)
    touching = cKDTree(cells).query_pairs(1.5, p=np.inf, output_type="ndarray")
    graph = coo_matrix((np.ones(len(touching)), (touching[:, 0], touching[:, 1])), shape=(len(cells), len(cells)))
    group: NDArray[np.int64] = connected_components(graph, directed=False)[1][back.ravel()].astype(np.int64)
    return group


def nearest_distances(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each position [n, 2] from the nearest different one."""
    distinct = np.unique(positions, axis=0)
    if len(distinct) < 2:
        return np.zeros(1)
    distances: NDArray[np.float64] = cKDTree(distinct).query(distinct, k=2)[0][:, 1]
    return distances


def flyback(positions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Positions [n] that are far both from the one before and from the one after: of a stage on its way back. None are where
    this is usual, as in a scan in random order."""
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    usual = float(np.median(steps[steps > 0])) if (steps > 0).any() else 0.0
    far = steps > 5 * usual
    alone = np.zeros(len(positions), bool)
    alone[1:-1] = far[:-1] & far[1:]
    return alone if usual > 0 and 0 < alone.sum() <= 0.1 * len(positions) else np.zeros(len(positions), bool)


def _counted(chosen: NDArray[np.bool_]) -> str:
    return f"{int(chosen.sum())} of {len(chosen)} frames have"


def _shown(numbers: NDArray[np.int64]) -> str:
    return ",".join(str(number) for number in numbers[:12]) + (" ..." if len(numbers) > 12 else "")
