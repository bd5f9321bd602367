"""Pictures of objects, probes, scans and training runs.

Every function takes arrays and returns a matplotlib Figure of its own; nothing touches pyplot, so nothing depends on a
display or on figures drawn before. Axes: images [H, W] with rows downward; positions [n, 2] as (row, column) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from ptycho_ray.files import atomic_path

AMPLITUDE_COLOURS, PHASE_COLOURS, OUTSIDE = "gray", "viridis", "0.85"
#: A phase with a wider range than this, radians, is taken to be wrapped.
CYCLIC_COLOURS, WRAPPED = "twilight", 1.9 * np.pi
_LABELS = {"amplitude": "amplitude", "phase": "phase / rad"}
_UNITS = [(1.0, "m"), (1e-3, "mm"), (1e-6, "µm"), (1e-9, "nm"), (1e-12, "pm")]


def plot_object(
    image: NDArray[Any], *, region: NDArray[np.bool_] | None = None, pixel_size_m: float | None = None, title: str = ""
) -> Figure:
    """Amplitude and phase of a complex image [H, W].

    ``region`` marks the valid pixels; the picture is cropped to them, the others are left blank and do not affect the
    colour scale. The scale bar is in metres if ``pixel_size_m`` is given, in pixels otherwise.
    """
    return plot_objects({title: image}, region=region, pixel_size_m=pixel_size_m)


def plot_objects(
    images: Mapping[str, NDArray[Any]],
    *,
    region: NDArray[np.bool_] | None = None,
    pixel_size_m: float | None = None,
    aligned: bool = False,
) -> Figure:
    """Amplitude (above) and phase (below) of several complex images side by side, on common colour scales.

    A single image gets amplitude and phase side by side. NaN is left blank like what lies outside ``region``, which
    applies to the images of its shape. Each phase is shown about its mean; those of ``aligned`` images, whose complex
    factor is the same, about the mean of the first.
    """
    single = len(images) == 1
    figure = empty_figure(10, 4.6) if single else empty_figure(3.4 * len(images) + 0.8, 6.8)
    axes = figure.subplots(1, 2, squeeze=False).T if single else figure.subplots(2, len(images), squeeze=False)
    masked = {name: crop_to_region(image, region) for name, image in images.items()}
    amplitudes = {name: np.abs(image) for name, image in masked.items()}
    turn = _to_mean_phase(next(iter(masked.values()))) if aligned else None
    phases = {name: np.ma.masked_array(_level_phase(image, turn), image.mask) for name, image in masked.items()}
    for row, (kind, parts) in zip(axes, {"amplitude": amplitudes, "phase": phases}.items(), strict=True):
        limits = _colour_range([part.compressed() for part in parts.values()])
        for axis, (name, part) in zip(row, parts.items(), strict=True):
            shown = _draw_image(axis, part, kind, limits, pixel_size_m)
            if single or kind == "amplitude":
                axis.set_title(f"{name} {_LABELS[kind]}".strip() if single else name, fontsize=11)
        figure.colorbar(shown, ax=list(row), shrink=0.9, pad=0.02, label="" if single else _LABELS[kind])
    return figure


def plot_image(
    values: NDArray[Any],
    *,
    kind: Literal["amplitude", "phase"],
    title: str = "",
    region: NDArray[np.bool_] | None = None,
    pixel_size_m: float | None = None,
) -> Figure:
    """One real image [H, W], an amplitude or a phase in radians (drawn as it is, wrapped or not)."""
    part = crop_to_region(values, region)
    figure = empty_figure(5.6, 4.8)
    axis = figure.subplots()
    shown = _draw_image(axis, part, kind, _colour_range([part.compressed()]), pixel_size_m)
    axis.set_title(title, fontsize=11)
    figure.colorbar(shown, ax=axis, shrink=0.9, pad=0.02, label=_LABELS[kind])
    return figure


def plot_probe(probe: NDArray[Any], *, pixel_size_m: float | None = None, columns: int = 6) -> Figure:
    """The modes of a probe [P, N, N] (or [N, N]), every one: brightness is amplitude, colour is phase; with each mode's
    power. ``columns`` stand in a row."""
    modes = np.atleast_3d(np.asarray(probe).T).T
    powers = np.sum(np.abs(modes) ** 2, axis=(1, 2))
    columns = min(columns, len(modes))
    rows = -(-len(modes) // columns)
    figure = empty_figure(3.1 * columns + 1.2, 3.5 * rows)
    axes = figure.subplots(rows, columns + 1, squeeze=False, width_ratios=[*[1.0] * columns, 0.35])
    for unused in (*axes[1:, -1], *axes[:, :-1].ravel()[len(modes) :]):
        figure.delaxes(unused)
    for number, (axis, mode) in enumerate(zip(axes[:, :-1].ravel(), modes, strict=False)):
        axis.imshow(as_colours(mode), interpolation="nearest")
        share = powers[number] / powers.sum() if powers.sum() else 0.0
        axis.set_title(f"probe mode {number + 1}: {share:.1%}" if len(powers) > 1 else "probe", fontsize=11)
        plain_image_axis(axis)
        scale_bar(axis, mode.shape[1], pixel_size_m)
    _colour_wheel(axes[0, -1])
    return figure


def plot_history(history: Mapping[str, Sequence[float]]) -> Figure:
    """Training and validation loss over the epochs, the learning rate below.

    ``history`` holds one list for each figure. Drawn are those whose name ends in "loss", unless they repeat another
    one; a ``val_`` name becomes a dashed line of the same colour as its training figure.
    """
    losses: dict[str, list[float]] = {}
    for name, values in history.items():
        if name.endswith("loss") and len(values) and list(values) not in losses.values():
            losses[name] = list(values)
    rates = history.get("learning_rate", [])
    figure = empty_figure(8, 5.2 if len(rates) else 4.0)
    if len(rates):
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        below.plot(_epochs(rates), rates, color="0.3", drawstyle="steps-mid")
        below.set_ylabel("learning rate")
        below.set_ylim(bottom=0)
    else:
        above = below = figure.subplots()
    colours = {name: f"C{number}" for number, name in enumerate(dict.fromkeys(n.removeprefix("val_") for n in losses))}
    for name, values in losses.items():
        validation = name.startswith("val_")
        label = name.removeprefix("val_").replace("_", " ") + (", validation" if validation else "")
        marker = "o" if len(values) < 15 else None
        above.plot(_epochs(values), values, "--" if validation else "-", color=colours[name.removeprefix("val_")],
                   marker=marker, markersize=3, label=label)  # fmt: skip
    figures = np.array([value for values in losses.values() for value in values if math.isfinite(value)])
    if figures.size and figures.min() > 0 and figures.max() > 20 * figures.min():
        above.set_yscale("log")
    above.set_ylabel("loss")
    if losses:
        above.legend(frameon=False)
    below.set_xlabel("epoch")
    for axis in {above, below}:
        axis.grid(alpha=0.25)
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def plot_frc(
    frequency: NDArray[Any],
    correlations: Mapping[str, NDArray[Any]],
    *,
    half_bit: NDArray[Any] | None = None,
    pixel_size_m: float | None = None,
) -> Figure:
    """Fourier ring correlation over spatial frequency (cycles per pixel, 0 to 0.5), with the usual thresholds."""
    figure = empty_figure(8, 4.4)
    axis = figure.subplots()
    for name, correlation in correlations.items():
        axis.plot(frequency, correlation, label=name)
    if half_bit is not None:
        axis.plot(frequency, half_bit, color="0.4", linestyle="-.", linewidth=1, label="half-bit threshold")
    for level, name in ((0.5, "1/2"), (1 / 7, "1/7")):
        axis.axhline(level, color="0.6", linewidth=0.8, linestyle=":")
        axis.text(0.503, level, name, va="center", fontsize=9, color="0.4")
    axis.set(xlim=(0, 0.5), ylim=(min(-0.05, *(float(np.min(c)) for c in correlations.values())), 1.05))
    axis.set_xlabel("spatial frequency / cycles per pixel")
    axis.set_ylabel("ring correlation")
    axis.legend(frameon=False)
    axis.grid(alpha=0.25)
    if pixel_size_m is not None:
        scale, unit = _unit_for(2 * pixel_size_m)
        above = axis.secondary_xaxis("top")
        above.set_xticks(ticks := [0.1, 0.2, 0.3, 0.4, 0.5], [f"{0.5 * pixel_size_m / t / scale:.3g}" for t in ticks])
        above.set_xlabel(f"half period / {unit}")
    return figure


def plot_positions(positions_px: NDArray[Any], *, pixel_size_m: float | None = None, title: str = "") -> Figure:
    """Scan positions [n, 2] (row, column), coloured in the order of the scan."""
    scale, unit = (1.0, "pixels")
    if pixel_size_m is not None:
        factor, unit = _unit_for(float(np.ptp(positions_px, axis=0).max()) * pixel_size_m)
        scale = pixel_size_m / factor
    points = np.asarray(positions_px) * scale
    figure = empty_figure(6.4, 5.4)
    axis = figure.subplots()
    axis.plot(points[:, 1], points[:, 0], color="0.8", linewidth=0.5, zorder=1)
    size = float(np.clip(4000 / len(points), 2, 30))
    dots = axis.scatter(points[:, 1], points[:, 0], c=np.arange(len(points)), s=size, cmap="viridis", zorder=2)
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.set(xlabel=f"column / {unit}", ylabel=f"row / {unit}", title=title or f"{len(points)} scan positions")
    figure.colorbar(dots, ax=axis, label="pattern number")
    return figure


def plot_patterns(intensity: NDArray[Any]) -> Figure:
    """Some diffraction patterns [k, N, N] side by side, on a common logarithmic scale."""
    level = np.log10(np.maximum(intensity, 0) + 1)
    figure = empty_figure(2.4 * len(level), 2.6)
    for axis, image in zip(np.atleast_1d(figure.subplots(1, len(level))), level, strict=True):
        axis.imshow(image, cmap="magma", vmin=0, vmax=level.max())
        plain_image_axis(axis)
    figure.suptitle("patterns, log10(1 + intensity)")
    return figure


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 150) -> Path:
    """Write a figure (format by suffix: png, svg, pdf); atomically."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
    return Path(path)


