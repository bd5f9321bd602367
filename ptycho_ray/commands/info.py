"""``ptycho-ray info``."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ptycho_ray.commands.common import FILE, FOLDER, ReadingOptions, Result
from ptycho_ray.commands.output import check_writable
from ptycho_ray.config.command_line import parse
from ptycho_ray.errors import InputError

if TYPE_CHECKING:
    from ptycho_ray.data import RawData


MOST_LINES = 6
"""Notes and suspected problems that are shown to a person."""


@dataclass(kw_only=True)
class Options(ReadingOptions):
    """Show the contents of a file: a scan in any supported format, a trained model or a reconstructed image.

    For a scan: its format, geometry, overlap and dose, and suspected problems.

    Example: ptycho-ray info scan.h5 --pictures look
    """

    file: Annotated[Path | None, tyro.conf.Positional, FILE] = None
    """A file, the folder that train or reconstruct wrote to, a model in MLflow (models:/NAME/VERSION), or
    'pretrained', the network shipped with the package."""
    gridsize: int = 1
    """Also show the overlap within groups of gridsize x gridsize patterns; with --architectures, the gridsize to assume."""
    architectures: bool = False
    """Instead of a file: list all networks with their parameters and operations."""
    pictures: Annotated[Path | None, FOLDER] = None
    """Write a page of pictures to this folder (first_look.png): mean pattern, virtual detectors, centre of mass and
    its integral, positions, probe. Takes seconds; nothing is solved."""
    N: int = 64
    """With --architectures: side of a pattern."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray info").options
    if options.architectures != (options.file is None):
        raise InputError(
            field="FILE", found=options.file or "nothing", expected="a file, or --architectures without one"
        )
    if options.file is None:
        return _architectures(options.N, options.gridsize)
    from ptycho_ray.api.scans import account_of_result

    if (result := account_of_result(options.file)) is not None:
        return result
    from ptycho_ray.data.account import account_of_file

    if options.pictures is not None:
        check_writable(options.pictures, "pictures")
    account, scan = account_of_file(options.file, options.reading, options.gridsize)
    if options.pictures is not None and scan is not None:
        account["first_look"] = _pictures(scan, options.pictures)
    return account


def _pictures(scan: RawData, folder: Path) -> dict[str, Any]:
    """Draw the page of a first look; where it is, and what its numbers say."""
    from ptycho_ray.data.first_look import first_look
    from ptycho_ray.display.figures import save_figure
    from ptycho_ray.display.first_look_figures import plot_first_look
    from ptycho_ray.reconstruction.weak_phase import image_of_thin_sample

    look = first_look(scan)
    direct = image_of_thin_sample(scan, look)
    folder.mkdir(parents=True, exist_ok=True)
    page = plot_first_look(scan, look, None if direct is None else (direct.image, direct.covered()))
    return {"page": save_figure(page, folder / "first_look.png", dpi=110), **look.figures()}


def as_text(result: Result) -> list[str]:
    """The result for a person, on one screen: the verdict first, then figures with their units. Of models and images, and of
    what is not a whole scan, the entries as they are."""
    from ptycho_ray.commands.cli import as_text as entries
    from ptycho_ray.data.scan_words import problem_lines, scan_lines

    if result.get("kind") != "scan":
        lists = {name: value for name, value in result.items() if name != "verdict" and value not in (None, [], "none")}
        return [*wrapped(result["verdict"], ""), *entries(lists)] if "verdict" in result else entries(result)
    lines = wrapped(result["verdict"], "")
    for name, text in scan_lines(result).items():
        lines += wrapped(text, f"{name:14}")
    for title, items in (("notes", result["notes"]), ("suspected", problem_lines(result))):
        if items != "none":
            lines += [title]
            for item in items[:MOST_LINES]:
                lines += wrapped(item, "  - ")
            lines += [f"  ... {len(items) - MOST_LINES} more (--json)"] if len(items) > MOST_LINES else []
    return lines


def wrapped(text: str, first: str) -> list[str]:
    return textwrap.wrap(
        text, 118, initial_indent=first, subsequent_indent=" " * len(first), break_long_words=False
    ) or [first]


def _architectures(n: int, gridsize: int) -> Result:
    from ptycho_ray.api.scans import cost_of
    from ptycho_ray.config import ModelConfig
    from ptycho_ray.config.extensions import names
    from ptycho_ray.models.registry import ARCHITECTURES

    known = [*ARCHITECTURES, *names("network")]
    configs = [ModelConfig(N=n, gridsize=gridsize, architecture=name) for name in known]
    return {"N": n, "gridsize": gridsize, "architectures": [cost_of(config) for config in configs]}
