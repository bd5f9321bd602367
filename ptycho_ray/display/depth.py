"""The slices of a thick object for people and for other programs: pictures with their depth, a TIFF stack, an EMD file.

Phases are in radian, each slice relative to its own mean over the well-lit pixels, which the patterns do not tell. Rows go
downward, depth along the beam; slice k stands for the thickness below it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ptycho_ray.display.figures import PHASE_COLOURS, empty_figure, plain_image_axis, save_figure, scale_bar
from ptycho_ray.display.report import Section
from ptycho_ray.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptycho_ray.refinement.result import RefinementResult

STACK, EMD, SECTIONS, THROUGH = "slices.tif", "slices.emd", "depth_sections.png", "depth_through.png"
#: Slices that are shown, and how many of them beside each other.
MOST_SHOWN, A_LINE = 12, 4


def save_depth(
    found: RefinementResult, folder: Path, pixel_size_m: float | None
) -> tuple[dict[str, Path], list[Section]]:
    """Write the slices of a thick object into ``folder``; the files by name and a section for the report. Nothing for a thin
    one.

    ``slices.tif``: phases, 32 bit, which ImageJ opens as a stack with its voxel size. ``slices.emd``: phase and amplitude as
    EMD 0.2 (HDF5), with axes in nm if the pixel size is known, else in pixels and slices.
    """
    if found.slab is None:
        return {}, []
    phases = levelled_phases(found.slices, found.stitched.covered())
    depth_nm = None
    if found.slab.slice_thickness_angstrom is not None and pixel_size_m is not None:
        depth_nm = 0.1 * found.slab.slice_thickness_angstrom
    files = {"slices_tiff": folder / STACK, "slices_emd": folder / EMD}
    _write_tiff(files["slices_tiff"], phases, pixel_size_m, depth_nm)
    _write_emd(files["slices_emd"], {"phase": phases, "amplitude": np.abs(found.slices)}, pixel_size_m, depth_nm)
    region = found.stitched.covered()
    sections = plot_slices(phases, region, pixel_size_m=pixel_size_m, depth_nm=depth_nm)
    through = plot_through(phases, region, pixel_size_m=pixel_size_m, depth_nm=depth_nm)
    files["depth_sections"] = save_figure(sections, folder / SECTIONS)
    files["depth_through"] = save_figure(through, folder / THROUGH)
    pictures = [
        ("Phase of the slices, in the order of the beam.", sections),
        ("Their sum, and cuts along it.", through),
    ]
    return files, [Section("Depth", pictures=pictures)]


def levelled_phases(slices: NDArray[np.complex64], region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Phase of each of the slices [S, H, W], relative to its mean over ``region`` [H, W]; zero outside."""
    means = np.mean(slices[:, region], axis=1)
    turned = slices * np.exp(-1j * np.angle(means))[:, None, None]
    return np.where(region, np.angle(turned), 0).astype(np.float32)


