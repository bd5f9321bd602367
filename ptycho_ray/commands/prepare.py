"""``ptycho-ray prepare``."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ptycho_ray.commands.common import SCAN, DeviceOptions, ReadingOptions, Result
from ptycho_ray.commands.output import WritingOptions, file_to_write
from ptycho_ray.config.command_line import parse

if TYPE_CHECKING:
    import torch

    from ptycho_ray.data import RawData


@dataclass(kw_only=True)
class Options(ReadingOptions, WritingOptions, DeviceOptions):
    """Turn raw detector frames into a scan: mask, background, beam centre, window, binning, orientation, rotation.

    A figure of each step is written to a folder next to the output; the steps are recorded in the file.

    Example: ptycho-ray prepare fly_master.h5 scan.h5 --companion fly.csv --size 128 --find-orientation
    """

    input: Annotated[Path, tyro.conf.Positional, SCAN]
    """Detector frames in any supported format."""
    output: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan to write: .h5 or .npz, which also record the preparation."""
    size: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Side N of the patterns; by default the largest of 256, 128, 64, 32, 16 that fits on the detector."""
    binning: int = 1
    """Number of detector pixels to bin in each direction."""
    centre: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="ROW COLUMN")] = None
    """Position of the direct beam on the detector; by default the centre of symmetry of the mean frame."""
    background: Annotated[str, tyro.conf.arg(metavar="none|auto|COUNTS")] = "none"
    """Counts to subtract from every detector pixel; 'auto' uses the median at the edge of the detector."""
    keep_suspects: bool = False
    """Do not mask pixels that look hot or dead; pixels marked in the file are always masked."""
    flip_rows: bool = False
    """Flip the frames vertically."""
    flip_columns: bool = False
    """Flip the frames horizontally."""
    flip_x: bool = False
    """Change the sign of the columns of all positions."""
    flip_y: bool = False
    """Change the sign of the rows of all positions."""
    swap_xy: bool = False
    """Exchange rows and columns of all positions."""
    rotate_deg: float = 0.0
    """Rotate the positions about their centre, rows towards columns."""
    find_orientation: bool = False
    """Determine the order and signs of the scan axes from the data (see 'ptycho-ray orient'); unchanged if undecided."""
    find_rotation: bool = False
    """Determine the angle between the axes of scan and detector from the data; unchanged if undecided."""
    seed: int = 0
    """Seed for the choice of held-out patterns in --find-orientation and --find-rotation."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray prepare").options
    import numpy as np

    from ptycho_ray import __version__
    from ptycho_ray.data.contents import default_max_bytes
    from ptycho_ray.data.formats import lost_in, write_scan
    from ptycho_ray.data.inspection import describe_scan
    from ptycho_ray.data.loading import read_both
    from ptycho_ray.data.opening import require_scan
    from ptycho_ray.data.preparation import is_amplitude, plan, prepared_scan, survey
    from ptycho_ray.data.prepared import as_source
    from ptycho_ray.display.figures import plot_positions, save_figure
    from ptycho_ray.display.preparation_figures import plot_background, plot_bad_pixels, plot_patterns, plot_window
    from ptycho_ray.errors import InputError
    from ptycho_ray.files import sha256_of

    device = options.resolved_device()
    path, how = require_scan(options.input), options.reading
    file_to_write(options.output, overwrite=options.overwrite, inputs=options.inputs(path))
    fields = read_both(path, dataclasses.replace(how, transpose=False, pixel_size_m=None), default_max_bytes())
    if fields.frames is None:
        raise InputError(file=path, field="patterns", found="none", expected="frames", hint="see ptycho-ray info")
    amplitude = is_amplitude(fields) if how.domain == "auto" else how.domain == "amplitude"
    found = survey(as_source(fields.frames), amplitude, fields.bad_pixels)
    if options.keep_suspects:
        found = dataclasses.replace(found, hot=np.zeros_like(found.hot), dead=np.zeros_like(found.dead))
    steps = plan(
        found,
        size=options.size,
        binning=options.binning,
        centre=options.centre,
        background=_background(options.background),
        transpose=how.transpose,
        flip_rows=options.flip_rows,
        flip_columns=options.flip_columns,
    )
    if how.pixel_size_m is not None:  # what prepared_fields makes of this is the pixel that was asked for
        height = as_source(fields.frames).shape[1]
        fields.pixel_size_m = how.pixel_size_m * steps.side / height
    scan = prepared_scan(
        fields,
        found,
        steps,
        amplitude,
        path,
        flip_x=options.flip_x,
        flip_y=options.flip_y,
        swap_xy=options.swap_xy,
    )
    folder = options.output.with_name(f"{options.output.stem}_prepare")
    pictures = {
        "1_bad_pixels": plot_bad_pixels(found),
        "2_background": plot_background(found, steps),
        "3_window": plot_window(found, steps, fields.beam_centre_px),
        "4_patterns": plot_patterns(scan.patterns.intensity(np.arange(min(64, len(scan)))), scan.bad_pixels),
    }
    assert scan.metadata is not None
    record = scan.metadata["prepared"]
    record["positions"] = _orient_positions(scan, options, pictures, device)
    record |= {"sha256": sha256_of(path), "made_by": f"ptycho-ray {__version__}"}
    pictures["7_positions"] = plot_positions(scan.positions_px, pixel_size_m=scan.pixel_size_m)
    for name, figure in pictures.items():
        save_figure(figure, folder / f"{name}.png", dpi=110)
    written = write_scan(scan, options.output)
    return {
        "file": options.output,
        "not_held_by_this_format": lost_in(scan, written),
        "pictures": folder,
        "prepared": record,
        **describe_scan(scan),
    }


