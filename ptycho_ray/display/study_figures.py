"""The picture of a generalisation study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ptycho_ray.display.figures import empty_figure


def plot_study(lines: Sequence[Mapping[str, Any]], figures: Sequence[str], percentiles: Sequence[str]) -> Figure:
    """Median of each of ``figures`` over the training size, the quartiles as a band.

    ``percentiles`` are the three suffixes of the columns in ``lines``: lower, middle, upper.
    """
    figure = empty_figure(9.5, 6.4)
    for axis, name in zip(figure.subplots(2, 2, sharex=True).ravel(), figures, strict=True):
        for architecture in dict.fromkeys(line["architecture"] for line in lines):
            own = [line for line in lines if line["architecture"] == architecture and line["trials"]]
            sizes = [line["size"] for line in own]
            low, middle, high = ([line[f"{name}_{p}"] for line in own] for p in percentiles)
            (drawn,) = axis.plot(sizes, middle, marker="o", markersize=4, label=architecture)
            axis.fill_between(sizes, low, high, alpha=0.2, color=drawn.get_color(), linewidth=0)
        axis.set_xscale("log", base=2)
        axis.set_ylabel(name.replace("_", " ") + (" / rad" if name == "phase_mae" else ""))
        axis.grid(alpha=0.25)
        axis.set_xticks(sorted({line["size"] for line in lines}), sorted({line["size"] for line in lines}))
        axis.minorticks_off()
    figure.axes[0].legend(frameon=False)
    for axis in figure.axes[-2:]:
        axis.set_xlabel("training patterns")
    return figure
