"""How well a reconstruction explains the diffraction data; no truth is needed.

Patterns are intensities [n, N, N] (or [N, N]) in one unit, measured and predicted; a boolean ``valid`` [N, N] leaves
detector pixels out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptycho_ray.errors import InputError


def diffraction_r_factor(
    measured_intensity: NDArray[Any], predicted_intensity: NDArray[Any], *, valid: NDArray[np.bool_] | None = None
) -> float:
    """Crystallographic R factor of the amplitudes over all patterns: sum |sqrt(I) - sqrt(P)| / sum sqrt(I)."""
    measured, predicted = _select(measured_intensity, predicted_intensity, valid)
    root = np.sqrt(measured)
    total = root.sum()
    if total == 0:
        raise InputError(field="measured_intensity", found="zero everywhere", expected="at least one count")
    return float(np.abs(root - np.sqrt(predicted)).sum() / total)


def flat_object_r_factor(
    measured_intensity: NDArray[Any], probe_intensity: NDArray[Any], *, valid: NDArray[np.bool_] | None = None
) -> float:
    """R factor of an object without structure: the score that a reconstruction has to beat.

    ``probe_intensity`` [N, N] is the diffraction of the bare probe; it is scaled to the total intensity of each
    pattern.
    """
    measured = np.asarray(measured_intensity, dtype=np.float64)
    probe = np.asarray(probe_intensity, dtype=np.float64)
    if probe.shape != measured.shape[-2:]:
        raise InputError(field="probe_intensity", found=probe.shape, expected=f"one pattern {measured.shape[-2:]}")
    keep = np.ones(probe.shape, dtype=bool) if valid is None else valid
    share = (measured * keep).sum(axis=(-2, -1), keepdims=True) / (probe * keep).sum()
    return diffraction_r_factor(measured, share * probe, valid=valid)


def _select(
    measured: NDArray[Any], predicted: NDArray[Any], valid: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both arrays as float64 with the two pixel axes flattened to the valid pixels."""
    measured, predicted = np.asarray(measured, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if measured.shape != predicted.shape or measured.ndim < 2:
        raise InputError(field="predicted intensity", found=predicted.shape, expected=f"the measured {measured.shape}")
    if valid is not None and valid.shape != measured.shape[-2:]:
        raise InputError(field="valid", found=valid.shape, expected=f"one pattern {measured.shape[-2:]}")
    for name, values in (("measured intensity", measured), ("predicted intensity", predicted)):
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise InputError(field=name, found="a negative or non-finite value", expected="finite numbers, 0 or more")
    if valid is None:
        return measured.reshape(*measured.shape[:-2], -1), predicted.reshape(*predicted.shape[:-2], -1)
    return measured[..., valid], predicted[..., valid]
