"""Optimiser, learning-rate schedule and gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn

from ptycho_ray.config import ExecutionConfig, TrainingConfig
from ptycho_ray.models.physics_informed import PhysicsInformedModel

#: Keras' value, so that a step equals the reference's; torch's own default is 1e-8.
ADAM_EPSILON = 1e-7
#: Factor a epoch of the 'Exponential' schedule.
EXPONENTIAL_DECAY = 0.95
#: The learning rate rises over so many first steps, whatever the schedule. Until its memory is filled, Adam moves every weight
#: by the whole rate; together they drive the phase of a wide head into saturation, to which a pattern has no objection.
FIRST_STEPS = 16
#: Adaptive clipping: a parameter of smaller norm counts as one of this norm.
SMALLEST_PARAMETER_NORM = 1e-3


def build_optimizer(
    models: Sequence[PhysicsInformedModel], config: TrainingConfig, execution: ExecutionConfig
) -> torch.optim.Optimizer:
    """The optimiser of the configuration for models that share one network, with a group for each trainable probe and
    scan, and for the intensity scales if they have a learning rate of their own.

    Each group holds ``base_lr``; the schedule multiplies it.
    """
    trained = [*models[0].network.parameters()]
    scales = [model.log_object_scale for model in models if config.intensity_scale_trainable]
    rate = config.intensity_scale_learning_rate
    if rate is None:
        trained += scales
    groups = [{"params": trained, "base_lr": execution.learning_rate, "lr": execution.learning_rate}]
    if scales and rate is not None:
        groups.append({"params": scales, "base_lr": rate, "lr": rate, "weight_decay": 0.0})
    for model in models if config.probe_trainable else ():
        rate = config.probe_learning_rate * float(model.probe.detach().abs().max())
        groups.append({"params": [model.probe_parts], "base_lr": rate, "lr": rate, "weight_decay": 0.0})
    rate = config.position_learning_rate
    for model in models if config.positions_trainable else ():
        assert model.positions is not None
        groups.append({"params": [model.positions.shifts_px], "base_lr": rate, "lr": rate, "weight_decay": 0.0})
    betas = (config.adam_beta1, config.adam_beta2)
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=config.momentum > 0
        )
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, betas=betas, eps=ADAM_EPSILON, weight_decay=config.weight_decay, fused=True)


def unfreeze(model: PhysicsInformedModel, config: TrainingConfig, epoch: int) -> None:
    """Make exactly those parameters of the physics trainable that may change in ``epoch``."""
    model.log_object_scale.requires_grad_(
        config.intensity_scale_trainable and epoch >= config.intensity_scale_start_epoch
    )
    model.probe_parts.requires_grad_(config.probe_trainable and epoch >= config.probe_start_epoch)
    if model.positions is not None:
        moves = config.positions_trainable and epoch >= config.position_start_epoch
        model.positions.shifts_px.requires_grad_(moves)


class Schedule:
    """Factor on the learning rates over the training, with all its state in ``state``.

    It rises over the FIRST_STEPS, and then:
    'Default' is constant; 'Exponential' multiplies by 0.95 an epoch; 'WarmupCosine' rises linearly over
    ``lr_warmup_epochs`` and falls as a cosine to ``lr_min_ratio``, step by step; 'ReduceLROnPlateau' multiplies by
    ``plateau_factor`` after more than ``plateau_patience`` epochs without improvement, down to ``plateau_min_lr``.
    """

    def __init__(self, config: TrainingConfig, execution: ExecutionConfig) -> None:
        self.config = config
        self.kind = execution.scheduler if execution.scheduler != "Default" else config.scheduler
        self.lowest = min(1.0, config.plateau_min_lr / execution.learning_rate)
        self.state: dict[str, float] = {"factor": 1.0, "best": math.inf, "bad_epochs": 0}

    def factor(self, progress: float, step: int = FIRST_STEPS) -> float:
        """The factor at ``progress`` epochs (a fraction within an epoch counts) and ``step`` steps, counted from 0."""
        return self._of_kind(progress) * min(1.0, (step + 1) / FIRST_STEPS)

    def _of_kind(self, progress: float) -> float:
        if self.kind == "Exponential":
            return EXPONENTIAL_DECAY ** math.floor(progress)
        if self.kind == "WarmupCosine":
            warmup, total = self.config.lr_warmup_epochs, self.config.nepochs
            if progress < warmup:
                return 0.1 + 0.9 * progress / warmup
            part = (progress - warmup) / max(total - warmup, 1e-9)
            low = self.config.lr_min_ratio
            return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))
        return self.state["factor"]

    def end_of_epoch(self, figure: float) -> None:
        """Pass the monitored metric to 'ReduceLROnPlateau'."""
        if self.kind != "ReduceLROnPlateau":
            return
        state = self.state
        if figure < state["best"] - self.config.plateau_threshold:
            state["best"], state["bad_epochs"] = figure, 0
            return
        state["bad_epochs"] += 1
        if state["bad_epochs"] > self.config.plateau_patience:
            state["factor"] = max(state["factor"] * self.config.plateau_factor, self.lowest)
            state["bad_epochs"] = 0


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float, algorithm: str) -> None:
    """Clip gradients in place: total norm ('norm'), each value ('value'), or unit-wise relative to the weights ('agc')."""
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    if algorithm == "norm":
        nn.utils.clip_grad_norm_(parameters, limit)
    elif algorithm == "value":
        nn.utils.clip_grad_value_(parameters, limit)
    else:
        for parameter in parameters:
            _clip_adaptively(parameter, limit)


def _clip_adaptively(parameter: nn.Parameter, limit: float) -> None:
    """Adaptive gradient clipping of Brock et al., arXiv:2102.06171, one output unit at a time."""
    gradient = parameter.grad
    assert gradient is not None
    axes = tuple(range(1, parameter.ndim))
    weight_norm = parameter.detach().square().sum(dim=axes, keepdim=True).sqrt().clamp_min(SMALLEST_PARAMETER_NORM)
    gradient_norm = gradient.square().sum(dim=axes, keepdim=True).sqrt()
    gradient.mul_((limit * weight_norm / gradient_norm.clamp_min(1e-12)).clamp_max(1.0))
