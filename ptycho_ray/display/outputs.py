"""The files of a run in its output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from ptycho_ray.files import write_json


def save_outputs(
    amplitude: np.ndarray | None, phase: np.ndarray | None, results: dict[str, Any], output_prefix: str | Path
) -> None:
    """Write the two pictures of the reference, the arrays (``reconstruction.npz``), ``history.json`` and, if the positions
    were learnt, ``positions.npz``; of an ensemble also ``uncertainty.png``.

    Nothing is drawn when amplitude or phase is None.
    """
    from ptycho_ray.display.figures import plot_image, save_figure

    folder = Path(output_prefix)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "history.json", results.get("history", {}))
    if (positions := getattr(results.get("model_instance"), "positions", None)) is not None:
        positions.save(folder / "positions.npz")
    if amplitude is None or phase is None:
        return
    stitched: Any = results.get("stitched")  # a StitchedObject; none of an image that is stitched by "crop"
    region = None if stitched is None else stitched.covered()
    pixel = results.get("pixel_size_m")
    kinds: dict[Literal["amplitude", "phase"], np.ndarray] = {"amplitude": amplitude, "phase": phase}
    for kind, values in kinds.items():
        drawn = plot_image(np.squeeze(values), kind=kind, title=kind.title(), region=region, pixel_size_m=pixel)
        save_figure(drawn, folder / f"reconstructed_{kind}.png")
    if stitched is not None:
        stitched.save(folder / "reconstruction.npz", pixel)
        if stitched.amplitude_std is not None and stitched.phase_std is not None:
            from ptycho_ray.display.uncertainty_figures import plot_deviation

            deviation = plot_deviation(
                stitched.amplitude_std, stitched.phase_std, region=stitched.covered(), pixel_size_m=pixel
            )
            save_figure(deviation, folder / "uncertainty.png")
