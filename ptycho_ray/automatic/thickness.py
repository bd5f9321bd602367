"""Whether the sample of an electron microscope is thicker than one slice, and its tilt: by trials, the thinnest first.

A thin object explains what a thick one diffracts but for the spread of the beam inside it. That spread, ``wavelength *
thickness / pixel size**2``, says which thicknesses differ from none and how many slices one needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from ptycho_ray.automatic.scan_map import misfit, vertex_of_judges
from ptycho_ray.automatic.trials import Assumption, Part, Trial
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.physics.optics import fresnel_propagate

#: Thicknesses that are tried, in Angstrom.
TRIED = (50.0, 100.0, 200.0, 400.0)
#: Spread in px2 below which a thickness does not show, and that which one slice may stand for; the most slices.
LEAST_PX2, A_SLICE_PX2, MOST_SLICES = 0.7, 3.0, 8
#: Prior along the beam, in slices: without it slices that lean explain as much as a tilt.
DEPTH_SMOOTHING = 1.0
#: The tilt is sought by steps that shift the last slice by so many pixels and then at the lowest point of the parabola, first
#: by large ones, then by small ones, over which the misfit is one; so many steps to a side at most.
TILT_STEPS_PX, MOST_STEPS = (2.0, 0.6), 4
#: The thickness is told finer by trials this factor to either side.
FINER = 2**0.5
#: Settings that answer these questions.
DECIDED = ("slices", "thickness_angstrom", "slice_distance_px2", "tilt_row_mrad", "tilt_column_mrad", "method")
TILTS = ("tilt_row_mrad", "tilt_column_mrad")


def sliced(part: Part, best: Trial, tell: Callable[[str], None], given: Collection[str] = ()) -> Trial:
    """The best trial with one slice or several, by long trials.

    Args:
        best: a long trial of ``part`` with one slice.
        given: settings that are not decided.
    """
    scan = part.whole
    units = scan.electrons and scan.pixel_size_m and scan.wavelength_m
    if not units or set(DECIDED) & set(given) or best.assumption.settings.get("near_field_px2") is not None:
        return best
    thin = best
    for thickness in TRIED:
        assumption = _thick(scan, thin, thickness)
        if assumption is None or not part.within_budget:
            continue
        trial = part.run_long(assumption)
        if not trial.beats(best, as_simple=best is not thin):
            if best is not thin:
                break
            continue
        best = trial
    if best is thin:
        return best
    best, error = _finer(part, thin, best)
    named = f"{best.assumption.name}{'' if error is None else f' (+- {error:.1g})'}"
    tell(f"{named}: {best.gain_over(thin)}")
    return _tilted(part, best, tell)


def _finer(part: Part, thin: Trial, best: Trial) -> tuple[Trial, float | None]:
    """The trial at the lowest point of the parabola through three thicknesses, and the standard error of that in Angstrom."""
    middle = best.assumption.settings["thickness_angstrom"]
    begun, trials = best, []
    for factor in (1 / FINER, FINER):
        assumption = _thick(part.whole, thin, middle * factor)
        if assumption is None or not part.within_budget:
            return best, None
        trials.append(part.run_long(assumption))
    for trial in trials:
        best = trial if trial.beats(best, as_simple=True) else best
    away, error = vertex_of_judges(trials[0], begun, trials[1])
    if not abs(away) < 2:
        return best, None
    assumption = _thick(part.whole, thin, float(f"{middle * FINER**away:.3g}"))
    if assumption is not None and abs(away) > 0.1:
        trial = part.run_long(assumption)
        best = trial if misfit(trial) < misfit(best) else best
    return best, best.assumption.settings["thickness_angstrom"] * math.log(FINER) * error


def _thick(scan: RawData, thin: Trial, thickness_angstrom: float) -> Assumption | None:
    """The assumption of a thickness; None if it would not show. The thin object lay in the middle, the probe is at the top."""
    assert scan.wavelength_m is not None
    assert scan.pixel_size_m is not None
    spread = scan.wavelength_m * thickness_angstrom * 1e-10 / scan.pixel_size_m**2
    slices = min(max(2, math.ceil(spread / A_SLICE_PX2)), MOST_SLICES)
    if spread < LEAST_PX2 or spread > scan.N * slices / 2:
        return None
    settings = {"slices": slices, "thickness_angstrom": thickness_angstrom, "depth_smoothing_slices": DEPTH_SMOOTHING}
    probe = fresnel_propagate(thin.probe, -spread / 2).astype(np.complex64)
    name = f"{slices} slices of together {thickness_angstrom:.3g} Angstrom"
    optics = thin.assumption.optics
    if optics is not None:
        optics = replace(optics, defocus_m=(optics.defocus_m or 0.0) + thickness_angstrom * 1e-10 / 2)
    return replace(thin.assumption, name=name, probe=probe, optics=optics, settings=thin.assumption.settings | settings)


def _tilted(part: Part, best: Trial, tell: Callable[[str], None]) -> Trial:
    """Along one axis after the other by steps, as long as one is better, then at the lowest point of the parabola."""
    untilted, pixel = best, part.whole.pixel_size_m
    assert pixel is not None
    errors = {}
    for shift_px in TILT_STEPS_PX:
        step = 1e3 * math.atan(shift_px * pixel / (best.assumption.settings["thickness_angstrom"] * 1e-10))
        for name in TILTS:
            best, errors[name] = _along(part, best, name, step)
        if best is untilted:
            return best
    tilt = ", ".join(f"{best.assumption.settings.get(name, 0.0):.1f} +- {errors[name]:.1f}" for name in TILTS)
    best = replace(best, assumption=replace(best.assumption, name=f"tilt of ({tilt}) mrad"))
    tell(f"{best.assumption.name}: {best.gain_over(untilted)}")
    return best


def _along(part: Part, best: Trial, name: str, step: float) -> tuple[Trial, float]:
    """The tilt along an axis that explains most, and its standard error in mrad."""

    def at(tilt: float) -> Trial:
        settings = best.assumption.settings | {name: tilt}
        return part.run_long(replace(best.assumption, name="tilt", settings=settings))

    tilt, here = best.assumption.settings.get(name, 0.0), best
    left, right = at(tilt - step), at(tilt + step)
    for _ in range(MOST_STEPS):
        side = min((left, right), key=misfit)
        if misfit(side) >= misfit(here) or not part.within_budget:
            break
        if side is right:
            tilt, left, here, right = tilt + step, here, right, at(tilt + 2 * step)
        else:
            tilt, left, here, right = tilt - step, at(tilt - 2 * step), left, here
    away, error = vertex_of_judges(left, here, right)
    if 0.05 < abs(away) < 1:
        aside = at(tilt + step * away)
        here = aside if misfit(aside) < misfit(here) else here
    return (here if here.beats(best, as_simple=True) else best), step * error
