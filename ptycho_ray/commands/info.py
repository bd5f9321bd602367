"""``ptycho-ray info``."""

from __future__ import annotations

import math
import shlex
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ptycho_ray.commands.common import FILE, FOLDER, ReadingOptions, Result, summary_of_history
from ptycho_ray.config.command_line import parse
from ptycho_ray.config.reading import Reading
from ptycho_ray.errors import InputError, to_type

if TYPE_CHECKING:
    from ptycho_ray.config import ModelConfig
    from ptycho_ray.data import RawData
    from ptycho_ray.data.contents import FileContents


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
    from ptycho_ray.bundle import is_shipped, read_manifest
    from ptycho_ray.reconstruction.images import find_image, read_image
    from ptycho_ray.tracking import is_mlflow_uri

    path = options.file
    if is_shipped(path) or is_mlflow_uri(path) or (path / "wts.h5.zip").is_file() or path.suffix == ".zip":
        from ptycho_ray.config import ModelConfig

        manifest = read_manifest(path)
        history = summary_of_history(manifest["history"]) if manifest["history"] else None
        kept = {name: manifest[name] for name in ("created_by", "created_at", "config", "normalisation", "provenance")}
        cost = _cost(ModelConfig(**manifest["config"]["model"]))
        members = 1 + len(manifest.get("ensemble", ()))
        return {
            "file": path, "kind": "trained model", "network": cost, "members": members, **kept, "training": history
        }  # fmt: skip
    if (found := find_image(path)) is not None:
        image = read_image(found)
        shape = list(image.pixels.shape)
        return {"file": found, "kind": "reconstructed image", "shape": shape, "origin_px": image.origin_px}
    return _scan(path, options)


def _scan(path: Path, options: Options) -> Result:
    """What a file holds, whatever is wrong with it: what cannot be read is the verdict, not an error."""
    from ptycho_ray.data.contents import default_max_bytes
    from ptycho_ray.data.electron_facts import electron_facts, electron_problems
    from ptycho_ray.data.formats import format_named
    from ptycho_ray.data.inspection import describe_scan, suspected_problems
    from ptycho_ray.data.loading import read_both
    from ptycho_ray.data.opening import require_scan
    from ptycho_ray.data.overlap import overlap_metrics
    from ptycho_ray.data.raw_data import scan_from_fields

    head: Result = {"file": require_scan(path)}
    reading, limit, fields = options.reading, default_max_bytes(), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes of the scan say the same
        try:
            fields = read_both(path, reading, limit)
            form = format_named(fields.format)
            head["format"] = f"{form.name} ({form.title})"
            if fields.frames is None or fields.positions is None or _uncropped(fields):
                return {
                    "verdict": _verdict_of_part(path, fields, reading),
                    **head,
                    "kind": "part of a scan",
                    **_parts(path, fields, reading),
                }
            scan = scan_from_fields(fields, path, domain=reading.domain, transpose=reading.transpose)
            facts = describe_scan(scan)
            diameter = float(facts["probe_diameter_px"])
            found = [*suspected_problems(scan, diameter), *electron_problems(scan)]
            problems = [asdict(problem) for problem in found]
        except InputError as error:
            error = error.with_options(path, reading.words())
            notes = {} if fields is None else {"notes": _notes(path, fields.notes)}
            return {
                "verdict": f"not readable as it is: {error}",
                **head,
                **notes,
                **_contents(path, limit, reading.shape),
            }
    overlap = overlap_metrics(scan.positions_px, diameter, gridsize=options.gridsize) if diameter > 0 else {}
    energies = scan.pattern_energies()
    unit = f"{scan.quantum}s" if scan.counts_are_photons else "units_of_the_file"
    look = None if options.pictures is None else _pictures(scan, options.pictures)
    geometry = {
        "energy_eV": scan.energy_eV,
        "detector_distance_m": scan.detector_distance_m,
        "detector_pixel_m": scan.detector_pixel_m,
        "object_pixel_m": scan.pixel_size_m,
        "far_field": scan.far_field,
    }
    return {
        "verdict": _verdict(scan, facts, problems),
        **head,
        "kind": "scan",
        "notes": _notes(path, scan.notes) or "none",
        "suspected_problems": problems or "none",
        **facts,
        "probe_is_guess": scan.probe_is_guess,
        "geometry": geometry,
        "overlap": {name: value for name, value in overlap.items() if name.startswith("overlap") or "prob" in name},
        "dose": {
            f"{unit}_a_pattern": float(energies.mean()),
            "smallest_and_largest": [float(energies.min()), float(energies.max())],
            f"{unit}_an_object_pixel": _dose(scan.positions_px, float(energies.sum()), diameter),
        },
        **({"microscope": electron_facts(scan)} if scan.electrons else {}),
        **({} if look is None else {"first_look": look}),
        "provenance": None if scan.metadata is None else scan.metadata.get("prepared"),
    }


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


def _notes(path: Path, notes: list[str]) -> list[str]:
    return [note.replace(f"{path}: ", "") for note in notes]


