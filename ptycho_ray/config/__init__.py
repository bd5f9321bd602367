"""Every setting, typed and checked on construction.

The names, defaults and allowed values are those of the PtychoPINN configuration classes (so that a script ports by
changing an import); the settings that ptycho_ray adds stand last in their class and stay out of the legacy dictionary.
The objects are immutable: ``dataclasses.replace(config, nepochs=10)`` makes a changed copy.
``sources`` merges values from YAML files, the environment and the command line.
"""

from ptycho_ray.config.execution import ExecutionConfig
from ptycho_ray.config.legacy import (
    dataclass_to_legacy_dict,
    update_legacy_dict,
    validate_inference_config,
    validate_model_config,
    validate_training_config,
)
from ptycho_ray.config.model import Architecture, ModelConfig
from ptycho_ray.config.training import PRETRAINED, InferenceConfig, TrainingConfig, term_weights

#: The reference's name of the execution settings.
PyTorchExecutionConfig = ExecutionConfig

__all__ = [
    "PRETRAINED",
    "Architecture",
    "ExecutionConfig",
    "InferenceConfig",
    "ModelConfig",
    "PyTorchExecutionConfig",
    "TrainingConfig",
    "dataclass_to_legacy_dict",
    "term_weights",
    "update_legacy_dict",
    "validate_inference_config",
    "validate_model_config",
    "validate_training_config",
]