def _background(word: str) -> float | None:
    from ptycho_ray.errors import InputError

    if word == "auto":
        return None
    try:
        return 0.0 if word == "none" else float(word)
    except ValueError:
        raise InputError(field="background", found=repr(word), expected="none, auto or a number of counts") from None


def _orient_positions(
    scan: RawData, options: Options, pictures: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """Determine what was requested, change the positions of ``scan``, and report what was done."""
    import numpy as np

    from ptycho_ray.refinement.orientation import find_orientation
    from ptycho_ray.refinement.rotation import find_rotation, turned

    record: dict[str, Any] = {name: getattr(options, name) for name in ("flip_x", "flip_y", "swap_xy", "rotate_deg")}
    if options.find_orientation:
        from ptycho_ray.display.preparation_figures import plot_orientation

        verdict = find_orientation(scan, np.random.default_rng(options.seed), device=device)
        pictures["5_orientation"] = plot_orientation(verdict)
        record["found_orientation"] = verdict.best.options()
        record["orientation_undecided"] = verdict.undecided or None
        record["orientation_margins"] = [verdict.margin, verdict.turned_margin]
        if not verdict.undecided:
            _set_positions(scan, verdict.best.apply)
    if options.rotate_deg:
        _set_positions(scan, lambda positions: turned(positions, options.rotate_deg))
    if options.find_rotation:
        from ptycho_ray.display.preparation_figures import plot_rotation

        rotation = find_rotation(scan, np.random.default_rng(options.seed), device=device)
        pictures["6_rotation"] = plot_rotation(rotation)
        record |= {"found_rotation_deg": rotation.angle_deg, "rotation_decided": rotation.decided}
        record["rotation_margin"] = rotation.margin
        if rotation.decided:
            _set_positions(scan, lambda positions: turned(positions, rotation.angle_deg))
    return record


def _set_positions(scan: RawData, change: Any) -> None:
    scan.positions_px, scan.nominal_positions_px = change(scan.positions_px), change(scan.nominal_positions_px)
    scan.object_truth = None  # it lay under the positions as they were
