"""A picture of each step of ``ptycho-ray prepare``; functions from arrays to Figures, as in ``ptycho_ray.display.figures``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from ptycho_ray.data.preparation import Survey, background_level, filled
from ptycho_ray.data.prepared import FrameSteps

if TYPE_CHECKING:
    from ptycho_ray.refinement.orientation import Verdict
    from ptycho_ray.refinement.rotation import Rotation


def plot_bad_pixels(found: Survey) -> Figure:
    """The mean frame as stored, with the excluded pixels."""
    figure, axis = _figure(6.4, 5.4)
    _log_image(figure, axis, found.mean)
    for name, colour in (("bad", "red"), ("hot", "orange"), ("dead", "cyan")):
        rows, columns = np.nonzero(getattr(found, name))
        axis.plot(columns, rows, "s", mfc="none", mec=colour, ms=5, label=f"{len(rows)} {name}")
    axis.set_title("mean frame and excluded pixels", fontsize=11)
    axis.legend(loc="upper right", fontsize=8)
    return figure


def plot_background(found: Survey, steps: FrameSteps) -> Figure:
    """Mean intensity against the distance from the beam, and the background that is subtracted."""
    bad = found.bad | found.hot | found.dead
    mean = steps.oriented(filled(found.mean, bad))
    rows, columns = np.indices(mean.shape)
    distance = np.hypot(rows - steps.centre[0], columns - steps.centre[1]).astype(int)
    good = steps.oriented(~bad)
    sums = np.bincount(distance[good], mean[good])
    profile = sums / np.maximum(np.bincount(distance[good], minlength=len(sums)), 1)
    figure, axis = _figure(6.4, 4.2)
    axis.semilogy(np.maximum(profile, 1e-3 * max(float(profile.max()), 1e-12)), label="radial mean")
    axis.axhline(max(background_level(found.mean, bad), 1e-12), color="0.5", ls="--", lw=1, label="level at the edge")
    if steps.background > 0:
        axis.axhline(steps.background, color="C3", lw=1, label=f"{steps.background:.4g} subtracted from every pixel")
    axis.set(xlabel="distance from the beam / pixels", ylabel="mean intensity per pixel", title="background")
    axis.legend(frameon=False, fontsize=9)
    return figure


def plot_window(found: Survey, steps: FrameSteps, stated: tuple[float, float] | None) -> Figure:
    """The beam's centre and the window that is cut out, on the mean frame after its orientation."""
    bad = found.bad | found.hot | found.dead
    mean = steps.oriented(filled(found.mean, bad))
    figure, axis = _figure(6.4, 5.4)
    _log_image(figure, axis, mean)
    beam = steps.binning * (steps.N // 2) + (steps.binning - 1) // 2
    row, column = (round(middle) - beam - 0.5 for middle in steps.centre)
    axis.add_patch(Rectangle((column, row), steps.side, steps.side, fill=False, edgecolor="red"))
    axis.plot(steps.centre[1], steps.centre[0], "r+", ms=12, label="beam")
    if stated is not None:
        axis.plot(stated[1], stated[0], "wx", ms=9, label="beam centre stated in the file")
    axis.set_title(f"window of {steps.side} px, {steps.binning} x {steps.binning} binned", fontsize=11)
    axis.legend(loc="upper right", fontsize=8)
    return figure


def plot_patterns(patterns: NDArray[np.float32], bad: NDArray[np.bool_] | None) -> Figure:
    """Mean and first pattern of the prepared scan; bad pixels are blank."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    for axis, values, title in zip(axes, (patterns.mean(axis=0), patterns[0]), ("mean", "first"), strict=True):
        shown = np.ma.masked_array(values, np.zeros(values.shape, bool) if bad is None else bad)
        _log_image(figure, axis, shown)
        side = values.shape[-1]
        axis.plot(side // 2, side // 2, "r+", ms=10)
        axis.set_title(f"{title} prepared pattern; + is pixel N//2", fontsize=11)
    return figure


def plot_rotation(rotation: Rotation) -> Figure:
    """Misfit on held-out patterns against the angle."""
    figure, axis = _figure(6.4, 4.2)
    axis.plot(list(rotation.tried), list(rotation.tried.values()), "o-")
    axis.axvline(rotation.angle_deg, color="C3", lw=1)
    decided = "" if rotation.decided else ", undecided"
    axis.set(xlabel="angle / degrees", ylabel="R-factor of held-out patterns")
    axis.set_title(f"rotation of the scan axes: {rotation.angle_deg:.2f} degrees{decided}", fontsize=11)
    return figure


def plot_orientation(verdict: Verdict) -> Figure:
    """Misfit on held-out patterns under the eight orientations."""
    ranked = sorted(verdict.misfits.items(), key=lambda item: item[1])
    figure, axis = _figure(7.4, 4.2)
    axis.barh([each.options() for each, _ in ranked], [misfit for _, misfit in ranked], color="0.6")
    axis.invert_yaxis()
    axis.set_xlabel("R-factor of held-out patterns")
    axis.set_title(f"orientation: {verdict.undecided + ' undecided' if verdict.undecided else ranked[0][0].options()}")
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _log_image(figure: Figure, axis: Axes, values: NDArray[Any]) -> None:
    top = float(np.ma.max(values)) or 1.0
    shown = axis.imshow(np.ma.maximum(values, 1e-5 * top), norm=LogNorm(1e-5 * top, top), cmap="viridis")
    figure.colorbar(shown, ax=axis, shrink=0.9)
    axis.set(xlabel="column", ylabel="row")
