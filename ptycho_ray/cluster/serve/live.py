"""The live image of a scan that is still being measured. Plain numpy and torch, no Ray, no HTTP."""

from __future__ import annotations

import numpy as np
import torch

from ptycho_ray.cluster.serve.engine import LoadedModel


def predict(loaded: LoadedModel, frames: np.ndarray, domain: str) -> np.ndarray:
    """Patches complex64 [n, N, N] of patterns [n, N, N] that hold counts, intensities or amplitudes."""
    raise NotImplementedError
