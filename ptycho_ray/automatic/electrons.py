"""What an electron microscope's patterns tell before the trials, and the trials of its defocus."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ptycho_ray.automatic.lens import lens_by_trials, probe_is_of_optics, with_optics
from ptycho_ray.automatic.parabola import vertex_of_judges
from ptycho_ray.automatic.scan_map import ScanMap, scan_map
from ptycho_ray.automatic.trials import Assumption, Part, Trial
from ptycho_ray.calibration.microscope import Calibration, Finding, calibrate_scan
from ptycho_ray.calibration.parallax import DECIDES
from ptycho_ray.data.inspection import photons_per_unit
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.refinement.config import FEW_PHOTONS

#: The defocus is tried at these shares more and less.
STEP = 0.15


def calibrated_probes(part: Part, first: list[Assumption], tell: Callable[[str], None]) -> list[Assumption]:
    """``first``, and behind them what is found of turn and defocus of a scan of electrons, by the bright-field images, or by
    short trials if these do not tell; longer trials decide between them."""
    scan = part.whole
    if not scan.electrons or scan.optics is None or not scan.pixel_size_m or not scan.wavelength_m:
        return first
    if probe_is_of_optics(scan):
        first = [replace(each, optics=scan.optics) for each in first]
        if _few_electrons(part):
            first = [replace(each, settings={"probe_start": None} | each.settings) for each in first]
    candidates, matrices = list(first), [first[0].matrix]
    try:
        found = calibrate_scan(scan)
    except InputError:  # too few patterns, or no disc
        pass
    else:
        if found.parallax.decided:
            return [*first, assumption_of(scan, found, first[0].settings)]
        tell(f"bright-field images do not tell the defocus: {found['defocus'].why}")
        lens = found.parallax.lens  # often right all the same: trials decide
        optics = replace(scan.optics, defocus_m=-lens.c10_px2 * scan.pixel_size_m**2 / scan.wavelength_m)
        name = (
            f"scan turned by {np.degrees(lens.angle_rad):.1f} degrees, defocus {1e9 * (optics.defocus_m or 0):.4g} nm, "
        )
        likely = replace(first[0], matrix=lens.matrix)
        candidates.append(with_optics(scan, likely, optics, name + "the likeliest by bright-field images"))
        if found["rotation"].answer == "differs from the file":
            name = f"scan turned by {found['rotation'].found:.1f} degrees, by the curl of the deflections"
            candidates.append(replace(first[0], name=name, matrix=found.matrix))
            matrices.append(found.matrix)
    by_trials = lens_by_trials(part, first[0], matrices, tell)
    return candidates if by_trials is None else [*candidates, by_trials]


def _few_electrons(part: Part) -> bool:
    """Whether a detector pixel has less than one on average: a probe that is refined then fits their noise, and no lens is told
    from another (docs/experiments.md)."""
    if part.photons_per_unit is None:
        return False
    return float(part.whole.pattern_energies().mean()) * part.photons_per_unit < FEW_PHOTONS * part.whole.N**2


def assumption_of(scan: RawData, found: Calibration, settings: dict[str, object]) -> Assumption:
    """What a calibration says, as the assumption of a trial."""
    name = f"scan turned by {found['rotation'].found:.1f} degrees" + (" and mirrored" if found.lens.mirrored else "")
    name += f", defocus {found['defocus'].found:.4g} nm, by bright-field images"
    return Assumption(name, found.probe(scan), dict(settings), found.matrix, found.optics)


def refocused(scan: RawData, now: Assumption, share: float) -> Assumption:
    """The assumption with a defocus larger by a share."""
    assert now.optics is not None
    defocus_m = (now.optics.defocus_m or 0.0) * (1 + share)
    return with_optics(scan, now, replace(now.optics, defocus_m=defocus_m), f"defocus {defocus_m * 1e9:.4g} nm")


def defocus_by_trials(part: Part, best: Trial, tell: Callable[[str], None]) -> Trial:
    """The trial with the defocus that explains most: a little more, a little less, and where the parabola through the three has
    its lowest point."""
    begun = best
    if begun.assumption.optics is None or not begun.assumption.optics.defocus_m:
        return begun
    sides = [part.run(refocused(part.whole, begun.assumption, sign * STEP)) for sign in (-1, 1)]
    away, _ = vertex_of_judges(sides[0], begun, sides[1])
    if np.isfinite(away) and 0.1 < abs(away) < 2:
        sides.append(part.run(refocused(part.whole, begun.assumption, STEP * away)))
    for trial in sides:
        if trial.beats(best, as_simple=True):
            best = trial
    if best is not begun:
        tell(f"{best.assumption.name} to begin with: {best.gain_over(begun)}")
    return best


def calibrated_by_trials(
    scan: RawData, found: Calibration, seed: int, tell: Callable[[str], None]
) -> tuple[Calibration, list[dict[str, str]]]:
    """What solutions of a part of a scan say about a calibration: against the scan as its file has it, with other defocus, and
    with the scan larger, smaller, turned, stretched and sheared.

    Returns:
        the calibration with the step of the scan and its drift, and one row for each question about the lens, with the gain and
        its standard errors.
    """
    part = Part(scan, seed, photons_per_unit=photons_per_unit(scan))
    rows: list[dict[str, str]] = []

    def row(assumption: str, gain: object) -> None:
        rows.append({"assumption": assumption, "gain": str(gain)})
        tell(f"{assumption}: {gain}")

    best = part.run(Assumption("as in the file", scan.probe))
    if found.parallax.decided:
        trial = part.run(assumption_of(scan, found, {}))
        row(trial.assumption.name, f"against the file {trial.gain_over(best)}")
        best = defocus_by_trials(part, trial, lambda line: None)
        for other in part.trials[2:]:
            row(other.assumption.name, f"against the value above {other.gain_over(trial)}")
    mapped = scan_map(part, part.larger(), best, thoroughly=True)
    row(*("scan as it is", "no other explains clearly more") if mapped.trial is None else
        (mapped.trial.assumption.name, mapped.gain))  # fmt: skip
    return replace(found, findings=tuple(_with_map(found, mapped))), rows


def _with_map(found: Calibration, mapped: ScanMap) -> Iterator[Finding]:
    """The findings with the step that solutions tell, and behind them the drift."""
    yield from (each for each in found.findings if each.name != "step")
    step = found["step"].in_file
    assert step is not None
    units = {"scale": ("step", step, "angstrom"), "turn": ("turn", math.degrees(1), "deg"),
             "stretch": ("stretch", 200.0, "%"), "shear": ("shear", math.degrees(2), "deg")}  # fmt: skip
    for direction, (name, factor, unit) in units.items():
        value, error = mapped.values[direction]
        in_file = step if name == "step" else 0.0
        found_here = step * math.exp(value) if name == "step" else factor * value
        yield _of_map(name, found_here, factor * error, unit, in_file)


#: What a finding about the map of the scan says.
MEANING = {
    "step": "by solutions with a larger and a smaller step",
    "turn": "beyond the rotation above, by solutions",
    "stretch": "rows longer than columns, by solutions: a slow drift along the slow axis does it",
    "shear": "of the angle between the axes, by solutions: a slow drift along the fast axis does it",
}


def _of_map(name: str, value: float, error: float, unit: str, in_file: float) -> Finding:
    if not np.isfinite(error):
        return Finding(name, None, None, unit, in_file, "undecided", "solutions on both sides explain no less")
    same = abs(value - in_file) < DECIDES * error
    return Finding(
        name, value, error, unit, in_file, "as in the file" if same else "differs from the file", MEANING[name]
    )
