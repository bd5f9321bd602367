"""Whether the sample of an electron microscope is thicker than one slice: by trials, the thinnest first. Each finds its tilt.

A thin object explains what a thick one diffracts but for the spread of the beam inside it. That spread, ``wavelength *
thickness / pixel size**2``, says which thicknesses differ from none and how many slices one needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from ptycho_ray.automatic.parabola import misfit, vertex_of_judges
from ptycho_ray.automatic.trials import Assumption, Part, Trial
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.physics.optics import fresnel_propagate

#: Thicknesses that are tried, in Angstrom.
TRIED = (50.0, 100.0, 200.0, 400.0)
#: Spread in px2 below which a thickness does not show, and that which one slice may stand for; the most slices.
LEAST_PX2, A_SLICE_PX2, MOST_SLICES = 0.7, 3.0, 8
#: Prior along the beam, in slices: without it slices that lean explain as much as a tilt.
DEPTH_SMOOTHING = 1.0
#: Iteration from which a trial's slices tell the tilt.
TILT_FROM = 5
#: The thickness is told finer by trials this factor to either side.
FINER = 2**0.5
#: Settings that answer these questions.
TILTS = ("tilt_row_mrad", "tilt_column_mrad")
DECIDED = ("slices", "thickness_angstrom", "slice_distance_px2", *TILTS, "tilt_start", "method")


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
    best = _tilted(replace(best, assumption=replace(best.assumption, name=named)))
    tell(f"{best.assumption.name}: {best.gain_over(thin)}")
    return best


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
    settings = {
        "slices": slices, "thickness_angstrom": thickness_angstrom, "depth_smoothing_slices": DEPTH_SMOOTHING,
        "tilt_start": TILT_FROM,
    }  # fmt: skip
    probe = fresnel_propagate(thin.probe, -spread / 2).astype(np.complex64)
    name = f"{slices} slices of together {thickness_angstrom:.3g} Angstrom"
    optics = thin.assumption.optics
    if optics is not None:
        optics = replace(optics, defocus_m=(optics.defocus_m or 0.0) + thickness_angstrom * 1e-10 / 2)
    return replace(thin.assumption, name=name, probe=probe, optics=optics, settings=thin.assumption.settings | settings)


def _tilted(best: Trial) -> Trial:
    """The trial, whose assumption begins with the tilt that it found."""
    slab = best.slab
    assert slab is not None
    assert slab.tilt_mrad is not None
    assert slab.tilt_error_mrad is not None
    settings = best.assumption.settings | dict(zip(TILTS, slab.tilt_mrad, strict=True))
    told = ", ".join(
        f"{tilt:.1f} +- {error:.1f}" for tilt, error in zip(slab.tilt_mrad, slab.tilt_error_mrad, strict=True)
    )
    name = f"{best.assumption.name}, tilt of ({told}) mrad"
    return replace(best, assumption=replace(best.assumption, name=name, settings=settings))
