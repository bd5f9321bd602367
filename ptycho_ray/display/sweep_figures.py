"""Pictures of a sweep. As in ``ptycho_ray.display.figures``, every function returns a matplotlib Figure of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.interpolate import griddata

from ptycho_ray.display.figures import empty_figure

if TYPE_CHECKING:
    from ptycho_ray.tracking.sweep_record import SweepRecord, TrialRecord
    from ptycho_ray.tuning.parameter import Parameter
    from ptycho_ray.tuning.space import Space

COLOURS = "viridis_r"


def plot_history(record: SweepRecord) -> Figure:
    """The first objective of every trial in the order of their starts, and the best so far; very bad values are
    outside the plot."""
    name = record.objectives[0]
    trials = [trial for trial in record.ended if name in trial.figures]
    figure = empty_figure(8, 4)
    axis = figure.subplots()
    for status, marker, colour in (("finished", "o", "C0"), ("stopped", "x", "0.6")):
        selected = [trial for trial in trials if trial.status == status]
        axis.plot([t.number for t in selected], [t.figures[name] for t in selected], marker, color=colour, label=status)
    finished = [trial for trial in trials if trial.status == "finished"]
    if finished:
        best = np.minimum if record.smaller_is_better(name) else np.maximum
        values = best.accumulate([trial.figures[name] for trial in finished])
        axis.step([trial.number for trial in finished], values, where="post", color="C3", label="best so far")
    if trials:
        low, high = _limits(np.array([trial.figures[name] for trial in trials]), record.smaller_is_better(name))
        margin = 0.05 * (high - low) or 1.0
        axis.set_ylim(low - margin, high + margin)
    axis.set(xlabel="trial", ylabel=name)
    axis.legend(frameon=False)
    axis.grid(alpha=0.25)
    return figure


def plot_parallel(record: SweepRecord, space: Space) -> Figure:
    """A line for each finished trial through its parameters, coloured by the first objective."""
    trials = record.judged()
    names = [parameter.name for parameter in space.parameters]
    columns = [_places(parameter, trials) for parameter in space.parameters]
    values = np.array([trial.figures[record.objectives[0]] for trial in trials])
    figure = empty_figure(max(6.0, 2.0 * len(names) + 2), 4.4)
    axis = figure.subplots()
    order = np.argsort([-record.loss(trial) for trial in trials])  # the best ones on top
    smaller = record.smaller_is_better(record.objectives[0])
    norm = _limits(values, smaller)
    for index in order:
        share = (values[index] - norm[0]) / ((norm[1] - norm[0]) or 1.0)
        axis.plot([*range(len(names)), len(names)], [*(column[index] for column in columns), np.clip(share, 0, 1)],
                  color=_colour(share, smaller), alpha=0.8)  # fmt: skip
    labels = [f"{p.name}\n{_ends(p)}" for p in space.parameters] + [
        f"{record.objectives[0]}\n{norm[0]:.4g} ... {norm[1]:.4g}"
    ]
    axis.set_xticks(range(len(labels)), labels, fontsize=9)
    axis.set_yticks([])
    axis.grid(axis="x", alpha=0.4)
    return figure


def plot_importance(importance: Mapping[str, float]) -> Figure:
    """How much of the variation of the objective each parameter explains."""
    figure = empty_figure(7, 1.2 + 0.4 * len(importance))
    axis = figure.subplots()
    names = list(importance)[::-1]
    axis.barh(names, [importance[name] for name in names], color="C0")
    axis.set_xlabel("importance")
    return figure


def plot_contour(record: SweepRecord, parameters: Sequence[Parameter]) -> Figure:
    """The first objective over two parameters, interpolated between the finished trials."""
    name = record.objectives[0]
    trials = [t for t in record.judged() if all(p.name in t.parameters for p in parameters)]
    x, y = (_places(parameter, trials) for parameter in parameters)
    values = np.array([trial.figures[name] for trial in trials])
    smaller = record.smaller_is_better(name)
    low, high = _limits(values, smaller)
    figure = empty_figure(6.4, 5)
    axis = figure.subplots()
    colours = _colours(smaller)
    if len(trials) >= 4 and np.ptp(x) > 0 and np.ptp(y) > 0:
        across, up = np.meshgrid(np.linspace(0, 1, 80), np.linspace(0, 1, 80))
        surface = griddata((x, y), np.clip(values, low, high), (across, up), method="linear")
        axis.contourf(across, up, surface, levels=12, cmap=colours)
    dots = axis.scatter(x, y, c=values, vmin=low, vmax=high, cmap=colours, edgecolors="0.2", linewidths=0.6)
    best = int(np.argmin([record.loss(trial) for trial in trials]))
    axis.plot(x[best], y[best], "*", color="C3", markersize=14, clip_on=False)
    axis.set_title(f"star: the best, trial {trials[best].number}", fontsize=10)
    for parameter, set_ticks, set_label in (
        (parameters[0], axis.set_xticks, axis.set_xlabel), (parameters[1], axis.set_yticks, axis.set_ylabel),
    ):  # fmt: skip
        set_ticks(*_ticks(parameter))
        set_label(parameter.name)
    figure.colorbar(dots, ax=axis, label=name)
    return figure


def plot_front(record: SweepRecord) -> Figure:
    """The first two objectives of all finished trials; the Pareto front is drawn as a line."""
    first, second = record.objectives[:2]
    figure = empty_figure(6.4, 4.6)
    axis: Axes = figure.subplots()
    everything, front = record.judged(), record.pareto()
    axis.plot([t.figures[first] for t in everything], [t.figures[second] for t in everything], "o", color="0.7")
    axis.plot([t.figures[first] for t in front], [t.figures[second] for t in front], "o-", color="C3")
    for trial in front:
        axis.annotate(f" {trial.number}", (trial.figures[first], trial.figures[second]), fontsize=9)
    axis.set(xlabel=first, ylabel=second)
    axis.grid(alpha=0.25)
    return figure


def _places(parameter: Parameter, trials: Sequence[TrialRecord]) -> NDArray[np.float64]:
    """Values of a parameter between 0 and 1; NaN where a trial does not have it."""
    return np.array(
        [_place(parameter, t.parameters[parameter.name]) if parameter.name in t.parameters else np.nan for t in trials]
    )


def _place(parameter: Parameter, value: Any) -> float:
    if parameter.kind == "choice":
        return parameter.values.index(value) / max(1, len(parameter.values) - 1)
    low, high = parameter.values
    if parameter.kind == "loguniform":
        low, high, value = np.log(low), np.log(high), np.log(value)
    return float((value - low) / ((high - low) or 1.0))


def _ticks(parameter: Parameter) -> tuple[list[float], list[str]]:
    if parameter.kind == "choice":
        shown = list(parameter.values)
    else:
        low, high = parameter.values
        shown = list(np.geomspace(low, high, 5) if parameter.kind == "loguniform" else np.linspace(low, high, 5))
    return [_place(parameter, value) for value in shown], [
        str(v) if isinstance(v, str | bool) else f"{v:.3g}" for v in shown
    ]


def _ends(parameter: Parameter) -> str:
    return (
        ", ".join(map(str, parameter.values))
        if parameter.kind == "choice"
        else "{:.4g} ... {:.4g}".format(*parameter.values)
    )


def _limits(values: NDArray[np.float64], smaller_is_better: bool) -> tuple[float, float]:
    """A range that is robust against a few very bad trials."""
    sign = 1 if smaller_is_better else -1
    best, middle, worst = np.percentile(sign * values, [0, 50, 100])
    end = min(worst, middle + 2 * (middle - best)) if middle > best else worst
    return (float(best), float(end)) if sign > 0 else (float(-end), float(-best))


def _colours(smaller_is_better: bool) -> str:
    return COLOURS if smaller_is_better else COLOURS.removesuffix("_r")


def _colour(share: float, smaller_is_better: bool) -> Any:
    from matplotlib import colormaps

    return colormaps[_colours(smaller_is_better)](np.clip(share, 0, 1))
