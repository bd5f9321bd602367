"""The end of a training: the results dictionary in the reference's terms (``docs/callchain.md``, section 3), and the bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ptycho_ray.bundle import Bundle, save_bundle
from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.data.container import PtychoDataContainer
from ptycho_ray.models.transfer import model_for_groups
from ptycho_ray.reconstruction.inference import predict_all
from ptycho_ray.training.scan_training import ScanTraining

Results = dict[str, Any]

#: Our figures under the names that Keras gave the reference's losses.
REFERENCE_NAMES = {
    "loss": "loss",
    "nll": "pred_intensity_loss",
    "mae": "intensity_scaler_inv_loss",
    "tv": "trimmed_obj_loss",
}


def training_results(
    scans: Sequence[ScanTraining], history: dict[str, list[float]], warnings: Sequence[str] = ()
) -> Results:
    """The results of one network, without anything of a test set."""
    return {
        "warnings": list(warnings),
        "history": _reference_history(history),
        "history_epochs": list(range(len(history["loss"]))),
        "model_instance": scans[0].model,
        "models": {scan.name: scan.model for scan in scans},
        "validation_containers": {scan.name: scan.validation for scan in scans},
        "train_container": scans[0].container,
        "validation_container": scans[0].validation,
    }


def _reference_history(history: dict[str, list[float]]) -> dict[str, list[float]]:
    """Our figures and, beside them, those of the reference under its names."""
    named = dict(history)
    for ours, theirs in REFERENCE_NAMES.items():
        for prefix in ("", "val_"):
            if prefix + ours in history:
                named[prefix + theirs] = history[prefix + ours]
    return named | {"train_loss": history["loss"]}


def finish_training(
    trained: Results,
    test: PtychoDataContainer | None,
    config: TrainingConfig,
    execution: ExecutionConfig,
    *,
    keep_patches: bool,
) -> Results:
    """The end of every training, wherever it ran: settings and test set join the results of
    :func:`training_results` (of an ensemble, of ``training.ensemble.together``).

    With ``keep_patches`` the (first) model predicts the patches of the test set, which are kept in memory.
    """
    results = trained | {"config": config, "test_container": test}
    if test is not None and keep_patches:
        model = model_for_groups(trained["model_instance"], test)
        results |= predict_all(model, test, execution.inference_batch_size or config.batch_size)
        results["stitched_obj"] = None
    return results


def save_inference_bundle(
    out_prefix: str | Path,
    results: Results,
    config: TrainingConfig | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write the trained model, or the ensemble, of a results dictionary and return the path of the file.

    Args:
        out_prefix: folder, in which the file is called ``wts.h5.zip``, or the file itself (a name that ends in .zip).
        results: of a training.
        config: the settings to store; those of the training if None.
        provenance: what else the bundle says of its origin.
    """
    members = tuple(results.get("ensemble", ())[1:])
    settings = results["config"] if config is None else config
    return save_bundle(
        out_prefix, Bundle(results["model_instance"], settings, provenance or {}, results["history"], members)
    )
