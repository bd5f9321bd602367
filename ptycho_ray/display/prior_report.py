"""What a learned prior did to an image, for people: a file with the map, and a part of the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.display.report import Section
from ptycho_ray.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ptycho_ray.refinement.error_bars import ErrorBars
    from ptycho_ray.refinement.result import RefinementResult

MAP = "prior.npz"
#: Standard deviations from which on a pixel is counted as one that comes from the prior, and at which colours end.
FROM_PRIOR, MOST = 3.0, 10.0


def save_prior(
    found: RefinementResult, folder: Path, pixel_size_m: float | None, bars: ErrorBars | None = None
) -> tuple[dict[str, Path], list[Section]]:
    """Write ``prior.npz`` into ``folder``; the file by name and a section for the report. Nothing where no prior was asked for.

    ``moved``: by how many standard deviations the prior moved each pixel, float32 [H, W] on the canvas of the image, zeros
    if it was not taken; ``without``: the image of the patterns alone.
    """
    choice = found.prior
    if choice is None:
        return {}, []
    image = found.stitched
    of_bars = None if bars is None else (bars.amplitude_std, bars.phase_std)
    moved = choice.moved(image, of_bars) if choice.strength else np.zeros_like(image.weight)
    with atomic_path(folder / MAP) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, moved=moved, without=choice.without.image, strength=choice.strength)
    covered = image.covered()
    share = float((moved[covered] > FROM_PRIOR).mean())
    facts = {
        "chosen strength": choice.strength,
        "share of the well-lit pixels that come from the prior": round(share, 3),
        **{f"R-factor of unseen pixels, strength {name:g}": value for name, value in choice.r_factors.items()},
    }
    unit = "photon noise of a well-lit pixel" if bars is None else "error bars"
    text = (
        f"{choice.sentence}. The map shows by how many standard deviations ({unit}) the image with the prior differs from "
        f"that of the patterns alone: where it is above {FROM_PRIOR:g}, the image comes from the prior."
    )
    picture = _plot(moved, image.weight > 0, pixel_size_m)
    return {"prior_map": folder / MAP}, [Section("Prior", text, facts=facts, pictures=[("", picture)])]


def prior_facts(found: RefinementResult) -> dict[str, Any]:
    """How much the prior said, for a result in JSON; nothing where none was asked for."""
    if found.prior is None:
        return {}
    return {"prior": {"strength": found.prior.strength, "unseen_r_factors": found.prior.r_factors}}


def _plot(moved: NDArray[np.float32], region: NDArray[np.bool_], pixel_size_m: float | None) -> Figure:
    from ptycho_ray.display.figures import crop_to_region, empty_figure, plain_image_axis, scale_bar

    figure = empty_figure(5.6, 4.8)
    axis = figure.subplots()
    plain_image_axis(axis)
    shown = axis.imshow(crop_to_region(moved, region), cmap="magma", vmin=0, vmax=MOST, interpolation="nearest")
    scale_bar(axis, moved.shape[1], pixel_size_m)
    figure.colorbar(
        shown, ax=axis, shrink=0.9, pad=0.02, extend="max", label="moved by the prior / standard deviations"
    )
    return figure