def plot_slices(
    phases: NDArray[np.float32],
    region: NDArray[np.bool_],
    *,
    pixel_size_m: float | None = None,
    depth_nm: float | None = None,
) -> Figure:
    """The phases [S, H, W] of at most twelve slices, evenly spread, on one scale, each with the depth of its upper side."""
    shown = np.unique(np.linspace(0, len(phases) - 1, min(len(phases), MOST_SHOWN)).round().astype(int))
    columns = min(A_LINE, len(shown))
    lines = -(-len(shown) // columns)
    figure = empty_figure(3 * columns + 0.8, 3.2 * lines)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    window = _window(region)
    low, high = np.percentile(phases[:, region], (0.5, 99.5))
    for axis in axes[len(shown) :]:
        axis.remove()
    for axis, number in zip(axes, shown, strict=False):
        part = phases[number][window]
        drawn = axis.imshow(part, cmap=PHASE_COLOURS, vmin=low, vmax=high, interpolation="nearest")
        plain_image_axis(axis)
        depth = "" if depth_nm is None else f" at {number * depth_nm:.3g} nm"
        axis.set_title(f"slice {number + 1}{depth}", fontsize=10)
        scale_bar(axis, part.shape[1], pixel_size_m)
    figure.colorbar(drawn, ax=list(axes[: len(shown)]), shrink=0.8, label="phase / rad")
    return figure


def plot_through(
    phases: NDArray[np.float32],
    region: NDArray[np.bool_],
    *,
    pixel_size_m: float | None = None,
    depth_nm: float | None = None,
) -> Figure:
    """The sum of the phases [S, H, W] over the depth, and two cuts along the beam through the middle of ``region``."""
    window = _window(region)
    stack = phases[(slice(None), *window)]
    row, column = (side // 2 for side in stack.shape[1:])
    figure = empty_figure(11, 4.4)
    projection, *cuts = figure.subplots(1, 3, width_ratios=[1.2, 1, 1])
    drawn = projection.imshow(stack.sum(axis=0), cmap=PHASE_COLOURS, interpolation="nearest")
    projection.axhline(row, color="white", linewidth=0.6, linestyle=":")
    projection.axvline(column, color="white", linewidth=0.6, linestyle=":")
    plain_image_axis(projection)
    scale_bar(projection, stack.shape[2], pixel_size_m)
    projection.set_title("sum over the depth", fontsize=10)
    figure.colorbar(drawn, ax=projection, shrink=0.8, label="phase / rad")
    pixel = 1.0 if depth_nm is None or pixel_size_m is None else pixel_size_m * 1e9
    depth = 1.0 if depth_nm is None else depth_nm
    for axis, part, name in zip(cuts, (stack[:, row], stack[:, :, column]), ("column", "row"), strict=True):
        axis.imshow(
            part, cmap=PHASE_COLOURS, aspect="auto", interpolation="nearest",
            extent=(0, part.shape[1] * pixel, len(part) * depth, 0),
        )  # fmt: skip
        axis.set_xlabel(f"{name} / {'px' if depth_nm is None else 'nm'}")
        axis.set_ylabel("slice" if depth_nm is None else "depth / nm")
        axis.set_title(f"cut along the {name}s", fontsize=10)
    return figure


def _window(region: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _write_tiff(path: Path, phases: NDArray[np.float32], pixel_size_m: float | None, depth_nm: float | None) -> None:
    metadata: dict[str, Any] = {"axes": "ZYX"}
    if depth_nm is not None and pixel_size_m is not None:
        write_tiff(path, phases, metadata | {"spacing": depth_nm}, pixel_size_m)
    else:
        write_tiff(path, phases, metadata, None)


def write_tiff(path: Path, stack: NDArray[np.float32], metadata: dict[str, Any], pixel_size_m: float | None) -> None:
    """A stack of images [k, H, W] as 32-bit TIFF that ImageJ opens with its pixel size in nm; ``metadata`` are words of
    ImageJ."""
    import tifffile  # takes long to load

    resolution = None
    if pixel_size_m is not None:
        metadata = metadata | {"unit": "nm"}
        resolution = (1e-9 / pixel_size_m, 1e-9 / pixel_size_m)
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, stack, imagej=True, resolution=resolution, metadata=metadata)


def _write_emd(
    path: Path, stacks: dict[str, NDArray[np.float32]], pixel_size_m: float | None, depth_nm: float | None
) -> None:
    steps, units = (1.0, 1.0, 1.0), ("slice", "px", "px")
    if depth_nm is not None and pixel_size_m is not None:
        steps, units = (depth_nm, pixel_size_m * 1e9, pixel_size_m * 1e9), ("[n_m]", "[n_m]", "[n_m]")
    with atomic_path(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        for name, stack in stacks.items():
            group = file.create_group(f"data/{name}")
            group.attrs["emd_group_type"] = 1
            group.create_dataset("data", data=stack.astype(np.float32), compression="gzip")
            for number, (step, unit, axis) in enumerate(zip(steps, units, ("z", "y", "x"), strict=True)):
                dimension = group.create_dataset(f"dim{number + 1}", data=np.arange(stack.shape[number]) * step)
                dimension.attrs["name"], dimension.attrs["units"] = axis, unit
