"""Determination of the orientation of the scan axes. Eight orientations are tried; the data may leave it undecided.

Under each of the eight orientations of the positions (rows and columns exchanged or not, each with either sign) the object
is solved for directly with the probe of the file, and held-out patterns are predicted. The probe is not fitted: several
free probe modes would hide a wrong sign.

Rotating all positions by 180 degrees is a special case. The rotated and conjugated object under the rotated and
conjugated probe gives the same data: if the probe is (nearly) its own rotated conjugate, the data cannot distinguish
the two, and only prior knowledge of the probe can. The result is then "undecided", however good the fit.

Legend: n patterns, N pattern side, k patterns held out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ptycho_ray.data.prepared import cropped_probe
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.errors import InputError
from ptycho_ray.refinement.batching import held_out_patterns
from ptycho_ray.refinement.direct import DirectSolver

MOST_PATTERNS = 160
MOST_PIXELS = 64
HELD_OUT = 0.2
PASSES_AT_A_TIME = 8
MOST_PASSES = 48
SMALLEST_MARGIN = 0.02
"""Fraction by which the misfit of the next best orientation must be larger."""
SMALLEST_SIGNIFICANCE = 3.0
"""Mean difference of the held-out misfits in units of its standard error."""
CLEAR_MARGIN, CLEAR_SIGNIFICANCE = 0.15, 6.0


@dataclass(frozen=True)
class Orientation:
    """A transformation of the positions of a scan, in the order of ``load_data``: signs first, then the exchange."""

    flip_x: bool = False
    flip_y: bool = False
    swap_xy: bool = False

    def apply(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Positions [n, 2] (row, column) oriented this way."""
        turned = positions * np.array([-1.0 if self.flip_y else 1.0, -1.0 if self.flip_x else 1.0])
        return turned[:, ::-1].copy() if self.swap_xy else turned

    @property
    def matrix(self) -> NDArray[np.float64]:
        """The same as a map of (row, column), [2, 2]."""
        return self.apply(np.eye(2)).T

    def turned(self) -> Orientation:
        """The same, turned by 180 degrees."""
        return Orientation(not self.flip_x, not self.flip_y, self.swap_xy)

    def options(self) -> str:
        """The options of ``ptycho-ray convert`` that do this; 'as stored' for none."""
        names = [name for name in ("flip_x", "flip_y", "swap_xy") if getattr(self, name)]
        return " ".join(f"--{name.replace('_', '-')}" for name in names) or "as stored"


EIGHT = tuple(Orientation(x, y, swap) for swap in (False, True) for y in (False, True) for x in (False, True))


@dataclass(frozen=True)
class Verdict:
    """The outcome.

    best            the orientation with the smallest misfit on held-out patterns
    undecided       what cannot be told: '' (nothing), '180 degrees', or 'axes'
    margin          relative excess of the misfit of the best orientation that is neither ``best`` nor ``best`` turned
    turned_margin   relative excess of ``best`` turned by 180 degrees
    significance, turned_significance   the same differences in standard errors over the held-out patterns
    probe_symmetry  how much the probe is its own turned conjugate, 0 to 1
    misfits         mean R-factor on the held-out patterns of each of the eight
    passes          passes over the data that were made
    """

    best: Orientation
    undecided: str
    margin: float
    turned_margin: float
    significance: float
    turned_significance: float
    probe_symmetry: float
    misfits: dict[Orientation, float]
    passes: int


