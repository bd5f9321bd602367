"""Positions in a text file, auxiliary to a file that has patterns only.

A header names the columns and their units, in any order. Without one, two columns are (row, column) in metres, Ptychodus'
order y, x. Eight and more are the table that the Velociprobe writes: column 1 is x (nm), column 5 the encoder's y (nm, with
the opposite sign), column 7 the trigger, one line a sample.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.opening import Content, TableFile
from ptycho_ray.errors import InputError, to_type
from ptycho_ray.physics.units import LENGTHS, factor_of, is_pixels

LARGEST_M = 0.1
"""A scan wider than this is not in metres."""
_STAGES = "pos|stage|sample|sam|s|motor|enc|p|coord|scan|piezo"
_ROWS, _COLUMNS = (
    re.compile(rf"(^|[^a-z])({words})([^a-z]|$|[0-9])|({_STAGES}){axis}|{axis}(pos|coord|stage|enc)")
    for axis, words in (
        ("y", "y|row|rows|slow|ver|vert|vertical"),
        ("x", "x|col|cols|column|columns|fast|hor|horiz|horizontal"),
    )
)
_NUMBERS = re.compile(r"index|frame|trigger|number|^n$|^i$|^#$|^id$|point|step")


def recognise(content: Content) -> bool:
    return "table" in content


def read(content: Content) -> FileContents:
    """Positions in metres or pixels, with the trigger numbers as scan numbers where there are some."""
    assert isinstance(content, TableFile)
    table = content.read("table")
    if content.names and (named := _named(content, table)) is not None:
        return named
    if table.shape[1] == 2:
        return _two_columns(content, table)
    if not np.isfinite(table).all():
        raise InputError(
            file=content.path,
            found="values that are not finite, in columns without names",
            expected="finite numbers, or names of the columns in the first line: y_um, x_um",
            hint=to_type(Path("SCAN"), f"--positions {content.path}"),
        )
    if table.shape[1] >= 8:
        if np.abs(table[:, 7]).max() > 2**40:
            raise InputError(file=content.path, field="column 7", found="huge numbers", expected="trigger numbers")
        triggers = table[:, 7].astype(np.int64)
        positions = np.stack([-table[:, 5], table[:, 1]], axis=1) * 1e-9
        return FileContents(
            positions=positions - positions.mean(axis=0),
            positions_in_metres=True,
            positions_unit=1e-9,
            position_index=triggers - triggers.min(),
        )
    raise InputError(
        file=content.path,
        found=f"{table.shape[1]} columns without a header that names them",
        expected="2 (row, column in metres), 8 and more (the table of the Velociprobe), or names of the columns in the first "
        "line: y_um, x_um",
        hint=to_type(Path("SCAN"), f"--positions {content.path}"),
    )


def _named(content: TableFile, table: NDArray[np.float64]) -> FileContents | None:
    """Positions of the columns whose names say rows and columns; None if the names do not."""
    rows, columns = (
        [k for k, name in enumerate(content.names) if pattern.search(name) and not _NUMBERS.search(name)]
        for pattern in (_ROWS, _COLUMNS)
    )
    rows, columns = ([k for k in found if k not in other] for found, other in ((rows, columns), (columns, rows)))
    left = [k for k, name in enumerate(content.names) if not _NUMBERS.search(name) and k not in (*rows, *columns)]
    if len(left) == 1 and bool(rows) != bool(columns):  # one axis has another name: samx, samz
        rows, columns = rows or left, columns or left
    if len(left) == 2 and not rows and not columns and any(content.units[k] for k in left):
        rows, columns = left[:1], left[1:]
    if not rows or not columns:
        return None
    chosen = [_measured(content.names, found) for found in (rows, columns)]
    positions = table[:, chosen].copy()
    fields = FileContents(positions=positions, positions_in_metres=True)
    said = ", ".join(f"{content.names[k]}{f' [{content.units[k]}]' if content.units[k] else ''}" for k in chosen)
    units = [content.units[k] for k in chosen]
    if not any(units):
        fields.notes.append(
            f"{content.path}: rows and columns are the columns {said}, without units: taken for metres (--units)"
        )
        return _checked(fields, content)
    if all(is_pixels(unit) for unit in units):
        fields.positions_in_metres = False
        return fields
    factors = [factor_of(unit or units[1 - axis], LENGTHS) for axis, unit in enumerate(units)]
    if any(factor is None for factor in factors):
        fields.units_unknown = f"the columns {said}, of no unit that is known"
        return fields
    fields.positions_unit = np.array(factors, dtype=float)
    fields.positions = positions * fields.positions_unit
    fields.notes.append(f"{content.path}: rows and columns are the columns {said}")
    return fields


def _measured(names: tuple[str, ...], found: list[int]) -> int:
    """Of several columns of one axis, the measured one: an encoder's rather than the demanded."""
    for word in ("enc", "readback", "rbv", "meas", "actual", "real", "interf"):
        for k in found:
            if word in names[k]:
                return k
    demanded = [
        k for k in found if not any(word in names[k] for word in ("demand", "set", "target", "nominal", "theo"))
    ]
    return (demanded or found)[0]


def _two_columns(content: TableFile, table: NDArray[np.float64]) -> FileContents:
    fields = FileContents(positions=table.copy(), positions_in_metres=True)
    if content.names:
        said = ", ".join(content.names)
        fields.notes.append(
            f"{content.path}: the header ({said}) names no rows and columns: taken for rows, columns in metres"
        )
    return _checked(fields, content)


def _checked(fields: FileContents, content: TableFile) -> FileContents:
    """Positions without a unit: metres, unless they are wider than any scan; whole numbers are steps. ``units_unknown``
    says that only the user can tell."""
    assert fields.positions is not None
    positions = fields.positions[np.isfinite(fields.positions).all(axis=1)]
    if not len(positions):
        raise InputError(file=content.path, found="no numbers", expected="positions")
    whole = np.array_equal(positions, np.rint(positions)) and np.ptp(positions, axis=0).max() >= 1
    if whole or np.median(np.abs(positions - np.median(positions, axis=0))) > LARGEST_M / 2:
        fields.units_unknown = (
            "whole numbers, steps or indices" if whole else "lengths in an unknown unit, wider than any scan in metres"
        )
    return fields


TABLE = Format("positions", "a table of positions", ("table",), recognise, read)
