"""``ptycho-ray calibrate``."""

from __future__ import annotations

import dataclasses
import math
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ptycho_ray.commands.common import FOLDER, SCAN, ReadingOptions, Result, tell
from ptycho_ray.commands.output import WritingOptions, file_to_write
from ptycho_ray.config.command_line import parse
from ptycho_ray.config.reading import Reading

if TYPE_CHECKING:
    from ptycho_ray.calibration.microscope import Calibration

WRITTEN = "calibration.json"


@dataclass(kw_only=True)
class Options(ReadingOptions, WritingOptions):
    """Determine the rotation and handedness of a scan of electrons, the defocus and the astigmatism, from its patterns.

    Each value has its standard error, or is undecided, with the figures. It needs voltage and semi-angle, takes seconds, and
    finds any angle; the automatic reconstruction asks the same by itself. For photons, and where the scan axes of a known probe
    are in doubt, 'ptycho-ray orient' tries the eight orders and signs of the axes by solving for the object.

    Example: ptycho-ray calibrate scan.h5 --voltage-kV 300 --semiangle-mrad 21.4 --raster 64x64 --step 0.4angstrom
    """

    file: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan."""
    output_dir: Annotated[Path | None, FOLDER] = None
    """Also write the values to calibration.json in this folder."""
    trials: bool = False
    """Also solve a part of the scan with several values of the defocus, and with the scan larger, smaller, turned, stretched
    and sheared: that tells its step and its drift (a minute or more)."""
    seed: int = 0
    """Seed of these trials."""


def run(words: Sequence[str]) -> Result:
    options = parse(Options, words, prog="ptycho-ray calibrate").options
    from ptycho_ray.automatic.electrons import calibrated_by_trials
    from ptycho_ray.calibration.microscope import calibrate_scan
    from ptycho_ray.data import load_data
    from ptycho_ray.files import jsonable, write_json

    path = None if options.output_dir is None else options.output_dir / WRITTEN
    if path is not None:
        file_to_write(path, overwrite=options.overwrite, field="output_dir")
    scan = load_data(options.file, reading=options.reading)
    found = calibrate_scan(scan)
    trials: list[dict[str, str]] = []
    if options.trials:
        found, trials = calibrated_by_trials(scan, found, options.seed, tell)
    result: Result = {
        "file": options.file,
        "calibration": [dataclasses.asdict(finding) for finding in found.findings],
        "matrix": found.matrix,
        "trials": trials,
    }
    reading = as_read(options.reading, found)
    result["reading"] = reading.chosen()
    result["next"] = shlex.join(["ptycho-ray", "reconstruct", str(options.file), *reading.words()])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, jsonable(result))
        result["written"] = path
    return result


def as_read(reading: Reading, found: Calibration) -> Reading:
    """How the file is to be read so that what was decided is right: a mirrored scan is one whose frames have rows and columns
    exchanged."""
    import numpy as np

    from ptycho_ray.data.placing import read_step

    changes: dict[str, Any] = {}
    matrix = found.matrix
    if found["mirrored"].answer == "differs from the file":
        matrix = matrix[::-1]
        changes["transpose"] = not reading.transpose
    if found["rotation"].answer == "differs from the file" or "transpose" in changes:
        turn = float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))
        changes["rotation"] = round((reading.rotation + turn + 180) % 360 - 180, 2)
    if found["defocus"].answer in ("differs from the file", "not in the file"):
        changes["defocus_nm"] = float(f"{found['defocus'].found:.4g}")
    step = found["step"]
    if step.answer == "differs from the file" and step.found is not None and step.in_file and reading.step:
        lengths, pixels = read_step(reading.step)
        factor = step.found / step.in_file
        changes["step"] = "x".join(f"{length * factor:.4g}{'px' if pixels else 'm'}" for length in lengths)
    exchanged, known = "transpose" in changes, found.optics.aberrations
    if found["C12"].answer == "differs from the file" or (exchanged and known):
        changes["aberrations"] = _aberrations(known, exchanged)
    return reading.with_changes(changes)


def _aberrations(known: Mapping[str, tuple[float, float]], exchanged: bool) -> str:
    """As ``--aberrations`` reads them, to four digits, and for frames with exchanged rows and columns."""
    named = []
    for name, (length, azimuth) in known.items():
        turn = "" if name.endswith("0") else f"@{math.degrees(math.pi / 2 - azimuth if exchanged else azimuth):.4g}deg"
        named.append(f"{name}={length * 1e9:.4g}nm{turn}")
    return ",".join(named) or "C12=0nm"


def as_text(result: Mapping[str, Any]) -> Iterator[str]:
    """Each value with its answer, and below it why."""
    for row in result["calibration"]:
        yield f"{row['name']:9} {_value(row):28} {row['answer']}".rstrip()
        yield from textwrap.wrap(row["why"], 118, initial_indent=" " * 10, subsequent_indent=" " * 10)
    for row in result["trials"]:
        yield f"  trial: {row['assumption']}: {row['gain']}"
    if "written" in result:
        yield f"written   {result['written']}"
    yield f"next      {result['next']}"


def _value(row: Mapping[str, Any]) -> str:
    if row["found"] is None:
        return "-" if row["in_file"] is None else f"({row['in_file']:.4g} {row['unit']})"
    if row["name"] == "mirrored":
        return "yes" if row["found"] else "no"
    if row["error"] is None:
        return f"{row['found']:.4g} {row['unit']}"
    digits = max(0, 1 - int(f"{max(row['error'], 1e-9):e}".split("e")[1]))
    return f"{row['found']:.{digits}f} +- {row['error']:.{digits}f} {row['unit']}"