def _verdict(scan: RawData, facts: dict[str, Any], problems: list[dict[str, str]]) -> str:
    step = facts["nearest_position_px"]
    if step > max(facts["probe_diameter_px"], scan.N / 2) and scan.far_field is not False:
        return (
            f"geometry that cannot be right: neighbouring positions lie {step:.3g} px apart in a window of {scan.N} px, so "
            "that patterns do not overlap: the unit of the positions (--units) or the object pixel (--pixel-size-m) is wrong, "
            f"or the detector was in the near field. {to_type(scan.source, '--units um')}"
        )
    said = f"{len(problems)} suspected problem{'s' if len(problems) > 1 else ''}" if problems else "nothing odd"
    if scan.notes:
        said += f", {len(scan.notes)} note{'s' if len(scan.notes) > 1 else ''} on how it was read"
    return f"a scan of {len(scan)} patterns of {scan.N} x {scan.N} pixels; {said}"


def _uncropped(fields: FileContents) -> bool:
    """Whether frames still have to be cropped; those of electrons are, about their bright-field disc."""
    return fields.frames is not None and fields.frames.shape[1] != fields.frames.shape[2] and not fields.electrons


def _verdict_of_part(path: Path, fields: FileContents, reading: Reading) -> str:
    parts = _parts(path, fields, reading)
    missing = parts["missing"]
    whole = fields.frames is None or fields.positions is None
    what = "part of a scan" if whole else "a scan of a detector that is not cropped yet"
    return f"{what}; missing: {'; '.join(missing)}. {parts['next']}" if missing else what


def _contents(path: Path, limit: int, shape: str | None) -> Result:
    """What a file looks like and its arrays, as far as it can be opened at all."""
    from ptycho_ray.data.formats import find_format
    from ptycho_ray.data.likeness import arrays_of, looks_like
    from ptycho_ray.data.opening import opened

    try:
        with opened(path, limit, shape) as content:
            arrays = sorted(arrays_of(content), key=lambda array: -math.prod(array.shape))
            try:
                form = find_format(content)
                known = {"format": f"{form.name} ({form.title})"} if not form.name.startswith("ptychopinn") else {}
            except InputError:
                known = {}
            return (known or {"looks_like": looks_like(content)}) | {
                "largest_arrays": [{"name": a.name, "shape": list(a.shape)} for a in arrays[:12] if a.shape],
            }
    except InputError:
        return {}


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


def _dose(positions: Any, total: float, diameter: float) -> float | None:
    """All that was detected, spread over the scanned field and a margin of half a probe."""
    import numpy as np

    area = float(np.prod(np.ptp(positions, axis=0) + diameter))
    return total / area if area > 0 else None


def _parts(path: Path, fields: FileContents, reading: Reading) -> dict[str, Any]:
    """Contents of one of several files, or of a detector that is not cropped yet, and the command that takes it further."""
    from ptycho_ray.data.contents import with_patterns

    frames, positions = fields.frames, fields.positions
    given = reading.words()
    missing, words = [], [shlex.join(given)] if given else []
    if frames is None:
        missing.append("patterns, in another file")
    elif _uncropped(fields):
        missing.append("square patterns, cropped around the beam")
    if positions is None and fields.raster is not None:
        missing.append("the step of the raster, a length or object pixels (--step 2.5px)")
        words.append("--step 0.5nm")
    elif positions is None and frames is not None:
        side = math.isqrt(frames.shape[0])
        raster = f"{side}x{side}" if side * side == frames.shape[0] else "ROWSxCOLUMNS"
        missing.append("positions, of a raster or in a file (--positions FILE)")
        words.append(f"--raster {raster} --step 0.5nm")
    further = with_patterns(path) if frames is None else to_type(path, *words)
    if _uncropped(fields):
        further = to_type(path, "scan.h5", *words, program="prepare")
    return {
        "frames": None if frames is None else list(frames.shape),
        "positions": None if positions is None else len(positions),
        "probe": None if fields.probe is None else list(fields.probe.shape),
        "object": None if fields.object_truth is None else list(fields.object_truth.shape),
        "energy_eV": fields.energy_eV,
        "detector_distance_m": fields.detector_distance_m,
        "detector_pixel_m": fields.detector_pixel_m,
        "object_pixel_m": fields.pixel_size_m,
        "electrons": fields.electrons,
        "raster": fields.raster,
        "beam_centre_px": fields.beam_centre_px,
        "missing": missing,
        "next": further,
        "notes": _notes(path, fields.notes),
    }


def _architectures(n: int, gridsize: int) -> Result:
    from ptycho_ray.config import ModelConfig
    from ptycho_ray.models.registry import ARCHITECTURES

    configs = [ModelConfig(N=n, gridsize=gridsize, architecture=name) for name in ARCHITECTURES]  # type: ignore[arg-type]
    return {"N": n, "gridsize": gridsize, "architectures": [_cost(config) for config in configs]}


def _cost(config: ModelConfig) -> Result:
    """Parameters, and operations for one group of patterns."""
    from ptycho_ray.models.cost import network_cost

    return {"architecture": config.architecture, **asdict(network_cost(config))}
