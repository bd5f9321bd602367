"""Pictures of an ensemble: the standard deviation at each pixel, and its calibration against the errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ptycho_ray.display.figures import crop_to_region, empty_figure, plain_image_axis, scale_bar
from ptycho_ray.evaluation.calibration import Calibration

COLOURS = "magma"


def plot_deviation(
    amplitude_std: NDArray[Any],
    phase_std: NDArray[Any],
    *,
    region: NDArray[np.bool_],
    pixel_size_m: float | None = None,
) -> Figure:
    """Standard deviation of amplitude and phase over the members, [H, W] each, where ``region`` says so."""
    figure = empty_figure(10, 4.6)
    titles = ("standard deviation of the amplitude", "standard deviation of the phase / rad")
    for axis, title, values in zip(figure.subplots(1, 2), titles, (amplitude_std, phase_std), strict=True):
        shown = crop_to_region(values, region)
        plain_image_axis(axis)
        largest = float(np.percentile(shown.compressed(), 99.5)) if shown.count() else 1.0
        picture = axis.imshow(shown, cmap=COLOURS, vmin=0, vmax=largest or 1.0, interpolation="nearest")
        scale_bar(axis, shown.shape[1], pixel_size_m)
        axis.set_title(title, fontsize=11)
        figure.colorbar(picture, ax=axis, shrink=0.9, pad=0.02)
    return figure


def plot_calibration(curves: Mapping[str, Calibration]) -> Figure:
    """Fraction of the pixels within z standard deviations against the fraction of a normal distribution."""
    figure = empty_figure(5.6, 5.0)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle=":", label="calibrated")
    for name, curve in curves.items():
        axis.plot(curve.expected, curve.observed, marker="o", markersize=3, label=name)
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.set_xlabel("expected fraction within z standard deviations")
    axis.set_ylabel("observed fraction of the pixels")
    axis.legend(frameon=False)
    axis.grid(alpha=0.25)
    return figure
