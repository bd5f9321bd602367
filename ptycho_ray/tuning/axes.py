"""The scan axes that a sweep begins with, where its space asks for them (``orient: true``)."""

from __future__ import annotations

import numpy as np

from ptycho_ray.data import RawData
from ptycho_ray.refinement.orientation import Orientation, find_orientation

#: Patterns by which the axes are judged: more than ``ptycho-ray orient`` takes, since scale and angle may be wrong as well.
PATTERNS = 400
STORED = Orientation()


def axes_of(scan: RawData, seed: int) -> tuple[str, str]:
    """The order and signs of the axes as the setting ``position_axes`` has them, and a sentence that says how clear they are.

    What the patterns leave open stays as it is stored.
    """
    verdict = find_orientation(scan, np.random.default_rng(seed), most_patterns=PATTERNS)
    best = verdict.best
    if verdict.undecided == "axes":
        return name_of(STORED), "scan axes: not determined by the patterns; kept as stored"
    doubt = ""
    if verdict.undecided:
        best = STORED if best.turned() == STORED else best
        doubt = ", or that turned by 180 degrees, which the patterns do not tell apart"
    return name_of(best), f"scan axes: {name_of(best)}{doubt} ({verdict.significance:.1f} standard errors)"


def name_of(orientation: Orientation) -> str:
    """The value of ``position_axes``."""
    return orientation.options().replace("--", "").replace("-", "_")
