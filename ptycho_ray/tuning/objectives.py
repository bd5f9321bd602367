"""By which figures a trial is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Objective:
    """A figure of a trial.

    Attributes:
        mode: whether less or more of it is better.
        text: what it is, for help and reports.
        trials: the kinds of trial that have it.
        needs_truth: only a scan with a known object has it.
        at_end: known only when the trial is over, so nothing can be stopped early by it.
    """

    mode: Literal["min", "max"]
    text: str
    trials: tuple[str, ...] = ("direct", "train")
    needs_truth: bool = False
    at_end: bool = False


OBJECTIVES = {
    "likelihood": Objective(
        "min", "negative log-likelihood a lit pixel of held-out patterns, in the units of the file"
    ),
    "deviance": Objective(
        "min", "Poisson deviance per pixel of held-out patterns; not for a sweep over the photon count"
    ),
    "r_factor": Objective("min", "diffraction R-factor of held-out patterns"),
    "overlap": Objective(
        "min", "disagreement of overlapping patches of different groups, relative", trials=("train",), at_end=True
    ),
    "frc": Objective(
        "max", "mean Fourier ring correlation of two reconstructions from half of the patterns", at_end=True
    ),
    "seconds": Objective("min", "time that the trial took"),
    "ssim": Objective(
        "max", "structural similarity to the truth, mean of amplitude and phase", needs_truth=True, at_end=True
    ),
    "mae": Objective("min", "mean absolute error of the amplitude against the truth", needs_truth=True, at_end=True),
    "frc50": Objective(
        "max",
        "frequency at which the ring correlation with the truth falls below 1/2, cycles per pixel",
        needs_truth=True,
        at_end=True,
    ),
}
