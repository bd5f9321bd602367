"""Pictures of several images of one sample."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from ptycho_ray.display.figures import plot_frc, plot_objects
from ptycho_ray.evaluation import Evaluation


def plot_comparison(found: Mapping[str, Evaluation], name: str) -> Figure:
    """The reference (what of it the first image shows) and all images, aligned, on common colour scales."""
    first = next(iter(found.values()))
    shown = {name: np.where(first.mask, first.truth, np.nan)}
    for label, each in found.items():
        shown[label] = np.where(each.mask, each.aligned, np.nan)
    return plot_objects(shown, aligned=True)


def plot_ring_correlations(found: Mapping[str, Evaluation]) -> Figure:
    """The ring correlation of each complex image with the reference."""
    frequencies = next(iter(found.values())).frc.frequency
    curves = {name: np.interp(frequencies, of.frc.frequency, of.frc.correlation) for name, of in found.items()}
    return plot_frc(frequencies, curves)
