"""How the commands report the uncertainty of an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_ray.display.figures import save_figure
from ptycho_ray.display.refinement_report import halves_picture
from ptycho_ray.display.report import Section
from ptycho_ray.display.uncertainty_figures import plot_calibration, plot_deviation
from ptycho_ray.evaluation import Calibration, Evaluation, calibration_of

if TYPE_CHECKING:
    from ptycho_ray.reconstruction.images import Image
    from ptycho_ray.reconstruction.stitching import StitchedObject
    from ptycho_ray.refinement.error_bars import ErrorBars

#: What is said of every ensemble; the figures are those of docs/uncertainty.md.
NOT_CALIBRATED = (
    "Not calibrated, a lower bound: errors common to all members do not show. On a scan with a known object, 11 % of the "
    "amplitudes and 36 % of the phases lay within 1.04 deviations of the truth, where 70 % should."
)


def uncertainty_facts(image: StitchedObject, members: int) -> dict[str, Any]:
    """Median and 95th percentile of the standard deviations over the covered pixels."""
    assert image.amplitude_std is not None
    assert image.phase_std is not None
    covered = image.covered()
    facts: dict[str, Any] = {"members": members, "calibrated": False, "remark": NOT_CALIBRATED}
    for name, std in (("amplitude_std", image.amplitude_std), ("phase_std_rad", image.phase_std)):
        middle, high = np.percentile(std[covered], [50, 95])
        facts |= {f"{name}_median": float(middle), f"{name}_95_percent": float(high)}
    return facts


def uncertainty_section(image: StitchedObject, members: int, pixel_size_m: float | None) -> Section:
    """The part of a report on an image of an ensemble."""
    assert image.amplitude_std is not None
    assert image.phase_std is not None
    picture = plot_deviation(image.amplitude_std, image.phase_std, region=image.covered(), pixel_size_m=pixel_size_m)
    return Section(
        "Uncertainty",
        f"Disagreement at each pixel of {members} networks that differ only in their seeds. {NOT_CALIBRATED}",
        facts=uncertainty_facts(image, members),
        pictures=[("", picture)],
    )


def error_bars_facts(bars: ErrorBars) -> dict[str, Any]:
    """The error bars of the solver's image in numbers, with the agreement of two halves of the data if it is known."""
    amplitude, phase = bars.medians
    facts: dict[str, Any] = {
        "sentence": bars.sentence,
        "amplitude_std_median": amplitude,
        "phase_std_rad_median": phase,
        "by_replica_median": list(bars.replica),
        "by_going_on_median": list(bars.going_on),
        "misfit_over_that_of_drawn_patterns": bars.misfit,
    }
    return facts if bars.halves is None else facts | {"half_data": bars.halves.to_dict()}


def error_bars_section(bars: ErrorBars, pixel_size_m: float | None) -> Section:
    """The part of a report on the error bars of the solver's image."""
    picture = plot_deviation(bars.amplitude_std, bars.phase_std, region=bars.covered, pixel_size_m=pixel_size_m)
    return Section(
        "Uncertainty",
        f"Standard deviation at each pixel, from the noise of counting and from what has not converged; {bars.sentence}.",
        facts=error_bars_facts(bars),
        pictures=[("", picture), *([] if bars.halves is None else [halves_picture(bars.halves)])],
    )


def calibration_sections(image: Image, found: Evaluation, result: dict[str, Any], folder: Path) -> list[Section]:
    """Puts the calibration of an ensemble's image into ``result`` and its picture into ``folder``; nothing for the image of
    one network."""
    curves = calibration_curves(image, found)
    if not curves:
        return []
    result["calibration"] = {name: curve.to_dict() for name, curve in curves.items()}
    picture = plot_calibration(curves)
    save_figure(picture, folder / "evaluation_calibration.png")
    rows = [
        {
            "of": name,
            "expected calibration error": curve.expected_calibration_error,
            "deviations are too small by the factor": curve.scale,
            "rank correlation with the error": curve.rank_correlation,
            "median deviation": curve.median_std,
        }
        for name, curve in curves.items()
    ]
    return [Section("Calibration of the uncertainty", rows=rows, pictures=[("", picture)])]


def calibration_curves(image: Image, found: Evaluation) -> dict[str, Calibration]:
    """Calibration of amplitude and phase over the compared pixels, after the alignment with the truth."""
    if image.amplitude_std is None or image.phase_std is None:
        return {}
    aligned, truth, mask = found.aligned, found.truth, found.mask
    amplitude_std = image.amplitude_std * abs(found.ambiguities.scale)
    return {
        "amplitude": calibration_of((np.abs(aligned) - np.abs(truth))[mask], amplitude_std[mask]),
        "phase": calibration_of(np.angle(aligned * truth.conj())[mask], image.phase_std[mask]),
    }
