"""Scans: made up, described, and what their patterns tell about the experiment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ptycho_ray.config.reading import Reading
from ptycho_ray.data import RawData
from ptycho_ray.interactive import as_scan

if TYPE_CHECKING:
    import torch


def simulate(*, electrons: bool = False, **settings: Any) -> RawData:
    """A scan of a known object with photon noise; ``settings`` are those of ``ptycho-ray simulate`` (with ``electrons`` those
    of ``ptycho-ray simulate --electrons``): ``object="siemens"``, ``n_patterns=400``, ``photons=1e6``, ``seed=1``.

    Raises:
        ConfigurationError: a setting does not exist, with the nearest one, or is out of range.
    """
    if electrons:
        from ptycho_ray.simulation.electrons import ElectronSpec, simulate_electrons

        return simulate_electrons(ElectronSpec(**settings)).scan
    from ptycho_ray.simulation import SimulationSpec
    from ptycho_ray.simulation import simulate as simulated

    return simulated(SimulationSpec(**settings))


def info(what: RawData | str | Path, *, gridsize: int = 1, **reading: Any) -> dict[str, Any]:
    """What ``ptycho-ray info --json`` says of a scan, or of a file: a scan in any format, a trained model, or an image.

    Args:
        gridsize: also the overlap within groups of gridsize x gridsize patterns.
        reading: how the file is read where it does not say so itself, as for :func:`ptycho_ray.load`.
    """
    from ptycho_ray.data.account import account_of_file, account_of_scan

    if isinstance(what, RawData):
        return account_of_scan(what, gridsize)
    path = Path(what)
    return account_of_result(path) or account_of_file(path, Reading().with_changes(reading), gridsize)[0]


def account_of_result(path: Path) -> dict[str, Any] | None:
    """What a trained model or an image is; None for anything else."""
    from ptycho_ray.bundle import is_shipped, read_manifest
    from ptycho_ray.config import ModelConfig
    from ptycho_ray.reconstruction.images import find_image, read_image
    from ptycho_ray.tracking import is_mlflow_uri

    if is_shipped(path) or is_mlflow_uri(path) or (path / "wts.h5.zip").is_file() or path.suffix == ".zip":
        manifest = read_manifest(path)
        history = summary_of_history(manifest["history"]) if manifest["history"] else None
        kept = {name: manifest[name] for name in ("created_by", "created_at", "config", "normalisation", "provenance")}
        cost = cost_of(ModelConfig(**manifest["config"]["model"]))
        members = 1 + len(manifest.get("ensemble", ()))
        return {
            "file": path, "kind": "trained model", "network": cost, "members": members, **kept, "training": history
        }  # fmt: skip
    if (found := find_image(path)) is not None:
        image = read_image(found)
        shape = list(image.pixels.shape)
        return {"file": found, "kind": "reconstructed image", "shape": shape, "origin_px": image.origin_px}
    return None


def cost_of(config: Any) -> dict[str, Any]:
    """Parameters of a network, and operations for one group of patterns."""
    from ptycho_ray.models.cost import network_cost

    return {"architecture": config.architecture, **dataclasses.asdict(network_cost(config))}


def summary_of_history(history: Any) -> dict[str, Any]:
    """First, last and best loss of a training run, and how far the positions have moved if they were learnt."""
    loss = history.get("val_loss") or history["loss"]
    moved = {name: values[-1] for name, values in history.items() if name.startswith("position_shift_rms_px")}
    return {
        **moved,
        "epochs": len(history["loss"]),
        "first_loss": history["loss"][0],
        "last_loss": history["loss"][-1],
        "best_validation_loss" if "val_loss" in history else "best_loss": min(loss),
    }


def orient(
    scan: RawData | str | Path,
    *,
    most_patterns: int = 160,
    most_passes: int = 48,
    seed: int = 0,
    device: torch.device | None = None,
    on_pass: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Which of the eight possible orders and signs the scan axes have, as ``ptycho-ray orient --json`` says it.

    ``options`` are those of :func:`ptycho_ray.load_data` that give the scan this orientation; empty if ``undecided``.
    ``on_pass`` is told how many passes over the patterns are done, of at most how many.
    """
    from ptycho_ray.refinement.orientation import find_orientation

    verdict = find_orientation(
        as_scan(scan),
        np.random.default_rng(seed),
        most_patterns=most_patterns,
        most_passes=most_passes,
        device=device,
        report=None if on_pass is None else lambda passes, _: on_pass(passes, most_passes),
    )
    best = verdict.best
    if verdict.undecided == "axes":
        answer = "undecided"
    elif verdict.undecided:
        answer = f"undecided between '{best.options()}' and '{best.turned().options()}' (rotated by 180 degrees)"
    else:
        answer = best.options()
    ranked = sorted(verdict.misfits.items(), key=lambda item: item[1])
    return {
        "orientation": answer,
        "options": {} if verdict.undecided else dataclasses.asdict(best),
        "undecided": verdict.undecided or None,
        "margin_over_other_axes": verdict.margin,
        "margin_over_turned_by_180_degrees": verdict.turned_margin,
        "standard_errors": [verdict.significance, verdict.turned_significance],
        "probe_is_its_own_mirror_image": verdict.probe_symmetry,
        "passes": verdict.passes,
        "misfit_on_held_out_patterns": [
            {"orientation": orientation.options(), "r_factor": misfit} for orientation, misfit in ranked
        ],
    }


def calibrate(scan: RawData | str | Path) -> dict[str, Any]:
    """Rotation, handedness, defocus and astigmatism of a scan of electrons, from its patterns: ``calibration`` and ``matrix``
    of ``ptycho-ray calibrate --json``, each value with its standard error and an answer."""
    from ptycho_ray.calibration.microscope import calibrate_scan

    found = calibrate_scan(as_scan(scan))
    return {"calibration": [dataclasses.asdict(finding) for finding in found.findings], "matrix": found.matrix}
