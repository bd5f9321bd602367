"""The iterative solver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ptycho_ray.data import RawData
from ptycho_ray.interactive import Reconstruction, as_scan


def refine(
    scan: RawData | str | Path,
    start: Reconstruction | str | Path = "flat",
    *,
    device: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> Reconstruction:
    """Solve for object, probe, positions and other unknowns with the iterative solver, as ``ptycho-ray refine``.

    Args:
        start: what to begin with: an earlier reconstruction, an image or a trained model (its file or folder), "flat", "direct"
            (the phase of a weak object in one linear step) or "pretrained".
        device: auto, cpu, cuda, cuda:1 or mps.
        progress: report the error while it runs.
        settings: those of ``ptycho-ray refine``: ``iterations=40``, ``probe_modes=2``, ``position_start=3``.

    Returns:
        A reconstruction whose ``scan`` has the refined probe and positions, and whose ``refinement`` is all that was solved
        for.

    Raises:
        ConfigurationError: a setting does not exist, with the nearest one, or is out of range.
        Diverged: the loss grows however small the steps are.
    """
    from ptycho_ray import workflow
    from ptycho_ray.config import ExecutionConfig
    from ptycho_ray.display.progress import RefinementProgress
    from ptycho_ray.refinement.config import RefinementConfig
    from ptycho_ray.training.device import resolve_device

    config = RefinementConfig(**settings)
    raw = as_scan(scan)
    place = resolve_device(ExecutionConfig(accelerator=device))
    begin = start.stitched if isinstance(start, Reconstruction) else start
    shown = RefinementProgress() if progress else None
    try:
        found = workflow.refine_cdi_image(raw, config, start=begin, device=place, on_progress=shown)
    finally:
        if shown is not None:
            shown.close()
    return Reconstruction(found.stitched, raw.at(found.positions_px, found.probe), None, refinement=found)
