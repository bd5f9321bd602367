"""The names of PtychoPINN's PyTorch workflow (``ptycho_torch.workflows.components``), for scripts that call it.

Each is the function of ``ptycho_ray.workflow`` without the suffix (``docs/callchain.md``) that also takes ``overrides``;
``models`` and ``intensity_scale`` are in the results, where such scripts look for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_ray import workflow
from ptycho_ray.bundle import MODEL_NAMES, Bundle, save_bundle
from ptycho_ray.config import ExecutionConfig, ModelConfig, TrainingConfig
from ptycho_ray.config.porting import OTHER_NAMES
from ptycho_ray.config.types import unknown_setting
from ptycho_ray.models.physics_informed import PhysicsInformedModel
from ptycho_ray.reconstruction.inference import DiffractionToObject
from ptycho_ray.training.finish import Results
from ptycho_ray.training.scan_training import Scan

#: The model of a bundle that makes an object of diffraction.
INFERENCE_MODEL = "diffraction_to_obj"


def with_overrides(
    config: TrainingConfig, execution: ExecutionConfig | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[TrainingConfig, ExecutionConfig]:
    """The settings with ``overrides``: any setting of the training, the network or the execution, by its name.

    Raises:
        ConfigurationError: there is no such setting, or it does not take that value.
    """
    execution = execution or ExecutionConfig()
    parts: dict[str, dict[str, Any]] = {"training": {}, "model": {}, "execution": {}}
    known = {
        "training": {field.name for field in dataclasses.fields(TrainingConfig)} - {"model"},
        "model": {field.name for field in dataclasses.fields(ModelConfig)},
        "execution": {field.name for field in dataclasses.fields(ExecutionConfig)},
    }
    for given, value in (overrides or {}).items():
        name = OTHER_NAMES.get(given, given).rpartition(".")[2]
        part = next((part for part, names in known.items() if name in names), None)
        if part is None:
            raise unknown_setting(given, {*OTHER_NAMES, *(name for names in known.values() for name in names)})
        parts[part][name] = value
    model = dataclasses.replace(config.model, **parts["model"])
    return (
        dataclasses.replace(config, model=model, **parts["training"]),
        dataclasses.replace(execution, **parts["execution"]),
    )


def run_cdi_example_torch(
    train_data: Scan,
    test_data: Scan | None,
    config: TrainingConfig,
    flip_x: bool = False,
    flip_y: bool = False,
    transpose: bool = False,
    M: int = 20,
    do_stitching: bool = False,
    execution_config: ExecutionConfig | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None, Results]:
    """:func:`ptycho_ray.workflow.run_cdi_example` with ``overrides``; as there, it also writes the bundle to
    ``config.output_dir``."""
    config, execution = with_overrides(config, execution_config, overrides)
    amplitude, phase, results = workflow.run_cdi_example(
        train_data, test_data, config, flip_x, flip_y, transpose, M, do_stitching, execution=execution
    )
    workflow.save_inference_bundle(config.output_dir, results)
    return amplitude, phase, _with_their_names(results)


def train_cdi_model_torch(
    train_data: Scan,
    test_data: Scan | None,
    config: TrainingConfig,
    execution_config: ExecutionConfig | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Results:
    """:func:`ptycho_ray.workflow.train_cdi_model` with ``overrides``."""
    config, execution = with_overrides(config, execution_config, overrides)
    return _with_their_names(workflow.train_cdi_model(train_data, test_data, config, execution=execution))


def reassemble_cdi_image_torch(
    test_data: Scan,
    config: TrainingConfig,
    flip_x: bool = False,
    flip_y: bool = False,
    transpose: bool = False,
    M: int = 20,
    coord_scale: float = 1.0,
    *,
    train_results: Results,
) -> tuple[np.ndarray, np.ndarray, Results]:
    """:func:`ptycho_ray.workflow.reassemble_cdi_image` with the model of ``train_results``."""
    model = train_results["ensemble"] if "ensemble" in train_results else train_results["model_instance"]
    return workflow.reassemble_cdi_image(test_data, config, flip_x, flip_y, transpose, M, coord_scale, model=model)


def save_torch_bundle(
    models_dict: Mapping[str, PhysicsInformedModel | DiffractionToObject],
    base_path: str | Path,
    config: TrainingConfig,
    intensity_scale: float | None = None,
) -> Path:
    """Write ``base_path`` + ``.zip`` (``out/wts.h5`` becomes ``out/wts.h5.zip``) with the model ``diffraction_to_obj``; the
    scale is that of the model, whatever ``intensity_scale`` is."""
    model = models_dict[INFERENCE_MODEL]
    inner = model.model if isinstance(model, DiffractionToObject) else model
    return save_bundle(f"{base_path}.zip", Bundle(inner, config))


def load_inference_bundle_torch(
    bundle_dir: str | Path, model_name: str = INFERENCE_MODEL
) -> tuple[dict[str, DiffractionToObject], dict[str, Any]]:
    """The models of a bundle by name (one and the same), and its settings as the reference's flat dictionary.

    Raises:
        KeyError: the bundle holds no model of that name.
        ValueError, BundleError: as :func:`ptycho_ray.workflow.load_inference_bundle`.
    """
    if model_name not in MODEL_NAMES:
        raise KeyError(f"a bundle holds no model {model_name!r}, only {sorted(MODEL_NAMES)}")
    model, params = workflow.load_inference_bundle(bundle_dir)
    return dict.fromkeys((*MODEL_NAMES, "lightning_module"), model), params


def _with_their_names(results: Results) -> Results:
    """The results with the entries of the PyTorch workflow; ``models`` is a dictionary by the names in a bundle."""
    model = results["model_instance"]
    config: TrainingConfig = results["config"]
    return results | {
        "models": {INFERENCE_MODEL: model, "autoencoder": model},
        "intensity_scale": workflow.calculate_intensity_scale(config.nphotons, config.model.N),
    }
