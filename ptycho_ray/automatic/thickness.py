"""Whether the sample of an electron microscope is thicker than one slice, and its tilt: by trials, the thinnest first.

A thin object explains what a thick one diffracts but for the spread of the beam inside it. That spread, ``wavelength *
thickness / pixel size**2``, says which thicknesses differ from none and how many slices one needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from ptycho_ray.automatic.trials import Assumption, Part, Trial
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.physics.optics import fresnel_propagate

#: Thicknesses that are tried, in Angstrom.
TRIED = (50.0, 100.0, 200.0, 400.0)
#: Spread in px2 below which a thickness does not show, and that which one slice may stand for; the most slices.
LEAST_PX2, A_SLICE_PX2, MOST_SLICES = 0.7, 3.0, 8
#: Prior along the beam, in slices: without it slices that lean explain as much as a tilt.
DEPTH_SMOOTHING = 1.0
#: The tilt is sought by steps that shift the last slice by so many pixels, then half and a quarter of it.
TILT_STEPS_PX = (2.0, 1.0, 0.5)
#: Trials of the tilt at most.
MOST_TILTS = 24
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
    tell(f"{best.assumption.name}: {best.gain_over(thin)}")
    return _tilted(part, best, tell)


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
    name = f"{slices} slices of together {thickness_angstrom:g} Angstrom"
    return replace(thin.assumption, name=name, probe=probe, settings=thin.assumption.settings | settings)


def _tilted(part: Part, best: Trial, tell: Callable[[str], None]) -> Trial:
    """By steps along both axes, as long as one is better, then by smaller ones."""
    untilted, pixel = best, part.whole.pixel_size_m
    assert pixel is not None
    left = MOST_TILTS
    for shift_px in TILT_STEPS_PX:
        step = 1e3 * math.atan(shift_px * pixel / (best.assumption.settings["thickness_angstrom"] * 1e-10))
        moved = True
        while moved and left > 0 and part.within_budget:
            moved = False
            for name in TILTS:
                for sign in (1, -1):
                    left -= 1
                    settings = best.assumption.settings
                    changed = settings | {name: settings.get(name, 0.0) + sign * step}
                    trial = part.run_long(replace(best.assumption, name="tilt", settings=changed))
                    if trial.beats(best, as_simple=True):
                        best, moved = trial, True
                        break
    if best is untilted:
        return best
    tilt = ", ".join(f"{best.assumption.settings.get(name, 0.0):.1f}" for name in TILTS)
    best = replace(best, assumption=replace(best.assumption, name=f"tilt of ({tilt}) mrad"))
    tell(f"{best.assumption.name}: {best.gain_over(untilted)}")
    return best
