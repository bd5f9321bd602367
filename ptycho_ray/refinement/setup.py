"""From a scan and settings to a run: checks and initial values of the unknowns."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptycho_ray.data.inspection import photons_per_unit
from ptycho_ray.data.patterns import evenly_spread
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.physics.optics import linear_overlap, probe_diameter_px
from ptycho_ray.physics.propagation import FarField, FreeSpace, Propagator
from ptycho_ray.reconstruction.stitching import StitchedObject
from ptycho_ray.refinement.config import RefinementConfig
from ptycho_ray.refinement.estimate import Estimate
from ptycho_ray.refinement.kernel import STABILISER, Kernel
from ptycho_ray.refinement.measured_amplitude import mean_pattern, measured_amplitude
from ptycho_ray.refinement.patch_geometry import Geometry
from ptycho_ray.refinement.probe_modes import first_eigenmodes, first_modes
from ptycho_ray.refinement.run import Run
from ptycho_ray.refinement.slab import slab_between
from ptycho_ray.refinement.tiles import Neighbours
from ptycho_ray.training.parallel import DataParallel

log = logging.getLogger(__name__)

#: Photons of a mean pattern that a scan in other units is taken for; only numerical guards depend on it.
ASSUMED_PHOTONS = 1e6
#: Smallest linear overlap of neighbouring probes for which a solution is known to be determined well.
LEAST_OVERLAP = 0.5
#: Share of the probe's photons in the border of the window, a sixteenth of it on each side, at which it does not fit.
MOST_IN_BORDER = 0.15


def share_in_border(probe: Tensor) -> float:
    """Share of the photons of a probe [P, N, N] in the border of its window."""
    border = _border(probe)
    intensity = probe.abs().square().sum(dim=0)
    return 1 - float(intensity[border:-border, border:-border].sum() / intensity.sum())


def _border(probe: Tensor) -> int:
    return max(1, probe.shape[-1] // 16)


def check_probe(probe: Tensor, source: str) -> None:
    """InputError if the probe does not fit into its window."""
    share = share_in_border(probe)
    if share > MOST_IN_BORDER:
        raise InputError(
            "the probe is larger than its window",
            file=source or None,
            field="probeGuess",
            found=f"{share:.0%} of its intensity within {_border(probe)} pixels of the edge",
            expected=f"less than {MOST_IN_BORDER:.0%}",
            hint="The window is N pixels of the object; a larger one needs patterns with more pixels, or finer "
            "sampling; a smaller probe of electrons has less defocus (--defocus-nm)",
        )


def build_run(
    scan: RawData,
    config: RefinementConfig,
    start: StitchedObject | None,
    probe: NDArray[np.complex64] | None,
    learn: NDArray[np.int64],
    parallel: DataParallel,
    device: torch.device,
    tiles: Neighbours | None = None,
) -> tuple[Run, float]:
    """A run at its first iteration, and the photons in a unit of the scan's intensity.

    Raises:
        InputError: the probe does not fit into its window, the starting image does not touch the scan, or the thickness is
            given in units that the scan does not have.
    """
    complex_type = torch.complex128 if config.precision == "double" else torch.complex64
    real_type = torch.float64 if config.precision == "double" else torch.float32
    counted, assumed = _photon_units(scan, tiles)
    photons = counted or assumed
    propagator: Propagator = FarField()
    if config.near_field_px2 is not None:
        propagator = FreeSpace(scan.N, config.near_field_px2, dtype=complex_type, device=device)
    amplitude = measured_amplitude(
        scan.patterns, photons, propagator, real_type, device, config.memory_GB, small=tiles is not None
    )
    mean = mean_pattern(amplitude, learn)
    if tiles is not None:
        mean = tiles.sum(mean * len(learn)) / tiles.sum(torch.full_like(mean[:1, :1], len(learn)))
    good = None
    if scan.bad_pixels is not None and scan.bad_pixels.any():
        good = propagator.arrange(torch.as_tensor(~scan.bad_pixels, dtype=real_type, device=device)).contiguous()
    slab, between = slab_between(scan, config), None
    if slab is not None:
        between = FreeSpace(scan.N, slab.distance_px2, slab.shift_px, dtype=complex_type, device=device)
    moving = config.position_start is not None
    geometry = Geometry(
        scan.positions_px,
        scan.N,
        margin_px=math.ceil(config.position_limit_px) if moving else 1,
        dtype=complex_type,
        device=device,
    )
    stabiliser = STABILISER if counted else 0.0
    few = config.uses_poisson(float(mean.mean()) if counted else None)
    if tiles is not None:
        tiles.meet(geometry)
    kernel = Kernel(amplitude, geometry, propagator, good=good, between=between, stabiliser=stabiliser, poisson=few)
    if probe is None and config.probe_guess == "mean_pattern":
        first = propagator.backward(mean.sqrt().to(complex_type))[None]
        if config.near_field_px2 is None:
            first = torch.fft.fftshift(first, dim=(-2, -1))
    else:
        first = torch.as_tensor(scan.probe if probe is None else probe, device=device).to(complex_type)
    if config.near_field_px2 is None:
        check_probe(first, scan.source)
    first = first_modes(first, config.probe_modes or len(first))
    overlap = linear_overlap(scan.positions_px, probe_diameter_px(first.cpu().numpy()))
    if overlap < LEAST_OVERLAP:
        log.warning(
            "neighbouring probes overlap by %.2f of their diameter; below %.1f the object is poorly determined",
            overlap,
            LEAST_OVERLAP,
        )
    first *= math.sqrt(float(mean.sum() / first.abs().square().sum()))
    generator = np.random.default_rng((config.seed, 5))
    eigen, weights = first_eigenmodes(
        torch.fft.fft2(first, norm="ortho"), config.eigenmodes, len(scan), torch.Generator().manual_seed(config.seed)
    )
    background = None
    if config.background_start is not None:
        background = torch.zeros(scan.N, scan.N, dtype=real_type, device=device)
    state = Estimate(
        _first_object(start, geometry, config.slices, complex_type, device),
        torch.fft.fft2(first, norm="ortho"),
        eigen,
        weights,
        torch.ones(len(scan), dtype=real_type, device=device),
        background,
        None if config.tilt_start is None or slab is None else torch.zeros(2, dtype=torch.float64, device=device),
    )
    run = Run(kernel, state, config, learn, generator, parallel, tiles)
    if start is not None or probe is not None:
        _match_photons(run)
    if tiles is not None:
        tiles.share_probe(state, len(learn))
    return run, photons


def _photon_units(scan: RawData, tiles: Neighbours | None) -> tuple[float | None, float]:
    """Photons in a unit of intensity, counted (None if they cannot be) and assumed; the same for all tiles of a scan."""
    counted = photons_per_unit(scan)
    energy = 1.0 if scan.counts_are_photons else float(scan.pattern_energies().mean())
    if tiles is not None:
        (counted,) = tiles.first([counted or 0.0])
        (energy,) = tiles.mean([energy], len(scan))
    return counted or None, 1.0 if scan.counts_are_photons else ASSUMED_PHOTONS / energy


def _first_object(
    start: StitchedObject | None, geometry: Geometry, slices: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """One everywhere; the last slice is the starting image where that is covered."""
    image = torch.ones(slices, geometry.height, geometry.width, dtype=dtype, device=device)
    if start is None:
        return image
    row, column = (round(a - b) for a, b in zip(start.origin_px, geometry.origin_px, strict=True))
    height, width = start.image.shape
    rows = slice(max(row, 0), min(row + height, geometry.height))
    columns = slice(max(column, 0), min(column + width, geometry.width))
    theirs = (slice(rows.start - row, rows.stop - row), slice(columns.start - column, columns.stop - column))
    covered = start.covered()[theirs] if rows.stop > rows.start and columns.stop > columns.start else np.zeros(0, bool)
    if not covered.any():
        raise InputError(
            field="start",
            found=f"an image of {height} x {width} pixels at {start.origin_px}",
            expected="one that overlaps the scanned area",
        )
    image[-1, rows, columns] = torch.where(
        torch.as_tensor(covered), torch.as_tensor(start.image[theirs]).to(dtype), torch.ones((), dtype=dtype)
    ).to(device)
    return image


def _match_photons(run: Run) -> None:
    """Scale the probe so that the first object explains the photons of some patterns, evenly spread."""
    rows = run.tensor(run.rows[evenly_spread(len(run.rows), 32)])
    factor = run.kernel.best_scale(run.kernel.forward(run.state, rows)).median()
    run.state.probe_spectrum.mul_(factor)
