"""Settings that the scans, and the recommendation, decide where nobody did."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ptycho_ray.bundle import read_manifest
from ptycho_ray.config import TrainingConfig
from ptycho_ray.config.recommended import recommended_settings
from ptycho_ray.config.sources import Resolved
from ptycho_ray.data import RawData


def fitted_to_scans(resolved: Resolved[TrainingConfig], scans: Sequence[RawData]) -> TrainingConfig:
    """The configuration with the N of the first scan and all positions, and the network of ``initial_model``, or else the
    recommended one, where no source said otherwise."""
    config = resolved.config
    if config.initial_model is not None:
        theirs = read_manifest(config.initial_model)["config"]["model"]
        taken = {name: value for name, value in theirs.items() if not resolved.was_given(f"model.{name}")}
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **taken))
    config = _with(config, recommended_where_open(resolved, config, scans))
    if not resolved.was_given("model.N"):
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, N=scans[0].N))
    if not (resolved.was_given("n_groups") or resolved.was_given("n_images")):
        config = dataclasses.replace(config, n_groups=max(len(scan) for scan in scans))
    return config


def recommended_where_open(
    resolved: Resolved[TrainingConfig], config: TrainingConfig, scans: Sequence[RawData], swept: Sequence[str] = ()
) -> dict[str, Any]:
    """The recommended settings (:mod:`ptycho_ray.config.recommended`) by name, for ``config`` as it follows from ``resolved``;
    names that are ``swept`` count as given."""
    given = {name for name in resolved.provenance if resolved.was_given(name)} | set(swept)
    if config.initial_model is not None:
        given |= {f"model.{field.name}" for field in dataclasses.fields(config.model)}
    return recommended_settings(
        given,
        architecture=config.model.architecture,
        probe_conditioning=config.model.probe_conditioning,
        probe_is_known=not any(scan.probe_is_guess for scan in scans),
    )


def _with(config: TrainingConfig, values: dict[str, Any]) -> TrainingConfig:
    network = {name.removeprefix("model."): value for name, value in values.items() if name.startswith("model.")}
    others = {name: value for name, value in values.items() if not name.startswith("model.")}
    return dataclasses.replace(config, model=dataclasses.replace(config.model, **network), **others)
