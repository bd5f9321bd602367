"""The report and the results of a refinement."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_ray.display.prior_report import prior_facts
from ptycho_ray.display.report import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptycho_ray.evaluation.frc import RingCorrelation
    from ptycho_ray.refinement.solver import RefinementResult


def refinement_facts(result: RefinementResult) -> dict[str, Any]:
    """How the refinement ended."""
    last = result.history[-1]
    judged = [progress for progress in result.history if progress.r_factor is not None]
    facts: dict[str, Any] = {
        "iterations": last.iteration,
        "stopped": result.stopped,
        "first_loss": result.history[0].loss,
        "last_loss": last.loss,
        "steps_taken_back": last.backoffs,
        "seconds": last.seconds,
    }
    if result.slab is not None:
        facts["slab"] = dataclasses.asdict(result.slab)
    facts |= prior_facts(result)
    if judged:
        facts |= {"held_out_r_factor": judged[-1].r_factor, "held_out_deviance": judged[-1].deviance}
    return facts


def refinement_section(result: RefinementResult, halves: RingCorrelation | None = None) -> Section:
    """Loss and held-out error over the iterations; agreement of the images from two halves of the data."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    losses = [(p.iteration, p.loss) for p in result.history]
    judged = [(p.iteration, p.r_factor) for p in result.history if p.r_factor is not None]
    curves = {"loss a pixel": losses, "R-factor of held-out patterns": judged}
    figure = Figure(figsize=(9, 3), layout="constrained")
    for axis, (name, points) in zip(figure.subplots(1, 2), curves.items(), strict=True):
        if points:
            axis.plot(*np.array(points).T, "o-", markersize=3)
        axis.set(title=name, xlabel="iteration")
        axis.xaxis.get_major_locator().set_params(integer=True)
    left, right = figure.axes
    left.set_yscale("log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter(NullFormatter())
    right.set_ylim(bottom=0)
    facts = refinement_facts(result)
    pictures = [("Error over the iterations.", figure)]
    if halves is not None:
        facts["half_data"] = halves.to_dict()
        pictures.append(halves_picture(halves))
    return Section("Refinement", facts=facts, pictures=pictures)


def halves_picture(halves: RingCorrelation) -> tuple[str, Figure]:
    """The agreement of the images from two halves of the data, with its caption."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(halves.frequency, halves.correlation, label="two halves of the data")
    axes.plot(halves.frequency, halves.half_bit, "--", label="half bit")
    axes.set_xlabel("cycles per pixel")
    axes.set_ylim(-0.1, 1.05)
    axes.legend()
    return "Fourier ring correlation of two refinements, each of half of the patterns.", figure
