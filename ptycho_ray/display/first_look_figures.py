"""The page of a first look at a scan: mean pattern, virtual images, centre of mass, integrated phase, positions and probe."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from numpy.typing import NDArray

from ptycho_ray.data.first_look import FirstLook
from ptycho_ray.data.scan import Scan
from ptycho_ray.display.figures import (
    AMPLITUDE_COLOURS,
    PHASE_COLOURS,
    as_colours,
    empty_figure,
    plain_image_axis,
    scale_bar,
)

#: Pictures side by side.
COLUMNS = 4


def plot_first_look(
    scan: Scan, look: FirstLook, direct: tuple[NDArray[Any], NDArray[np.bool_]] | None = None
) -> Figure:
    """All pictures of a first look on one page; scale bars in metres where the scan's pixel is known, else in object pixels.

    Args:
        direct: an image of the object without iterations, complex [H, W], and where it is known.
    """
    lines = -(-(5 + len(look.images) + (direct is not None)) // COLUMNS)
    figure = empty_figure(3.3 * COLUMNS, 3.2 * lines)
    axes = iter(figure.subplots(lines, COLUMNS, squeeze=False).ravel())
    _mean_pattern(next(axes), look)
    for name, image in look.images.items():
        axis = next(axes)
        _scan_image(figure, axis, look, image, scan.pixel_size_m, AMPLITUDE_COLOURS)
        axis.set_title(name, fontsize=10)
    _centre_of_mass(next(axes), look, scan.pixel_size_m)
    axis = next(axes)
    _scan_image(figure, axis, look, look.phase, scan.pixel_size_m, PHASE_COLOURS)
    axis.set_title("integrated phase (iDPC) / rad", fontsize=10)
    if direct is not None:
        _direct_phase(figure, next(axes), *direct, scan.pixel_size_m)
    _positions(next(axes), scan)
    _probe(next(axes), scan)
    for axis in axes:
        axis.set_axis_off()
    return figure


def _mean_pattern(axis: Axes, look: FirstLook) -> None:
    mean, disc = look.virtual.mean, look.virtual.disc
    axis.imshow(np.log10(1 + 1e3 * mean / max(float(mean.max()), 1e-300)), cmap="magma")
    plain_image_axis(axis)
    axis.set_title("mean pattern, logarithmic", fontsize=10)
    if disc is not None:
        circle = Circle((disc.centre_px[1], disc.centre_px[0]), disc.radius_px, fill=False, color="cyan", linewidth=1)
        axis.add_patch(circle)
        axis.set_xlabel(f"bright-field disc of {disc.radius_px:.1f} px radius", fontsize=8)


def _scan_image(
    figure: Figure, axis: Axes, look: FirstLook, image: NDArray[Any], pixel_size_m: float | None, colours: str
) -> None:
    upright = look.grid.upright(image)
    low, high = np.nanpercentile(upright, [0.5, 99.5])
    shown = axis.imshow(upright, cmap=colours, vmin=low, vmax=high, aspect=_aspect(look), interpolation="nearest")
    _frame(axis, look, upright.shape[1], pixel_size_m)
    figure.colorbar(shown, ax=axis, shrink=0.8, pad=0.02).ax.tick_params(labelsize=7)


def _centre_of_mass(axis: Axes, look: FirstLook, pixel_size_m: float | None) -> None:
    """Hue is the direction in which a pattern moves on the detector, brightness how far; the wheel in the corner tells them."""
    moved = np.stack([look.grid.upright(look.centre_px[..., axis]) for axis in range(2)], axis=-1)
    measured = np.isfinite(moved[..., 0])
    moved[~measured] = 0
    length = np.hypot(moved[..., 0], moved[..., 1])
    most = max(float(np.percentile(length[measured], 99)), 1e-300)
    # Red points to the right, and hues go counter-clockwise as seen: rows grow downward.
    wave = (moved[..., 1] - 1j * moved[..., 0]) * np.minimum(1, most / np.maximum(length, 1e-300))
    shown = np.concatenate([as_colours(wave), measured[..., None]], axis=-1)
    axis.imshow(shown, aspect=_aspect(look), interpolation="nearest")
    _frame(axis, look, moved.shape[1], pixel_size_m)
    axis.set_title(f"centre of mass, up to {most:.2g} px", fontsize=10)
    wheel = axis.inset_axes((0.8, 0.0, 0.2, 0.2))
    side = np.linspace(-1, 1, 81)
    disc = side[None, :] - 1j * side[:, None]
    inside = (np.abs(disc) <= 1).astype(float)
    hue = np.angle(disc) / (2 * np.pi) % 1.0
    colours = hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.9), np.minimum(np.abs(disc), 1)], axis=-1))
    wheel.imshow(np.concatenate([colours, inside[..., None]], axis=-1))
    wheel.set_axis_off()


def _direct_phase(
    figure: Figure, axis: Axes, image: NDArray[Any], region: NDArray[np.bool_], pixel_size_m: float | None
) -> None:
    phase = np.where(region, np.angle(image), np.nan)
    low, high = np.nanpercentile(phase, [0.5, 99.5])
    shown = axis.imshow(phase, cmap=PHASE_COLOURS, vmin=low, vmax=high, interpolation="nearest")
    plain_image_axis(axis)
    scale_bar(axis, phase.shape[1], pixel_size_m)
    axis.set_title("direct phase (weak object) / rad", fontsize=10)
    figure.colorbar(shown, ax=axis, shrink=0.8, pad=0.02).ax.tick_params(labelsize=7)


def _positions(axis: Axes, scan: Scan) -> None:
    scale, unit = (1.0, "px") if scan.pixel_size_m is None else (scan.pixel_size_m * 1e9, "nm")
    row, column = (scan.positions_px * scale).T
    axis.scatter(
        column, row, c=np.arange(len(row)), s=float(np.clip(4000 / len(row), 0.3, 12)), cmap="viridis", linewidths=0
    )
    axis.set_aspect("equal")
    axis.invert_yaxis()
    axis.tick_params(labelsize=7)
    axis.set_title(f"{len(row)} positions / {unit}", fontsize=10)


def _probe(axis: Axes, scan: Scan) -> None:
    axis.imshow(as_colours(scan.probe[0]), interpolation="nearest")
    plain_image_axis(axis)
    scale_bar(axis, scan.N, scan.pixel_size_m)
    guessed = " (estimated)" if scan.probe_is_guess else ""
    axis.set_title(f"probe{guessed}, hue is phase", fontsize=10)


def _aspect(look: FirstLook) -> float:
    return float(look.grid.upright_step_px[0] / look.grid.upright_step_px[1])


def _frame(axis: Axes, look: FirstLook, width: int, pixel_size_m: float | None) -> None:
    plain_image_axis(axis)
    scale_bar(axis, width, pixel_size_m, step_px=float(look.grid.upright_step_px[1]))
