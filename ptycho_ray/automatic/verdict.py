"""How well an image explains patterns that took no part in making it, beside a flat object and the photon noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.automatic.lens import probe_is_of_optics
from ptycho_ray.data.raw_data import RawData
from ptycho_ray.physics.optics import probe_diameter_px
from ptycho_ray.refinement.result import RefinementResult
from ptycho_ray.refinement.solver import Refinement
from ptycho_ray.refinement.unseen import PatternFigures

#: An image is not to be trusted if it is not better than a flat object by so many standard errors. It explains little if that
#: is less than this share of what the flat object leaves beyond the noise; something is missing if it leaves more than so many
#: times the noise.
LEAST_SIGNIFICANCE, LITTLE, MISSING = 3.0, 0.5, 1.5
#: Differences that are told: of the probe's width, of the scan's size, of positions in pixels.
OTHER_WIDTH, OTHER_SIZE, MOVED_PX = 0.05, 0.004, 0.01


@dataclass(frozen=True)
class Verdict:
    """What an image explains of patterns that took no part in it.

    Attributes:
        patterns: how many judged.
        r_factor: their diffraction R-factor, sum of |sqrt(I) - sqrt(n)| over sum of sqrt(n).
        r_factor_of_a_flat_object: that of an object without structure under the same probe.
        r_factor_of_noise: that of a perfect image; None if the photons are not known.
        times_noise: root mean square difference of amplitudes over that of photon noise; None if not known.
        explained: share of what the flat object leaves beyond the noise (beyond zero, if that is not known) that is explained.
        significance: difference to the flat object in standard errors over the patterns.
        flat_times_noise: ``times_noise`` of a flat object.
        findings: what was wrong or missing in the file and has been found.
    """

    patterns: int
    r_factor: float
    r_factor_of_a_flat_object: float
    r_factor_of_noise: float | None
    times_noise: float | None
    explained: float
    significance: float
    flat_times_noise: float | None = None
    findings: tuple[str, ...] = ()
    quantum: str = "photon"

    @property
    def trusted(self) -> bool:
        """Whether the image shows the sample, as far as the patterns can tell."""
        return self.significance >= LEAST_SIGNIFICANCE

    @property
    def sentence(self) -> str:
        """For people."""
        unseen = f"{self.patterns} patterns that were left out of it"
        flat = f"a flat object {self.r_factor_of_a_flat_object:.4f}"
        if self.times_noise is None or self.flat_times_noise is None:
            compared = f"R = {self.r_factor:.4f} on {unseen} ({flat})"
        else:
            compared = (
                f"explained to {self.times_noise:.2f} times the {self.quantum} noise on {unseen} (a flat object "
                f"{self.flat_times_noise:.2f}); R = {self.r_factor:.4f} (noise {self.r_factor_of_noise:.4f}, {flat})"
            )
        return "; ".join([*self._judgement(compared), *self.findings])

    def _judgement(self, compared: str) -> Iterator[str]:
        if not self.trusted:
            yield "NOT TO BE TRUSTED: the image does not explain more than a flat object"
        yield compared
        if self.trusted and self.times_noise is not None:
            if self.explained < LITTLE:
                yield f"only {self.explained:.0%} of what a flat object leaves beyond {self.quantum} noise is explained"
            elif self.times_noise > MISSING:
                yield "something about the experiment is still missing or wrong"

    def figures(self) -> dict[str, float]:
        """The numbers, by their names."""
        return {name: value for name, value in self.__dict__.items() if isinstance(value, int | float)}


class Judgement(NamedTuple):
    """How patterns that took no part in an image are explained by it, and by a flat object."""

    ours: PatternFigures
    flat: PatternFigures


def judgement(refinement: Refinement, photons_per_unit: float | None) -> Judgement:
    """That of the present estimate of a refinement, by its held-out patterns."""
    state, rows = refinement.run.state, refinement.held_out
    ours = refinement.judge_unseen(rows, photons_per_unit)
    image = state.object.clone()
    state.object.fill_(1)
    flat = refinement.judge_unseen(rows, photons_per_unit, intensities=True)
    state.object.copy_(image)
    return Judgement(ours, flat)


def judge(parts: Sequence[Judgement], findings: tuple[str, ...] = (), quantum: str = "photon") -> Verdict:
    """The verdict from the judgements of all processes that share a scan; ``quantum`` is what was counted."""
    ours, flat = (PatternFigures.of_all(figures) for figures in zip(*parts, strict=True))
    known = ours.noise_is_known
    beyond = flat.misfit.sum() - (ours.noise.sum() if known else 0.0)
    return Verdict(
        patterns=len(ours.misfit),
        r_factor=ours.r_factor,
        r_factor_of_a_flat_object=flat.r_factor,
        r_factor_of_noise=ours.noise_r_factor if known else None,
        times_noise=ours.times_noise if known else None,
        explained=float((flat.misfit.sum() - ours.misfit.sum()) / max(beyond, 1e-12)),
        significance=ours.significance_over(flat),
        flat_times_noise=flat.times_noise if known else None,
        findings=findings,
        quantum=quantum,
    )


def findings(
    scan: RawData, found: RefinementResult, matrix: NDArray[np.float64], first_px: NDArray[np.float64], frames: int
) -> Iterator[str]:
    """What was wrong or missing in a file, and has been found.

    Args:
        scan: as the file has it, without the frames that are left out.
        matrix: of the map by which its positions were changed, [2, 2].
        first_px: the positions after it, [n, 2].
        frames: how many frames the file has.
    """
    if frames > len(scan):
        yield f"{frames - len(scan):,} of {frames:,} frames left out"
    size = float(np.sqrt(abs(np.linalg.det(matrix))))
    if np.abs(np.round(matrix / size) - np.eye(2)).max() > 0:
        yield f"scan axes {np.round(matrix / size).astype(int).tolist()}"
    if abs(size - 1) > OTHER_SIZE:
        yield f"the scan in the file is {abs(size - 1) / size:.1%} too {'small' if size > 1 else 'large'}"
    width = probe_diameter_px(found.probe)
    if scan.probe_is_guess:
        yield f"no probe in the file; {width:.3g} px wide"
    elif scan.optics is not None and scan.optics.defocus_m is None and probe_is_of_optics(scan):
        yield f"no defocus in the file; the probe is {width:.3g} px wide"
    elif abs(ratio := probe_diameter_px(scan.probe) / width - 1) > OTHER_WIDTH:
        begun = "the probe in the file" if scan.optics is None else "the probe to begin with"
        unsaid = scan.optics is not None and scan.optics.defocus_m is None
        why = " (no defocus is stated: --defocus-nm)" if unsaid else ""
        yield f"{begun} is {abs(ratio):.0%} too {'wide' if ratio > 0 else 'narrow'}{why}"
    moved = found.positions_px - first_px
    moved = np.linalg.norm(moved - moved.mean(axis=0), axis=1)
    if (distance := float(np.sqrt(np.mean(moved**2)))) > MOVED_PX:
        yield f"positions corrected by {distance:.2f} px (rms)"
    if found.slab is not None and found.slab.tilt_mrad is not None and found.slab.tilt_error_mrad is not None:
        tilts = zip(found.slab.tilt_mrad, found.slab.tilt_error_mrad, strict=True)
        yield f"sample tilted by ({', '.join(f'{tilt:.1f} +- {error:.1f}' for tilt, error in tilts)}) mrad"
    if len(found.probe) > 1:
        photons = np.asarray(np.sum(np.abs(found.probe) ** 2, axis=(1, 2), dtype=np.float64))
        yield f"{len(photons)} incoherent modes ({', '.join(f'{share:.0%}' for share in photons / photons.sum())})"
    if found.background is not None:
        light = float(found.background.sum()) / float(scan.pattern_energies().mean())
        yield f"a background of {light:.1%} of the light"
    if (spread := float(found.intensity.std() / found.intensity.mean())) > 0:
        yield f"intensities that vary by {spread:.1%} (rms)"
