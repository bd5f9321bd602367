"""Positions in a text file, auxiliary to a file that has patterns only.

Two columns are (row, column) in metres, Ptychodus' order y, x. Eight and more are the table that the Velociprobe writes:
column 1 is x (nm), column 5 the encoder's y (nm, with the opposite sign), column 7 the trigger, one line a sample.
"""

from __future__ import annotations

import numpy as np

from ptycho_ray.data.contents import FileContents
from ptycho_ray.data.formats.format import Format
from ptycho_ray.data.opening import Content
from ptycho_ray.errors import InputError


def recognise(content: Content) -> bool:
    return "table" in content


def read(content: Content) -> FileContents:
    """Positions in metres, with the trigger numbers as scan numbers where there are some."""
    table = content.read("table")
    if not np.isfinite(table).all():
        raise InputError(file=content.path, found="values that are not finite", expected="finite numbers")
    if table.shape[1] == 2:
        return FileContents(positions=table.copy(), positions_in_metres=True)
    if table.shape[1] >= 8:
        if np.abs(table[:, 7]).max() > 2**40:
            raise InputError(file=content.path, field="column 7", found="huge numbers", expected="trigger numbers")
        triggers = table[:, 7].astype(np.int64)
        positions = np.stack([-table[:, 5], table[:, 1]], axis=1) * 1e-9
        return FileContents(
            positions=positions - positions.mean(axis=0),
            positions_in_metres=True,
            position_index=triggers - triggers.min(),
        )
    raise InputError(
        file=content.path,
        found=f"{table.shape[1]} columns",
        expected="2 (row, column in metres) or 8 and more (the table of the Velociprobe)",
    )


TABLE = Format("positions", "a table of positions", ("table",), recognise, read)