def empty_figure(width: float, height: float) -> Figure:
    """A figure without axes, inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _epochs(values: Sequence[float]) -> NDArray[np.int64]:
    return np.arange(1, len(values) + 1)


def crop_to_region(image: NDArray[Any], region: NDArray[np.bool_] | None) -> np.ma.MaskedArray[Any, Any]:
    """The image without what is not finite or outside ``region``, cropped to what is left."""
    shown = np.isfinite(image)
    if region is not None and region.shape == image.shape:
        shown &= region
    if not shown.any():
        return np.ma.masked_array(image, ~shown)
    rows, columns = (np.flatnonzero(shown.any(axis=axis)) for axis in (1, 0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.ma.masked_array(image[window], ~shown[window])


def _draw_image(
    axis: Axes, part: NDArray[Any], kind: str, limits: tuple[float, float], pixel_size_m: float | None
) -> AxesImage:
    colours = AMPLITUDE_COLOURS if kind == "amplitude" else PHASE_COLOURS
    if kind == "phase" and limits[1] - limits[0] > WRAPPED:  # one colour on both sides of a wrap
        colours, limits = CYCLIC_COLOURS, (-np.pi, np.pi)
    plain_image_axis(axis)
    shown = axis.imshow(part, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    scale_bar(axis, part.shape[1], pixel_size_m)
    return shown


def _to_mean_phase(image: np.ma.MaskedArray[Any, Any]) -> complex:
    """The factor that takes the mean of an image to phase zero."""
    total = image.sum()
    return 1.0 if total is np.ma.masked or abs(total) == 0 else complex(np.conj(total) / abs(total))


def _level_phase(image: np.ma.MaskedArray[Any, Any], turn: complex | None = None) -> NDArray[np.float64]:
    """Phase about the mean phase (or after ``turn``), so that a free global phase does not decide where it wraps."""
    return np.angle(image.filled(1.0) * (_to_mean_phase(image) if turn is None else turn))


def _colour_range(parts: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Limits that exclude the outermost half percent, which is often a bright border."""
    values = np.concatenate([part.ravel() for part in parts])
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, [0.5, 99.5])
    return (float(low), float(high)) if high > low else (float(low) - 0.5, float(low) + 0.5)


