"""The constants that relate file units, photons, network input and network output.

Legend: n patterns, B groups, C = gridsize**2 patterns a group, N pattern side.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError

if TYPE_CHECKING:
    from ptycho_ray.config import TrainingConfig
    from ptycho_ray.data.scan import Scan


@dataclass(frozen=True)
class Normalisation:
    """Scales of one training set, stored with the model and used unchanged from then on.

    photon_scale   photons per unit of file intensity (1 where the file holds counts)
    input_scale    network input = input_scale * sqrt(photons); its mean energy over the training groups is (N/2)**2
    object_scale   object transmission = object_scale * network output (kappa)
    mean_photons   mean photons in a pattern
    probe_photons  photons in the scaled probe, sum |P|**2 with P = probe * sqrt(photon_scale)

    The physical model is  photons = sum over modes |F(P * object_scale * output)|**2  with an orthonormal F.
    object_scale is the product of PtychoPINN's separate scales (callchain 3.4, 4.5, 4.7).
    """

    photon_scale: float
    input_scale: float
    object_scale: float
    mean_photons: float
    probe_photons: float

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not (np.isfinite(value) and value > 0):
                raise InputError(field=f"normalisation.{name}", found=value, expected="a finite number above 0")

    @classmethod
    def from_groups(cls, raw: Scan, nn_indices: NDArray[np.int64], config: TrainingConfig) -> Normalisation:
        """Measure the scales on the groups ``nn_indices`` [B, C] of ``raw``, streaming over its patterns."""
        N = raw.N
        energies = raw.pattern_energies()
        photon_scale = 1.0 if raw.counts_are_photons else config.nphotons / energies.mean()
        file_scale = (N / 2) / np.sqrt(energies[nn_indices].mean())
        level = config.model.probe_scale * mean_masked_probe(raw.probe)
        if level == 0:
            raise InputError(
                file=raw.source or None,
                field="probe",
                found="no amplitude within N/4 pixels of the centre",
                expected="a probe centred in its window",
            )
        return cls(
            photon_scale=float(photon_scale),
            input_scale=float(file_scale / np.sqrt(photon_scale)),
            object_scale=float(1 / (file_scale * level)),
            mean_photons=float(photon_scale * energies.mean()),
            probe_photons=float(photon_scale * np.sum(np.abs(raw.probe.astype(np.complex128)) ** 2)),
        )

    def to_dict(self) -> dict[str, float]:
        """The scales by name, for a JSON manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Normalisation:
        """The inverse of ``to_dict``; InputError on a missing or unknown name."""
        expected = {field.name for field in fields(cls)}
        if set(values) != expected:
            raise InputError(field="normalisation", found=sorted(values), expected=sorted(expected))
        return cls(**{name: float(value) for name, value in values.items()})


def central_disc(N: int) -> NDArray[np.bool_]:
    """Pixels closer than N//4 to the centre between pixels N//2 - 1 and N//2, bool [N, N] (callchain 4.5)."""
    distance = np.arange(N) - (N - 1) / 2
    return np.hypot(distance[:, None], distance[None, :]) < N // 4


def mean_masked_probe(probe_PNN: NDArray) -> float:
    """Mean over N x N pixels of the probe's amplitude inside the central disc; modes add as intensities."""
    amplitude = np.sqrt(np.sum(np.abs(probe_PNN.astype(np.complex128)) ** 2, axis=0))
    return float(np.mean(amplitude * central_disc(probe_PNN.shape[-1])))


def calculate_intensity_scale(nphotons: float, N: int) -> float:
    """PtychoPINN's intensity scale sqrt(nphotons) / (N/2): the photon amplitude per unit of network input."""
    return float(np.sqrt(nphotons) / (N / 2))


def normalize_data(amplitude: NDArray, N: int) -> NDArray[np.float32]:
    """Scale diffraction amplitudes (B, N, N, C) so that the mean energy of a pattern is (N/2)**2 (callchain 3.4)."""
    return np.float32(scale_nphotons(amplitude, (N / 2) ** 2)) * amplitude.astype(np.float32)


def scale_nphotons(amplitude: NDArray, nphotons: float) -> float:
    """The factor that gives diffraction amplitudes (B, N, N, C) a mean energy of ``nphotons`` a pattern."""
    energy = np.square(amplitude, dtype=np.float64).sum(axis=(1, 2)).mean()
    return float(np.sqrt(nphotons / energy))
