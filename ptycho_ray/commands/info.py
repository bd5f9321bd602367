"""``ptycho-ray info``."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ptycho_ray.commands.common import FILE, FOLDER, ReadingOptions, Result
from ptycho_ray.config.command_line import parse
from ptycho_ray.errors import InputError

if TYPE_CHECKING:
    from ptycho_ray.data import RawData


#: Share of what is detected that lies in the bright-field disc of a sample thin enough for a linear reconstruction.
WEAK = 0.8
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

    account, scan = account_of_file(options.file, options.reading, options.gridsize)
    if options.pictures is not None and scan is not None:
        account["first_look"] = _pictures(scan, options.pictures)
    return account


def _pictures(scan: RawData, folder: Path) -> dict[str, Any]:
    """Draw the page of a first look; where it is, and what its numbers say."""
    import numpy as np

    from ptycho_ray.data.first_look import first_look
    from ptycho_ray.display.figures import save_figure
    from ptycho_ray.display.first_look_figures import plot_first_look
    from ptycho_ray.reconstruction.weak_phase import weak_phase_image

    look, direct = first_look(scan), None
    if look.virtual.bright is not None and look.virtual.bright.mean() > WEAK and not scan.probe_is_guess:
        direct = weak_phase_image(scan)
    folder.mkdir(parents=True, exist_ok=True)
    page = plot_first_look(scan, look, None if direct is None else (direct.image, direct.covered()))
    file, disc = save_figure(page, folder / "first_look.png", dpi=110), look.virtual.disc
    return {
        "page": file,
        "raster": list(look.grid.shape) if look.grid.point is not None else None,
        "step_px": list(look.grid.step_px),
        "disc_radius_px": None if disc is None else disc.radius_px,
        "disc_centre_px": None if disc is None else list(disc.centre_px),
        "bright_field_share": None if look.virtual.bright is None else float(look.virtual.bright.mean()),
        "centre_of_mass_px": float(np.sqrt(np.mean(look.virtual.centre_px**2))),
        "curl_over_divergence": look.curl_share,
    }


def as_text(result: Result) -> list[str]:
    """The result for a person, on one screen: the verdict first, then figures with their units. Of models and images, and of
    what is not a whole scan, the entries as they are."""
    from ptycho_ray.commands.cli import as_text as entries

    if result.get("kind") != "scan":
        lists = {name: value for name, value in result.items() if name != "verdict" and value not in (None, [], "none")}
        return [*wrapped(result["verdict"], ""), *entries(lists)] if "verdict" in result else entries(result)
    geometry, pixel = result["geometry"], result["pixel_size_m"]
    step, (rows, columns) = result["nearest_position_px"], result["scanned_field_px"]
    low, high = result["dose"]["smallest_and_largest"]
    quanta = "electrons" if result["electrons"] else "photons"
    unit = quanta if result["counts_are_photons"] else "units of the file"
    energy, distance, detector = (geometry[name] for name in ("energy_eV", "detector_distance_m", "detector_pixel_m"))
    beam = [] if energy is None else [f"{energy / 1e3:.4g} keV {quanta}"]
    beam += [] if detector is None else [f"detector pixel {length_text(detector)}"]
    beam += [] if distance is None else [f"at {length_text(distance)}"]
    modes = result["probe_modes"]
    probe = f"{modes} mode{'s' if modes > 1 else ''}, {_both(result['probe_diameter_px'], pixel)} wide"
    facts = {
        "file": f"{result['file']}, {result['format']}",
        "patterns": f"{result['patterns']} of {result['N']} x {result['N']} px, stored as {result['stored_as']}; "
        f"{result['mean_intensity_of_a_pattern']:.4g} {unit} each ({low:.4g} to {high:.4g})",
        "bad pixels": f"{result['bad_detector_pixels']} of {result['N'] ** 2}",
        "beam": ", ".join(beam) or "not stated",
        "detector": None,  # of a microscope
        "object pixel": "not stated" if pixel is None else length_text(pixel),
        "scan": f"{_both(rows, pixel)} x {_both(columns, pixel)}, neighbours {_both(step, pixel)} apart, overlap "
        f"{_overlap(result['linear_overlap_of_neighbours'])}",
        "probe": probe + (" (estimated, the file has none)" if result["probe_is_guess"] else ""),
        "dose": None,  # of electrons
        "pictures": str(result["first_look"]["page"]) if "first_look" in result else None,
        "truth": None if result["truth"] is None else "{} x {} px".format(*result["truth"]),
    }
    if "microscope" in result:
        facts |= microscope_lines(result)
    lines = wrapped(result["verdict"], "")
    for name, text in facts.items():
        lines += [] if text is None else wrapped(text, f"{name:14}")
    for title, items in (("notes", result["notes"]), ("suspected", _problems(result))):
        if items != "none":
            lines += [title]
            for item in items[:MOST_LINES]:
                lines += wrapped(item, "  - ")
            lines += [f"  ... {len(items) - MOST_LINES} more (--json)"] if len(items) > MOST_LINES else []
    return lines


def microscope_lines(result: Mapping[str, Any]) -> dict[str, str | None]:
    """The lines of a scan with electrons that differ from those of photons."""
    told = result["microscope"]

    def figure(name: str, unit: str) -> str | None:
        return None if told[name] is None else f"{told[name]:.4g} {unit}"

    defocus = told["defocus_nm"]
    beam = [
        figure("voltage_kV", "kV"),
        figure("wavelength_pm", "pm wavelength"),
        figure("semiangle_mrad", "mrad semi-angle"),
        "defocus not stated" if defocus is None else f"{defocus:.4g} nm defocus",
        told["aberrations"],
    ]
    detector = [
        figure("mrad_per_pixel", "mrad a pixel"),
        figure("bright_field_disc_px", "px radius of the bright-field disc"),
        figure("detector_edge_mrad", "mrad at the edge"),
    ]
    gain, dose = told["counts_per_electron"], told["dose_per_square_angstrom"]
    counted = [
        "not known: the counts are not whole electrons"
        if gain is None
        else f"{told['electrons_a_pattern']:.4g} electrons a pattern"
        + ("" if gain == 1 else f", {gain:.4g} counts each"),
        None if dose is None else f"{dose:.4g} electrons per square angstrom",
    ]
    wide, modes = told["probe_diameter_angstrom"], result["probe_modes"]
    lines: dict[str, str | None] = {
        "beam": "electrons: " + ", ".join(filter(None, beam)),
        "detector": ", ".join(filter(None, detector)) or "angles not known",
        "dose": ", ".join(filter(None, counted)),
    }
    if wide is not None:
        (rows, columns), pixel = result["scanned_field_px"], told["object_pixel_angstrom"]
        lines |= {
            "object pixel": f"{pixel:.4g} angstrom",
            "scan": f"{rows * pixel:.4g} x {columns * pixel:.4g} angstrom, neighbours {told['step_angstrom']:.4g} angstrom "
            f"({result['nearest_position_px']:.4g} px) apart, overlap {_overlap(result['linear_overlap_of_neighbours'])}",
            "probe": f"{modes} mode{'s' if modes > 1 else ''}, {wide:.4g} angstrom ({result['probe_diameter_px']:.4g} px) wide"
            + (" (estimated, neither the file nor the optics say it)" if result.get("probe_is_guess") else ""),
        }
    return lines


def _overlap(overlap: float) -> str:
    return f"{overlap:.0%}" if overlap > 0 else "none"


def _problems(result: Result) -> Any:
    found = result["suspected_problems"]
    return found if found == "none" else [f"{each['problem']}: {each['what_to_do']}" for each in found]


def wrapped(text: str, first: str) -> list[str]:
    return textwrap.wrap(
        text, 118, initial_indent=first, subsequent_indent=" " * len(first), break_long_words=False
    ) or [first]


def length_text(metres: float) -> str:
    """A length with the unit that suits it."""
    for unit, factor in (("m", 1.0), ("mm", 1e-3), ("um", 1e-6), ("nm", 1e-9), ("pm", 1e-12)):
        if abs(metres) >= factor or unit == "pm":
            return f"{metres / factor:.4g} {unit}"
    return f"{metres} m"


def _both(pixels: float, size: float | None) -> str:
    return f"{pixels:.4g} px" if size is None else f"{length_text(pixels * size)} ({pixels:.4g} px)"


def _architectures(n: int, gridsize: int) -> Result:
    from ptycho_ray.api.scans import cost_of
    from ptycho_ray.config import ModelConfig
    from ptycho_ray.config.extensions import names
    from ptycho_ray.models.registry import ARCHITECTURES

    known = [*ARCHITECTURES, *names("network")]
    configs = [ModelConfig(N=n, gridsize=gridsize, architecture=name) for name in known]
    return {"N": n, "gridsize": gridsize, "architectures": [cost_of(config) for config in configs]}
