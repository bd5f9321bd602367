"""Defocus of an electron microscope and the turn of its scan by short trials, where bright-field images do not tell them.

A solution with the wrong defocus explains patterns that took no part hardly better than a flat object; near the right one the
misfit has a narrow minimum, wide about two radians of the aberration function at the edge of the aperture. So the defocus is
tried at such steps on both sides of focus, then the turn, then the defocus again. A thick sample is solved as a thin one here,
whose defocus is that of its middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.automatic.parabola import lowest, misfit
from ptycho_ray.automatic.trials import LEAST_PATTERNS, Assumption, Part, Trial
from ptycho_ray.calibration.deflection import turn_matrix
from ptycho_ray.data.loading import with_mean_photons
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.physics.electron_optics import ElectronOptics

#: Step of the defocus as the phase at the edge of the aperture, in radian, and as a share if that is more; the widest beam as a
#: share of the window.
STEP_RAD, STEP_SHARE, WIDEST = 2.0, 0.12, 0.8
#: Step of the turn in degrees, and iterations of a trial.
TURN_STEP_DEG, SHORT = 18.0, 6
#: Error of the turn, in steps of its last trials, that their scatter does not show: they lie too far apart for a parabola. True
#: turns were missed by 0.02 steps (root mean square of the scans in benchmarks/electrons.py).
OF_PARABOLA = 0.03
#: The best one stands out if it explains more than the one in the middle by so many standard errors: it is the best of many.
STANDS_OUT = 4.0


def with_optics(scan: RawData, now: Assumption, optics: ElectronOptics, name: str) -> Assumption:
    """The assumption with the probe that an electron microscope's optics form, all its modes."""
    assert scan.pixel_size_m is not None
    assert scan.wavelength_m is not None
    modes = optics.modes(scan.N, scan.pixel_size_m, scan.wavelength_m)
    return replace(now, name=name, probe=with_mean_photons(modes, scan.patterns), optics=optics)


def probe_is_of_optics(scan: RawData) -> bool:
    """Whether the probe of a scan is the one that its optics form, and not one that the file brought along."""
    assert scan.optics is not None
    made = with_optics(scan, Assumption("", scan.probe), scan.optics, "").probe
    if made.shape != scan.probe.shape:
        return False
    overlap = abs(np.vdot(made, scan.probe)) / (np.linalg.norm(made) * np.linalg.norm(scan.probe))
    return bool(overlap > 0.999)


def defoci_m(scan: RawData, optics: ElectronOptics) -> NDArray[np.float64]:
    """The defoci that are tried, in metres, ascending, on both sides of focus."""
    assert scan.pixel_size_m is not None
    assert scan.wavelength_m is not None
    step = STEP_RAD * scan.wavelength_m / (np.pi * optics.semiangle_rad**2)
    most = WIDEST * scan.N * scan.pixel_size_m / (2 * optics.semiangle_rad)
    made = [0.0]
    while made[-1] < most:
        made.append(made[-1] + max(step, STEP_SHARE * made[-1]))
    side = np.array(made[1:-1] or made[1:])
    return np.concatenate([-side[::-1], [0.0], side])


def lens_by_trials(
    whole: Part, first: Assumption, matrices: Sequence[NDArray[np.float64]], tell: Callable[[str], None]
) -> Assumption | None:
    """The defocus and the turn of the scan that explain most; None if no defocus stands out.

    Args:
        whole: the part of the other trials; these are made on fewer patterns, into the same table.
        matrices: maps of the positions that may be right, the one of the file first.
    """
    scan = whole.whole
    assert scan.optics is not None
    part = Part(
        scan, whole.seed, most=LEAST_PATTERNS, photons_per_unit=whole.photons_per_unit, budget_s=whole.budget_s,
        trials=whole.trials,
    )  # fmt: skip
    begun = len(part.trials)
    swept = [_focused(part, replace(first, matrix=matrix)) for matrix in matrices]
    best = min(swept, key=misfit)
    turned = _turned(part, best)
    if turned is not best:
        best = min((_focused(part, turned.assumption), turned), key=misfit)
    ordered = sorted(part.trials[begun:], key=misfit)
    found, error_deg = None, np.nan
    if best.gain_over(ordered[len(ordered) // 2]).significance > STANDS_OUT:
        found, error_deg = _turned_finely(whole, best.assumption)
    tried = part.trials[begun:]
    whole.allowed += sum(trial.work for trial in tried)
    if found is None:
        tell(f"no defocus explains clearly more than others, by {len(tried)} short trials")
        return None
    assert found.optics is not None
    angle = f"{_angle_deg(found.matrix):.1f} +- {error_deg:.1f} degrees"
    name = (
        f"defocus {1e9 * (found.optics.defocus_m or 0.0):.3g} nm, scan turned by {angle}, by {len(tried)} short trials"
    )
    return replace(found, name=name)


def _focused(part: Part, now: Assumption) -> Trial:
    """The defocus that explains most under the turn of an assumption."""
    assert part.whole.optics is not None
    optics = now.optics or part.whole.optics
    made = []
    for defocus_m in defoci_m(part.whole, optics):
        tried = replace(optics, defocus_m=float(defocus_m))
        assumption = with_optics(part.whole, now, tried, f"defocus {1e9 * defocus_m:.3g} nm")
        made.append(part.run(assumption, SHORT))
    return min(made, key=misfit)


def _turned(part: Part, best: Trial) -> Trial:
    """The turn that explains most under the defocus of a trial, and of either handedness."""
    begun = best
    for mirrored in (False, True):
        for degrees in np.arange(-180.0, 180.0, TURN_STEP_DEG):
            if not mirrored and degrees == 0:
                continue
            matrix = turn_matrix(float(np.deg2rad(degrees)), mirrored) @ begun.assumption.matrix
            trial = part.run(replace(begun.assumption, name=f"turned by {degrees:.0f} degrees", matrix=matrix), SHORT)
            if misfit(trial) < misfit(best):
                best = trial
    return best


def _turned_finely(part: Part, now: Assumption) -> tuple[Assumption, float]:
    """The assumption with the turn at the lowest point of the parabola through three, and its standard error in degrees."""

    def at(degrees: float) -> Trial:
        return part.run(replace(now, matrix=turn_matrix(float(np.deg2rad(degrees)), False) @ now.matrix))

    step = TURN_STEP_DEG / 3
    found = lowest(lambda place: at(step * place), 2)
    return replace(found.trial.assumption, probe=now.probe), step * math.hypot(found.error, OF_PARABOLA)


def _angle_deg(matrix: NDArray[np.float64]) -> float:
    return float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))
