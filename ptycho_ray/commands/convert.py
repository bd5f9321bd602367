"""``ptycho-ray convert``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.commands.common import SCAN, ReadingOptions, Result
from ptycho_ray.commands.output import LEAST_FREE_BYTES, WritingOptions, about_as_large_as, check_suffix, file_to_write
from ptycho_ray.config.command_line import parse


@dataclass(kw_only=True)
class Options(ReadingOptions, WritingOptions):
    """Read a scan in any supported format and write it in another; reports what the output format cannot store.

    Formats are listed in docs/formats.md. That of the input is recognised from its content.

    Example: ptycho-ray convert measured.cxi scan.h5 --pixel-size-m 2e-8
    """

    input: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan to read."""
    output: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan to write. Without --to the suffix decides: .npz, .h5 (the keys of PtychoPINN), .cxi, .nxs, .emd, .ptyd."""
    to: Annotated[str | None, tyro.conf.arg(metavar="FORMAT")] = None
    """Name of the format to write: ptychopinn, ptychopinn-hdf5, cxi, nexus, emd, ptyd, ptychodus, ptychodus-training,
    ptychovit, tike."""
    flip_x: bool = False
    """Change the sign of the columns of all positions."""
    flip_y: bool = False
    """Change the sign of the rows of all positions."""
    swap_xy: bool = False
    """Exchange rows and columns of all positions."""
    coord_scale: float = 1.0
    """Factor on all positions."""
    near_field_px2: float | None = None
    """The detector was in the near field: wavelength * distance / pixel size**2 (effective ones); 'ptycho-ray info'
    computes it."""
    n_subsample: int | None = None
    """Keep only this many patterns, drawn at random."""
    subsample_seed: int | None = None
    """Seed of this random selection."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray convert").options
    from ptycho_ray.data import load_data
    from ptycho_ray.data.formats import format_to_write, lost_in, write_scan
    from ptycho_ray.data.inspection import describe_scan

    if options.to is None:
        check_suffix(options.output, ", or --to FORMAT")
    beside = format_to_write(options.output, options.to).beside
    inputs = options.inputs(options.input)
    whole = options.n_subsample is None and options.reading.select is None and options.reading.frames is None
    for written in [options.output] if beside is None else [options.output, beside(options.output)]:
        file_to_write(
            written,
            overwrite=options.overwrite,
            inputs=inputs,
            least_bytes=about_as_large_as(options.input) if written == options.output and whole else LEAST_FREE_BYTES,
        )
    scan = load_data(
        options.input,
        n_subsample=options.n_subsample,
        flip_x=options.flip_x,
        flip_y=options.flip_y,
        swap_xy=options.swap_xy,
        coord_scale=options.coord_scale,
        subsample_seed=options.subsample_seed,
        near_field_px2=options.near_field_px2,
        reading=options.reading,
    )
    form = write_scan(scan, options.output, options.to)
    return {
        "file": options.output,
        "format": form.name,
        "not_held_by_this_format": lost_in(scan, form),
        **describe_scan(scan),
    }
