"""What ``ptycho-ray reconstruct SCAN`` does if no model is named: the automatic reconstruction, its files and its report."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptycho_ray import __version__
from ptycho_ray.commands.common import ProductOptions, Result
from ptycho_ray.files import jsonable, write_json

if TYPE_CHECKING:
    from ptycho_ray.automatic.reconstruct import Plan


def reconstruct_automatically(
    scan_file: Path, folder: Path, *, seed: int, only_plan: bool, product: ProductOptions
) -> Result:
    """Reconstruct a scan without a setting, and write image, scan as refined, report and figures into ``folder``."""
    from ptycho_ray import workflow
    from ptycho_ray.display.figures import plot_object, plot_positions
    from ptycho_ray.display.progress import RefinementProgress
    from ptycho_ray.display.report import Section, provenance, write_report
    from ptycho_ray.refinement.explained_image import REFINED_SCAN

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    scan = workflow.load_data(scan_file, reading=product.reading)
    if only_plan:
        plan = workflow.plan_reconstruction(scan, seed=seed, tell=tell)
        return {"plan": plan.lines, "trials": trial_rows(plan), "seconds": plan.seconds}
    with contextlib.closing(RefinementProgress()) as progress:
        made = workflow.reconstruct_scan(scan, seed=seed, tell=tell, on_progress=progress)
    image, found = made.refinement.stitched, made.refinement
    trials = trial_rows(made.plan)
    image.save(folder / "reconstruction.npz")
    refined = made.scan.at(found.positions_px, found.probe)
    refined.to_file(folder / REFINED_SCAN)
    origin = provenance(seed=seed, data_files=[scan_file])
    origin |= {"settings": dataclasses.asdict(made.config)}
    result: Result = {
        "verdict": made.verdict.sentence,
        "trusted": made.verdict.trusted,
        "image": folder / "reconstruction.npz",
        "refined_scan": folder / REFINED_SCAN,
        "report": folder / "report.html",
        "patterns": len(made.scan),
        "frames_left_out": made.plan.examined.left_out.tolist(),
        "shape": list(image.image.shape),
        "origin_px": list(image.origin_px),
        "pixel_size_m": scan.pixel_size_m,
        "figures": made.verdict.to_dict(),
        "plan": made.plan.lines,
        "seconds": {"plan": made.plan.seconds, "solution": made.seconds},
    }
    if product.product is not None:
        remark = f"Reconstructed by ptycho_ray {__version__}."
        result["product"] = product.write_product(refined, image.image, image.origin_px, remark)
    write_report(
        result["report"],
        title=f"Reconstruction of {scan_file}",
        sections=[
            Section("Image", text=made.verdict.sentence, pictures=[("Amplitude and phase.", plot_object(
                image.image, region=image.covered(), pixel_size_m=scan.pixel_size_m))]),
            Section("What was found and decided", facts={str(k + 1): line for k, line in enumerate(made.plan.lines)}),
            Section("Trials", rows=trials, folded=True),
            Section("Probe and positions", pictures=[
                ("The brightest probe mode.", plot_object(found.probe[0])),
                ("Positions.", plot_positions(found.positions_px, pixel_size_m=scan.pixel_size_m)),
            ]),
            Section("Provenance", facts=origin, folded=True),
        ],
    )  # fmt: skip
    write_json(folder / "result.json", jsonable({**result, "trials": trials, "provenance": origin}))
    return result


def trial_rows(plan: Plan) -> list[dict[str, Any]]:
    """The table of trials."""
    rows = []
    for trial in plan.part.trials:
        figures = trial.figures
        rows.append(
            {
                "assumption": trial.assumption.name,
                "r_factor": None if figures is None else round(figures.r_factor, 4),
                "times_noise": round(figures.times_noise, 3)
                if figures is not None and figures.noise_is_known
                else None,
                "seconds": round(trial.seconds, 2),
            }
        )
    return rows
