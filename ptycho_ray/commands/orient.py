"""``ptycho-ray orient``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ptycho_ray.commands.common import SCAN, Common, Result
from ptycho_ray.config.command_line import parse


@dataclass(kw_only=True)
class Options(Common):
    """Find the order and signs of the scan's axes among the eight that are possible.

    The object is solved for under each of them, with the probe of the file, and judged by patterns that were held out. The
    answer may be "undecided": a probe that is its own mirror image cannot tell a scan from the same one turned by 180
    degrees.

    Example: ptycho-ray orient scan.h5
    """

    file: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan."""
    companion: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """A second file with what the first does not hold, such as the probe of an earlier result."""
    pixel_size_m: float | None = None
    """Size of an object pixel in metres, for a file that does not tell it."""
    most_patterns: Annotated[int, tyro.conf.arg(metavar="INT")] = 160
    """Patterns that are used, around the middle of the scan."""
    most_passes: Annotated[int, tyro.conf.arg(metavar="INT")] = 48
    """Passes over them after which an answer is given in any case."""
    seed: int = 0
    """Seed of the choice of patterns to hold out."""
    output: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Also write the scan, oriented this way, to this file (.npz, .h5, .cxi, .ptyd); refused if undecided."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray orient").options
    import numpy as np

    from ptycho_ray.data import load_data
    from ptycho_ray.errors import InputError
    from ptycho_ray.refinement.orientation import find_orientation

    scan = load_data(options.file, companion=options.companion, pixel_size_m=options.pixel_size_m)
    verdict = find_orientation(
        scan,
        np.random.default_rng(options.seed),
        most_patterns=options.most_patterns,
        most_passes=options.most_passes,
    )
    best = verdict.best
    if verdict.undecided == "axes":
        answer = "undecided"
    elif verdict.undecided:
        answer = f"undecided between '{best.options()}' and '{best.turned().options()}' (turned by 180 degrees)"
    else:
        answer = best.options()
    ranked = sorted(verdict.misfits.items(), key=lambda item: item[1])
    result: Result = {
        "file": options.file,
        "orientation": answer,
        "undecided": verdict.undecided or None,
        "margin_over_other_axes": verdict.margin,
        "margin_over_turned_by_180_degrees": verdict.turned_margin,
        "standard_errors": [verdict.significance, verdict.turned_significance],
        "probe_is_its_own_mirror_image": verdict.probe_symmetry,
        "passes": verdict.passes,
        "misfit_on_held_out_patterns": [{"orientation": each.options(), "r_factor": misfit} for each, misfit in ranked],
    }
    if options.output is not None:
        if verdict.undecided:
            raise InputError(
                file=options.file,
                field="orientation",
                found=answer,
                expected="a decision before the scan is written",
                hint="choose one with ptycho-ray convert and its options, or give a better probe (--companion)",
            )
        again = load_data(
            options.file,
            companion=options.companion,
            pixel_size_m=options.pixel_size_m,
            flip_x=best.flip_x,
            flip_y=best.flip_y,
            swap_xy=best.swap_xy,
        )
        again.to_file(options.output)
        result["written"] = options.output
    return result