def plain_image_axis(axis: Axes) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_facecolor(OUTSIDE)


def scale_bar(axis: Axes, width_px: int, pixel_size_m: float | None, *, step_px: float = 1.0) -> None:
    """A bar of a round length, about a fifth of the picture, in its lower left corner. The pixels of the picture are
    ``step_px`` object pixels wide."""
    pixel = step_px * (1.0 if pixel_size_m is None else pixel_size_m)
    target = width_px * pixel / 5
    power = 10.0 ** math.floor(math.log10(target))
    length = max(step * power for step in (1, 2, 5) if step * power <= target * (1 + 1e-9))
    if pixel_size_m is None:
        length = max(1.0, round(length))
        label = f"{length:.0f} px"
    else:
        scale, unit = _unit_for(length)
        label = f"{length / scale:.4g} {unit}"
    height = axis.get_ylim()[0] + 0.5
    start, bottom, thickness = 0.05 * width_px, 0.95 * height, 0.012 * height
    outline = [withStroke(linewidth=2.5, foreground="black")]
    axis.add_patch(
        Rectangle(
            (start, bottom - thickness), length / pixel, thickness, facecolor="white", edgecolor="black", linewidth=0.6
        )
    )
    above = bottom - 2.2 * thickness
    axis.text(start, above, label, color="white", fontsize=10, va="bottom", path_effects=outline)


def _unit_for(length_m: float) -> tuple[float, str]:
    return next(((scale, unit) for scale, unit in _UNITS if length_m >= scale * (1 - 1e-9)), _UNITS[-1])


def as_colours(wave: NDArray[Any]) -> NDArray[np.float64]:
    """RGB [H, W, 3] of a complex image: hue is phase (red is 0), brightness is amplitude."""
    amplitude = np.abs(wave)
    peak = float(amplitude.max()) or 1.0
    hue = np.angle(wave) / (2 * np.pi) % 1.0
    return np.asarray(hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.9), amplitude / peak], axis=-1)))


def _colour_wheel(axis: Axes) -> None:
    side = np.linspace(-1, 1, 101)
    wave = side[None, :] - 1j * side[:, None]
    colours = as_colours(np.where(np.abs(wave) <= 1, wave, 0))
    alpha = (np.abs(wave) <= 1).astype(float)
    axis.imshow(np.concatenate([colours, alpha[..., None]], axis=-1), extent=(-1, 1, -1, 1))
    axis.set(xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
    axis.text(1.08, 0, "0", ha="left", va="center", fontsize=9)
    axis.text(0, 1.08, "π/2", ha="center", va="bottom", fontsize=9)
    axis.set_axis_off()
    axis.set_title("phase", fontsize=9)
