"""What a file holds, and what a scan is like, in the words of ``ptycho-ray info``."""

from __future__ import annotations

import math
import shlex
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_ray.config.reading import Reading
from ptycho_ray.data.contents import FileContents, default_max_bytes, with_patterns
from ptycho_ray.data.electron_facts import electron_facts, electron_problems
from ptycho_ray.data.formats import find_format, format_named
from ptycho_ray.data.inspection import describe_scan, suspected_problems
from ptycho_ray.data.likeness import arrays_of, looks_like
from ptycho_ray.data.loading import read_both
from ptycho_ray.data.opening import opened, require_scan
from ptycho_ray.data.overlap import overlap_metrics
from ptycho_ray.data.patterns import WatchedFrames, as_source
from ptycho_ray.data.raw_data import RawData, scan_from_fields
from ptycho_ray.errors import InputError, to_type

Account = dict[str, Any]


def account_of_file(
    path: Path,
    reading: Reading,
    gridsize: int = 1,
    max_bytes: int | None = None,
    on_read: Callable[[], None] | None = None,
) -> tuple[Account, RawData | None]:
    """What a file holds, whatever is wrong with it: what cannot be read is the verdict, no error. Also the scan, if the file
    is a whole one. Arrays that would take more than ``max_bytes`` are not read, as in ``load_data``. ``on_read`` is called
    whenever frames are read, of the scan later on, too, and may raise to end that."""
    head: Account = {"file": require_scan(path)}
    limit, fields = default_max_bytes() if max_bytes is None else max_bytes, None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the notes of the scan say the same
        try:
            fields = read_both(path, reading, limit)
            form = format_named(fields.format)
            head["format"] = f"{form.name} ({form.title})"
            if fields.frames is None or fields.positions is None or _uncropped(fields):
                part = {"kind": "part of a scan", **_parts(path, fields, reading)}
                return {"verdict": _verdict_of_part(path, fields, reading), **head, **part}, None
            if on_read is not None:
                frames = fields.frames
                source = as_source(frames, path, fields.frames_field) if isinstance(frames, np.ndarray) else frames
                fields.frames = WatchedFrames(source, on_read)
            scan = scan_from_fields(fields, path, domain=reading.domain, transpose=reading.transpose)
            account = account_of_scan(scan, gridsize)
        except InputError as error:
            error = error.with_options(path, reading.words())
            notes = {} if fields is None else {"notes": _notes(path, fields.notes)}
            verdict = f"not readable as it is: {error}"
            return {"verdict": verdict, **head, **notes, **_contents(path, limit, reading.shape)}, None
    account["notes"] = _notes(path, scan.notes) or "none"
    return {"verdict": account.pop("verdict"), **head, **account}, scan


def account_of_scan(scan: RawData, gridsize: int = 1) -> Account:
    """What a scan is like: a verdict, suspected problems, geometry, overlap (also within groups of gridsize x gridsize
    patterns), dose, and of electrons the microscope."""
    facts = describe_scan(scan)
    diameter = float(facts["probe_diameter_px"])
    found = [*suspected_problems(scan, diameter), *electron_problems(scan)]
    problems = [asdict(problem) for problem in found]
    overlap = overlap_metrics(scan.positions_px, diameter, gridsize=gridsize) if diameter > 0 else {}
    energies = scan.pattern_energies()
    unit = f"{scan.quantum}s" if scan.counts_are_photons else "units_of_the_file"
    geometry = {
        "energy_eV": scan.energy_eV,
        "detector_distance_m": scan.detector_distance_m,
        "detector_pixel_m": scan.detector_pixel_m,
        "object_pixel_m": scan.pixel_size_m,
        "far_field": scan.far_field,
    }
    return {
        "verdict": _verdict(scan, facts, problems),
        "kind": "scan",
        "notes": list(scan.notes) or "none",
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
        "provenance": None if scan.metadata is None else scan.metadata.get("prepared"),
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


def _contents(path: Path, limit: int, shape: str | None) -> Account:
    """What a file looks like and its arrays, as far as it can be opened at all."""
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


def _dose(positions: Any, total: float, diameter: float) -> float | None:
    """All that was detected, spread over the scanned field and a margin of half a probe."""
    area = float(np.prod(np.ptp(positions, axis=0) + diameter))
    return total / area if area > 0 else None


def _parts(path: Path, fields: FileContents, reading: Reading) -> dict[str, Any]:
    """Contents of one of several files, or of a detector that is not cropped yet, and the command that takes it further."""
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
