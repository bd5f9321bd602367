"""Settings that the scans decide where nobody did."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ptycho_ray.bundle import read_manifest
from ptycho_ray.config import TrainingConfig
from ptycho_ray.config.sources import Resolved
from ptycho_ray.data import RawData


def fitted_to_scans(resolved: Resolved[TrainingConfig], scans: Sequence[RawData]) -> TrainingConfig:
    """The configuration with the N of the first scan and all positions, and the network of ``initial_model`` if there is one,
    where no source said otherwise."""
    config = resolved.config
    if config.initial_model is not None:
        theirs = read_manifest(config.initial_model)["config"]["model"]
        taken = {name: value for name, value in theirs.items() if not resolved.was_given(f"model.{name}")}
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **taken))
    if not resolved.was_given("model.N"):
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, N=scans[0].N))
    if not (resolved.was_given("n_groups") or resolved.was_given("n_images")):
        config = dataclasses.replace(config, n_groups=max(len(scan) for scan in scans))
    return config