def find_orientation(
    scan: RawData,
    generator: np.random.Generator,
    *,
    most_patterns: int = MOST_PATTERNS,
    most_passes: int = MOST_PASSES,
    device: torch.device | None = None,
    report: Callable[[int, Verdict], None] | None = None,
) -> Verdict:
    """Solve under all eight orientations until the result is clear or after ``most_passes`` passes. Of a long scan,
    the ``most_patterns`` around its middle are used, and the middle ``MOST_PIXELS`` of large detectors.

    Raises:
        InputError: fewer than 8 patterns.
    """
    photons, probe, positions, bad = reduced_scan(scan, most_patterns, device)
    held_out = held_out_patterns(len(positions), HELD_OUT, generator)
    judged = np.flatnonzero(held_out)
    solvers = {
        each: DirectSolver(photons, each.apply(positions), probe, learn=~held_out, bad_pixels=bad) for each in EIGHT
    }
    symmetry = probe_symmetry(probe.cpu().numpy())
    passes = 0
    while True:
        for solver in solvers.values():
            for _ in range(PASSES_AT_A_TIME):
                solver.step()
        passes += PASSES_AT_A_TIME
        verdict = judge({each: s.pattern_r_factors(judged) for each, s in solvers.items()}, symmetry, passes)
        if report is not None:
            report(passes, verdict)
        clear = min(verdict.margin, verdict.turned_margin) > CLEAR_MARGIN
        sure = min(verdict.significance, verdict.turned_significance) > CLEAR_SIGNIFICANCE
        if (clear and sure) or passes >= most_passes:
            return verdict


def judge(misfits: dict[Orientation, NDArray[np.float64]], symmetry: float, passes: int) -> Verdict:
    """The verdict from the misfit of each held-out pattern [k] under each orientation."""
    means = {each: float(values.mean()) for each, values in misfits.items()}
    best = min(means, key=lambda each: means[each])
    others = [each for each in means if each not in (best, best.turned())]
    rival = min(others, key=lambda each: means[each])

    def compare(other: Orientation) -> tuple[float, float]:
        difference = misfits[other] - misfits[best]
        error = float(difference.std(ddof=1) / np.sqrt(len(difference))) if len(difference) > 1 else np.inf
        excess = means[other] / means[best] - 1 if means[best] > 0 else np.inf
        return excess, float(difference.mean() / max(error, 1e-12))

    (margin, significance), (turned_margin, turned_significance) = compare(rival), compare(best.turned())
    undecided = ""
    if turned_margin < SMALLEST_MARGIN or turned_significance < SMALLEST_SIGNIFICANCE:
        undecided = "180 degrees"
    if margin < SMALLEST_MARGIN or significance < SMALLEST_SIGNIFICANCE:
        undecided = "axes"
    return Verdict(best, undecided, margin, turned_margin, significance, turned_significance, symmetry, means, passes)


def probe_symmetry(probe: NDArray) -> float:
    """Overlap of the first probe mode [P, N, N] with its turned conjugate, best over small shifts: 1 for a symmetric one."""
    mode = probe[0]
    turned = np.conj(mode[::-1, ::-1])
    correlation = np.fft.ifft2(np.fft.fft2(mode) * np.conj(np.fft.fft2(turned)))
    return float(np.abs(correlation).max() / np.sum(np.abs(mode) ** 2))


def _around_the_middle(positions: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    distance = np.linalg.norm(positions - np.median(positions, axis=0), axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:count])


def reduced_scan(
    scan: RawData, most_patterns: int, device: torch.device | None = None
) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.float64], NDArray[np.bool_] | None]:
    """Photons, probe, positions about their middle and bad pixels of the patterns around the middle of a scan, seen by the
    middle of a large detector; InputError if there are fewer than 8."""
    for field, count in (("patterns", len(scan)), ("most_patterns", most_patterns)):
        if count < 8:
            raise InputError(file=scan.source or None, field=field, found=count, expected="at least 8")
    rows = _around_the_middle(scan.positions_px, most_patterns)
    photons, probe, bad = scan.patterns.intensity(rows), scan.probe, scan.bad_pixels
    positions = scan.positions_px[rows]
    if scan.N > MOST_PIXELS:
        start = scan.N // 2 - MOST_PIXELS // 2
        window = np.s_[start : start + MOST_PIXELS]
        photons = photons[:, window, window]
        bad = None if bad is None else bad[window, window]
        probe = cropped_probe(probe, MOST_PIXELS)
        positions = positions * (MOST_PIXELS / scan.N)
    positions = positions - positions.mean(axis=0)
    there = device or torch.device("cpu")
    return torch.from_numpy(np.ascontiguousarray(photons)).to(there), torch.from_numpy(probe).to(there), positions, bad
