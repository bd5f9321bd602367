"""Positions that lie in a file: NPZ, HDF5, or a table in text."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from ptycho_ray.data.opening import opened
from ptycho_ray.data.tables import LARGEST_TABLE, TableFile
from ptycho_ray.errors import InputError, MissingFileError
from ptycho_ray.live.wire_events import Positions

POLL_S = 0.2


def positions_in(path: Path, names: str = "positions", wait_s: float = 0.0) -> Positions:
    """The positions of a file, which may appear within ``wait_s``.

    Line k of a table is frame k; in a table of three columns the first is the number of the frame. In other files an array
    ``numbers`` [k] beside the positions has these numbers.

    Args:
        names: one array [k, 2] (row, column), or two [k] with a comma between, row first; a table has its last two columns.
    """
    until = time.monotonic() + wait_s
    while not path.is_file():
        if time.monotonic() > until:
            raise MissingFileError(file=path, field="positions", found="nothing", expected="a file with positions")
        time.sleep(POLL_S)
    with opened(path, LARGEST_TABLE) as content:
        if isinstance(content, TableFile):
            table = content.read("table")
            places, numbers = table[:, -2:], table[:, 0] if table.shape[1] == 3 else None
        else:
            wanted = names.split(",")
            missing = [name for name in wanted if name not in content]
            if missing:
                raise InputError(
                    file=path,
                    field=missing[0],
                    found=f"only {', '.join(content.keys()[:20]) or 'nothing'}",
                    expected="an array of positions",
                    hint="Name it with --positions",
                )
            read = [np.asarray(content.read(name), float) for name in wanted]
            places = np.stack(read, axis=-1) if len(read) > 1 else read[0]
            numbers = content.read_optional("numbers")
    if places.ndim != 2 or places.shape[1] != 2 or not np.isfinite(places).all():
        raise InputError(file=path, field="positions", found=f"shape {places.shape}", expected="numbers [k, 2]")
    found = np.arange(len(places)) if numbers is None else np.asarray(numbers)
    return Positions(found.astype(np.int64), places.astype(np.float64))
