"""ptycho_ray: physics-informed neural reconstruction of ptychography scans.

The names below are loaded when they are first used: ``import ptycho_ray`` itself loads neither torch nor ray.
"""

from __future__ import annotations

import importlib
from typing import Any

from ptycho_ray.interop.old_paths import install as _find_old_paths

__version__ = "0.1.0"

_HOME = {
    "ModelConfig": "config",
    "TrainingConfig": "config",
    "InferenceConfig": "config",
    "ExecutionConfig": "config",
    "PyTorchExecutionConfig": "config",
    "InputError": "errors",
    "ConfigurationError": "errors",
    "MissingFileError": "errors",
    "BundleError": "errors",
    "resolve_config": "config.sources",
    "setup_configuration": "config.sources",
    "load_yaml_config": "config.sources",
    "parse_arguments": "config.command_line",
    "RawData": "interactive",
    "PtychoDataContainer": "data.container",
    "load_data": "interactive",
    "load": "interactive",
    "probe": "interactive",
    "reconstruct": "interactive",
    "train": "interactive",
    "simulate": "api.scans",
    "info": "api.scans",
    "orient": "api.scans",
    "calibrate": "api.scans",
    "refine": "api.solving",
    "evaluate": "api.judging",
    "compare": "api.judging",
    "save": "api.keeping",
    "show": "api.keeping",
    "example": "examples.shipped",
    "register_network": "models.registry",
    "register_likelihood": "api.registering",
    "register_format": "api.registering",
    "register_source": "api.registering",
    "Probe": "interactive",
    "Reconstruction": "interactive",
    "create_ptycho_data_container": "workflow",
    "train_cdi_model": "workflow",
    "reassemble_cdi_image": "workflow",
    "run_cdi_example": "workflow",
    "save_outputs": "workflow",
    "save_inference_bundle": "workflow",
    "load_inference_bundle": "workflow",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


_find_old_paths()
