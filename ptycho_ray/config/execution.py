"""Settings of how a computation runs: device, precision, batches, checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from ptycho_ray.config.types import (
    DeviceCount,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    settings,
    split_list,
    without_tpu,
)

Schedule = Literal["Default", "Exponential", "WarmupCosine", "ReduceLROnPlateau"]
ClipAlgorithm = Literal["norm", "value", "agc"]


@settings
class ExecutionConfig:
    """How the computation runs: device, precision, batches, checkpoints. Nothing here changes the physics."""

    accelerator: Annotated[Literal["auto", "cpu", "gpu", "cuda", "mps"], BeforeValidator(without_tpu)] = "auto"
    """Device; 'auto' takes a GPU if there is one."""
    devices: DeviceCount = 1
    """Number of devices, each with a worker of its own on a Ray cluster; 'auto' takes all that the cluster has."""
    strategy: Literal["auto", "ddp"] = "auto"
    """Accepted for compatibility, without effect: several devices always share every batch and add up the gradients."""
    deterministic: bool | Literal["warn"] = True
    """Only algorithms that give the same numbers every time; 'warn' reports the others and goes on."""
    precision: Literal["32-true", "16-mixed", "bf16-mixed"] = "32-true"
    """Number format of the network; the physics is always computed with 32 bits. On a processor without bfloat16 arithmetic
    'bf16-mixed' is '32-true'."""
    gradient_clip_val: PositiveFloat | None = None
    """Overrides the training setting of that name."""
    gradient_clip_algorithm: ClipAlgorithm = "norm"
    """Used together with gradient_clip_val of this section."""
    accum_steps: PositiveInt = 1
    """Batches whose gradients are added before the optimiser steps."""
    num_workers: NonNegativeInt = 0
    """Threads that read batches ahead of the training. Processes are not needed: reading releases the interpreter."""
    pin_memory: bool = False
    """Page-locked host memory, for a faster copy to a GPU."""
    persistent_workers: bool = False
    """Accepted for compatibility, without effect: threads cost nothing to start."""
    prefetch_factor: PositiveInt | None = None
    """Batches that each of those threads reads ahead; 2 if not given."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of the network."""
    scheduler: Schedule = "Default"
    """Overrides the training setting of that name unless it is 'Default'."""
    enable_progress_bar: bool = False
    """Show a progress bar even where the output is no terminal."""
    enable_checkpointing: bool = True
    """Write checkpoints while training."""
    checkpoint_save_top_k: NonNegativeInt = 1
    """How many of the best checkpoints are kept, beside the last; on a cluster one more, in case that is damaged."""
    checkpoint_monitor_metric: str = "val_loss"
    """By which figure checkpoints and early stopping judge."""
    checkpoint_mode: Literal["min", "max"] = "min"
    """Whether less or more of it is better."""
    early_stop_patience: PositiveInt = 100
    """Epochs without improvement after which training stops."""
    logger_backend: Literal["csv", "tensorboard", "mlflow", "none"] = "csv"
    """Where the figures of each epoch are recorded."""
    recon_log_every_n_epochs: PositiveInt | None = None
    """Record the reconstructed image every so many epochs, with a logger that keeps pictures; never if not given."""
    recon_log_num_patches: PositiveInt = 4
    """Accepted for compatibility, without effect: the whole image is recorded and not example patches."""
    recon_log_fixed_indices: Annotated[tuple[NonNegativeInt, ...] | None, BeforeValidator(split_list)] = None
    """Accepted for compatibility, without effect."""
    recon_log_stitch: bool = False
    """Accepted for compatibility, without effect: the recorded image is always stitched."""
    recon_log_max_stitch_samples: PositiveInt | None = None
    """Make the recorded image of at most that many groups."""
    inference_batch_size: PositiveInt | None = None
    """Groups in one batch of a reconstruction; batch_size if not given."""
    middle_trim: NonNegativeInt = 0
    """Accepted for compatibility, without effect (as in PtychoPINN)."""
    pad_eval: bool = False
    """Accepted for compatibility, without effect (as in PtychoPINN)."""
    # What PtychoPINN does not have:
    min_devices: PositiveInt | None = None
    """Go on with as few devices as that when others are lost, and grow again to 'devices' when they come back."""
    cpus_per_device: PositiveInt = 1
    """Processor cores of each worker."""
    max_failures: NonNegativeInt = 3
    """How many losses of a worker a run survives; it goes on from its last checkpoint."""
    address: str | None = None
    """Ray cluster to run on, as host:port or 'auto'; the environment variable RAY_ADDRESS if not given, and without
    either a cluster of this machine alone."""
    storage_path: str | None = None
    """Folder or URI (s3://..., gs://...) for the checkpoints of a run on a cluster; every node must reach it. 'ray' in the
    output folder if not given."""
    wait_for_nodes_s: NonNegativeFloat = 0.0
    """How long to wait for an autoscaling cluster to start enough nodes; 0 refuses at once what does not fit."""
