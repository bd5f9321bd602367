"""What an automatic reconstruction leaves behind, wherever it was called from: its files, its facts and its report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_ray.data.raw_data import write_refined
from ptycho_ray.display.prior_report import prior_facts, save_prior
from ptycho_ray.display.report import Section, write_report
from ptycho_ray.files import jsonable, write_json

if TYPE_CHECKING:
    from ptycho_ray.automatic.reconstruct import Automatic, Plan

IMAGE, REPORT, RESULT = "reconstruction.npz", "report.html", "result.json"


def save_automatic(
    made: Automatic, folder: Path, source: str, origin: Mapping[str, Any], more: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Write image, scan as refined, report and ``result.json`` into ``folder``.

    Args:
        source: how the report calls the scan.
        origin: what is needed to reproduce it (:func:`ptycho_ray.display.report.provenance`); the settings are added.
        more: further entries of the result.

    Returns:
        The facts of :func:`automatic_facts` with the paths of the files; ``result.json`` has also trials and provenance.
    """
    from ptycho_ray.display.depth import save_depth

    made.refinement.stitched.save(folder / IMAGE, made.scan.pixel_size_m)
    refined = write_refined(made.refined_scan, folder)
    origin = {**origin, "settings": dataclasses.asdict(made.config)}
    files = {"image": folder / IMAGE, "refined_scan": refined, "report": folder / REPORT}
    of_slices, depth = save_depth(made.refinement, folder, made.scan.pixel_size_m)
    of_prior, prior = save_prior(made.refinement, folder, made.scan.pixel_size_m, made.error_bars)
    files |= of_slices | of_prior
    result = files | automatic_facts(made) | dict(more or {})
    trials = trial_rows(made.plan)
    write_report(files["report"], title=f"Reconstruction of {source}", sections=[
        *_sections(made, trials, [*depth, *prior]), Section("Provenance", facts=origin, folded=True)
    ])  # fmt: skip
    write_json(folder / RESULT, jsonable({**result, "trials": trials, "provenance": origin}))
    return result


def automatic_facts(made: Automatic) -> dict[str, Any]:
    """Verdict and figures, what was decided, and what it took."""
    from ptycho_ray.display.uncertainty_report import error_bars_facts

    image = made.refinement.stitched
    facts: dict[str, Any] = {
        "verdict": made.verdict.sentence,
        "trusted": made.verdict.trusted,
        "findings": list(made.verdict.findings),
        "patterns": len(made.scan),
        "frames_left_out": made.plan.examined.left_out.tolist(),
        "shape": list(image.image.shape),
        "origin_px": list(image.origin_px),
        "pixel_size_m": made.scan.pixel_size_m,
        "figures": made.verdict.figures(),
        "plan": made.plan.lines,
        "settings": made.plan.settings,
        "seconds": {"plan": made.plan.seconds, "solution": made.seconds},
        **prior_facts(made.refinement),
    }
    return facts if made.error_bars is None else facts | {"uncertainty": error_bars_facts(made.error_bars)}


def trial_rows(plan: Plan) -> list[dict[str, Any]]:
    """The table of trials, each with the reason for which it was chosen, if it was."""
    reasons = dict(line.split(": ", 1) for line in plan.choice.decisions)
    rows = []
    for trial in plan.trials:
        figures, name = trial.figures, trial.assumption.name
        known = figures is not None and figures.noise_is_known
        chosen = next((what for what in reasons if what.startswith(name)), None)
        rows.append(
            {
                "assumption": name,
                "r_factor": None if figures is None else round(figures.r_factor, 4),
                "times_noise": round(figures.times_noise, 3) if figures is not None and known else None,
                "seconds": round(trial.seconds, 2),
                "chosen": None if chosen is None else reasons.pop(chosen),
            }
        )
    return rows


def _sections(made: Automatic, trials: list[dict[str, Any]], special: list[Section]) -> list[Section]:
    from ptycho_ray.display.figures import plot_object
    from ptycho_ray.display.scan_section import scan_section
    from ptycho_ray.display.uncertainty_report import error_bars_section

    image, found, pixel = made.refinement.stitched, made.refinement, made.scan.pixel_size_m
    picture = plot_object(image.image, region=image.covered(), pixel_size_m=pixel)
    bars = [] if made.error_bars is None else [error_bars_section(made.error_bars, pixel)]
    look = []
    if made.scan.electrons:
        from ptycho_ray.data.first_look import first_look
        from ptycho_ray.display.first_look_figures import plot_first_look

        words = "Mean pattern, virtual images, centre of mass and its integral, of the scan as it was read."
        look = [Section("First look", pictures=[(words, plot_first_look(made.scan, first_look(made.scan)))])]
    return [
        Section("Image", text=made.verdict.sentence, pictures=[("Amplitude and phase.", picture)]),
        *special,
        *bars,
        Section("What was found and decided", facts={str(k + 1): line for k, line in enumerate(made.plan.lines)}),
        *look,
        Section("Trials", rows=trials, folded=True),
        scan_section(found.probe, found.positions_px, pixel),
    ]
