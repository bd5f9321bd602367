"""How well an image explains the patterns of a scan, by the forward model that the solver uses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptycho_ray.data.inspection import photons_per_unit
from ptycho_ray.data.patterns import evenly_spread
from ptycho_ray.data.raw_data import REFINED_POSITIONS, REFINED_PROBE, REFINED_SCAN, RawData, load_data
from ptycho_ray.errors import InputError
from ptycho_ray.reconstruction.images import Image
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.solver import Refinement
from ptycho_ray.refinement.unseen import PatternFigures

#: Of a longer scan, so many patterns are judged, evenly spread.
MOST_PATTERNS = 1024


def explained_diffraction(image: Image, scan: RawData, device: torch.device | None = None) -> dict[str, Any]:
    """How well an image explains the patterns of a scan with the probe and at the positions of the scan; no truth is needed.

    The scale between image and data is fitted. These patterns may have taken part in the image, which flatters it.

    Returns:
        ``r_factor``, ``r_factor_of_a_flat_object`` and, if the intensities can be counted in photons,
        ``r_factor_of_noise`` (that of a perfect image) and ``times_noise``; ``patterns``, how many were judged.

    Raises:
        InputError: no pattern lies inside the image.
    """
    picked = evenly_spread(len(scan), MOST_PATTERNS)
    positions = scan.positions_px[picked] - np.array(image.origin_px)
    low, high = scan.N // 2, np.array(image.pixels.shape) - (scan.N - scan.N // 2)
    inside = np.all((positions >= low - 1) & (positions <= high + 1), axis=1)
    if not inside.any():
        raise InputError(
            file=scan.source or None, found="no position inside the image", expected="a scan of the same sample"
        )
    judged = scan.select(picked[inside])
    weight = np.ones(image.pixels.shape, dtype=np.float32)
    start = StitchedObject(np.where(image.pixels == 0, 1, image.pixels), weight, image.origin_px)
    photons, rows = photons_per_unit(scan), np.arange(len(judged))

    def figures(each: StitchedObject, *, intensities: bool) -> PatternFigures:
        config = RefinementConfig(probe_start=None, held_out_fraction=0.0)
        made = Refinement(judged, config, start=each, probe=scan.probe, device=device)
        return made.judge_unseen(rows, photons, intensities=intensities)

    ours = figures(start, intensities=False)
    flat = figures(replace(start, image=np.ones_like(start.image)), intensities=True)
    found: dict[str, Any] = {"r_factor": ours.r_factor, "r_factor_of_a_flat_object": flat.r_factor}
    if ours.noise_is_known:
        found |= {"r_factor_of_noise": ours.noise_r_factor, "times_noise": ours.times_noise}
    return found | {"patterns": len(judged)}


def as_refined(scan: RawData, image: Path) -> RawData:
    """The scan with the probe and the positions that were found with an image: those of ``REFINED_SCAN`` beside it, if it is of
    this scan; else the scan itself."""
    folder = image if image.is_dir() else image.parent
    if (folder / REFINED_POSITIONS).is_file() and (folder / REFINED_PROBE).is_file():
        positions, probe = (np.load(folder / name, allow_pickle=False) for name in (REFINED_POSITIONS, REFINED_PROBE))
        return scan.at(positions, probe) if len(positions) == len(scan) and probe.shape[-1] == scan.N else scan
    file = folder / REFINED_SCAN
    if not file.is_file():
        return scan
    return if_of_the_same_scan(load_data(file), scan)


def if_of_the_same_scan(refined: RawData, scan: RawData) -> RawData:
    """``refined`` if its patterns are among those of ``scan``, else ``scan``."""
    energies = np.sort(scan.pattern_energies())
    nearest = np.searchsorted(energies, refined.pattern_energies()).clip(1, len(energies) - 1)
    gap = np.minimum(*(np.abs(energies[nearest - k] - refined.pattern_energies()) for k in (0, 1)))
    same = refined.N == scan.N and len(refined) <= len(scan) and bool((gap < 1e-3 * energies.mean()).mean() > 0.9)
    return refined if same else scan
