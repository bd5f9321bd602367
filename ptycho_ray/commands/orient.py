"""``ptycho-ray orient``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.commands.common import SCAN, DeviceOptions, ReadingOptions, Result
from ptycho_ray.commands.output import WritingOptions, about_as_large_as, file_to_write
from ptycho_ray.config.command_line import parse


@dataclass(kw_only=True)
class Options(ReadingOptions, WritingOptions, DeviceOptions):
    """Determine which of the eight possible orders and signs the scan axes have.

    The object is solved for under each of them, with the probe of the file, and judged by held-out patterns. The result
    may be "undecided": with a mirror-symmetric probe a scan cannot be distinguished from the same scan rotated by 180
    degrees. For a scan of electrons, whose axes may have any angle, 'ptycho-ray calibrate' is faster, and finds the defocus,
    too.

    Example: ptycho-ray orient scan.h5
    """

    file: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan."""
    most_patterns: Annotated[int, tyro.conf.arg(metavar="INT")] = 160
    """Number of patterns to use, around the middle of the scan."""
    most_passes: Annotated[int, tyro.conf.arg(metavar="INT")] = 48
    """Maximum number of passes over them."""
    seed: int = 0
    """Seed for the choice of held-out patterns."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the scan with this orientation to this file (.npz, .h5, .cxi, .ptyd); refused if undecided."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray orient").options
    from ptycho_ray.api.scans import orient
    from ptycho_ray.data import load_data
    from ptycho_ray.display.progress import BatchProgress
    from ptycho_ray.errors import InputError

    device = options.resolved_device()
    if options.output is not None:
        least = about_as_large_as(options.file)
        file_to_write(
            options.output, overwrite=options.overwrite, inputs=options.inputs(options.file), least_bytes=least
        )
    scan = load_data(options.file, reading=options.reading)
    with contextlib.closing(BatchProgress("trying eight orientations", "pass")) as progress:
        found = orient(
            scan,
            most_patterns=options.most_patterns,
            most_passes=options.most_passes,
            seed=options.seed,
            device=device,
            on_pass=progress,
        )
    result: Result = {"file": options.file, **found}
    if options.output is not None:
        if result["undecided"]:
            raise InputError(
                file=options.file,
                field="orientation",
                found=result["orientation"],
                expected="a decision before the scan is written",
                hint="choose one with ptycho-ray convert and its options, or give a better probe (--companion)",
            )
        again = load_data(
            options.file,
            reading=options.reading,
            **result["options"],
        )
        again.to_file(options.output)
        result["written"] = options.output
    return result
