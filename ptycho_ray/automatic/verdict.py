"""How well an image explains patterns that took no part in making it, beside a flat object and the photon noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ptycho_ray.refinement.solver import Refinement

#: An image is not to be trusted if it is not better than a flat object by so many standard errors. It explains little if that
#: is less than this share of what the flat object leaves beyond the noise; something is missing if it leaves more than so many
#: times the noise.
LEAST_SIGNIFICANCE, LITTLE, MISSING = 3.0, 0.5, 1.5


@dataclass(frozen=True)
class Verdict:
    """What an image explains of patterns that took no part in it.

    Attributes:
        patterns: how many judged.
        r_factor: their diffraction R-factor, sum of |sqrt(I) - sqrt(n)| over sum of sqrt(n).
        r_factor_of_a_flat_object: that of an object without structure under the same probe.
        r_factor_of_photon_noise: that of a perfect image; None if the photons are not known.
        times_noise: root mean square difference of amplitudes over that of photon noise; None if not known.
        explained: share of what the flat object leaves beyond the noise (beyond zero, if that is not known) that is explained.
        significance: difference to the flat object in standard errors over the patterns.
    """

    patterns: int
    r_factor: float
    r_factor_of_a_flat_object: float
    r_factor_of_photon_noise: float | None
    times_noise: float | None
    explained: float
    significance: float

    @property
    def trusted(self) -> bool:
        """Whether the image shows the sample, as far as the patterns can tell."""
        return self.significance >= LEAST_SIGNIFICANCE

    @property
    def sentence(self) -> str:
        """For people."""
        flat = f"a flat object {self.r_factor_of_a_flat_object:.4f}"
        if self.times_noise is None:
            compared = f"R = {self.r_factor:.4f} on {self.patterns} patterns that were left out of it ({flat})"
        else:
            compared = (
                f"explained to {self.times_noise:.2f} times the photon noise: R = {self.r_factor:.4f} on {self.patterns} "
                f"patterns that were left out of it (photon noise alone {self.r_factor_of_photon_noise:.4f}, {flat})"
            )
        if not self.trusted:
            return f"NOT TO BE TRUSTED: the image does not explain more than a flat object; {compared}"
        if self.times_noise is not None and self.explained < LITTLE:
            return (
                f"{compared}; only {self.explained:.0%} of what a flat object leaves beyond photon noise is explained"
            )
        if self.times_noise is not None and self.times_noise > MISSING:
            return f"{compared}; something about the experiment is still missing or wrong"
        return compared

    def to_dict(self) -> dict[str, Any]:
        """For machines."""
        return dict(self.__dict__) | {"trusted": self.trusted, "sentence": self.sentence}


def judge(refinement: Refinement, photons_per_unit: float | None) -> Verdict:
    """The verdict on the present estimate of a refinement, by its held-out patterns."""
    state, rows = refinement.run.state, refinement.held_out
    ours = refinement.judge_unseen(rows, photons_per_unit)
    image = state.object.clone()
    state.object.fill_(1)
    flat = refinement.judge_unseen(rows, photons_per_unit, intensities=True)
    state.object.copy_(image)
    known = ours.noise_is_known
    beyond = flat.misfit.sum() - (ours.noise.sum() if known else 0.0)
    return Verdict(
        patterns=len(rows),
        r_factor=ours.r_factor,
        r_factor_of_a_flat_object=flat.r_factor,
        r_factor_of_photon_noise=ours.noise_r_factor if known else None,
        times_noise=ours.times_noise if known else None,
        explained=float((flat.misfit.sum() - ours.misfit.sum()) / max(beyond, 1e-12)),
        significance=ours.significance_over(flat),
    )
