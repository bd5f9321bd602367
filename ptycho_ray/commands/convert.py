"""``ptycho-ray convert``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ptycho_ray.command_line import parse
from ptycho_ray.commands.common import SCAN, Common, Result, describe_scan


@dataclass(kw_only=True)
class Options(Common):
    """Read a scan in any supported format and write it as NPZ or HDF5 with the keys of PtychoPINN.

    Example: ptycho-ray convert measured.cxi scan.h5 --pixel-size-m 2e-8
    """

    input: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan to read: NPZ, HDF5 or CXI."""
    output: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan to write: .npz, or .h5 for HDF5."""
    domain: Literal["auto", "amplitude", "intensity"] = "auto"
    """What the patterns of the input are; 'auto' goes by the format and the values."""
    transpose: bool = False
    """Exchange rows and columns of every pattern."""
    flip_x: bool = False
    """Change the sign of the columns of all positions."""
    flip_y: bool = False
    """Change the sign of the rows of all positions."""
    swap_xy: bool = False
    """Exchange rows and columns of all positions."""
    coord_scale: float = 1.0
    """Multiply all positions."""
    pixel_size_m: float | None = None
    """Size of an object pixel in metres, for positions in metres in a file that does not tell it."""
    n_subsample: int | None = None
    """Keep only that many patterns, drawn at random."""
    subsample_seed: int | None = None
    """Seed of that draw."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray convert").options
    from ptycho_ray.data import load_data

    scan = load_data(
        options.input,
        n_subsample=options.n_subsample,
        flip_x=options.flip_x,
        flip_y=options.flip_y,
        swap_xy=options.swap_xy,
        coord_scale=options.coord_scale,
        subsample_seed=options.subsample_seed,
        domain=options.domain,
        transpose=options.transpose,
        pixel_size_m=options.pixel_size_m,
    )
    scan.to_file(options.output)
    return {"file": options.output, **describe_scan(scan)}
