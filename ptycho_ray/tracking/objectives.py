"""The objectives by which trials are judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Objective:
    """An objective.

    Attributes:
        mode: whether lower or higher values are better.
        text: description, for help and reports.
        trials: the kinds of trial that have it.
        needs_truth: it needs a scan with a known object.
        at_end: known only when the trial is over, so it cannot be used for early stopping.
    """

    mode: Literal["min", "max"]
    text: str
    trials: tuple[str, ...] = ("direct", "refine", "train")
    needs_truth: bool = False
    at_end: bool = False


OBJECTIVES = {
    "likelihood": Objective(
        "min", "negative log-likelihood per illuminated pixel of held-out patterns, in the units of the file"
    ),
    "deviance": Objective(
        "min", "Poisson deviance per pixel of held-out patterns; not for a sweep over the photon count"
    ),
    "r_factor": Objective("min", "diffraction R-factor of held-out patterns"),
    "overlap": Objective(
        "min", "relative disagreement of overlapping patches of different groups", trials=("train",), at_end=True
    ),
    "frc": Objective(
        "max",
        "mean Fourier ring correlation of two reconstructions from half of the patterns",
        trials=("direct", "train"),
        at_end=True,
    ),
    "seconds": Objective("min", "computing time of the trial"),
    "ssim": Objective(
        "max", "structural similarity to the ground truth, mean of amplitude and phase", needs_truth=True, at_end=True
    ),
    "mae": Objective(
        "min", "mean absolute error of the amplitude against the ground truth", needs_truth=True, at_end=True
    ),
    "frc50": Objective(
        "max",
        "frequency at which the ring correlation with the ground truth falls below 1/2, cycles per pixel",
        needs_truth=True,
        at_end=True,
    ),
}
