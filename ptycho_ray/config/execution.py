"""Settings of how a computation runs: device, precision, batches, checkpoints."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator

from ptycho_ray.config.types import (
    Accelerator,
    DeviceCount,
    GpuShare,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    settings,
    split_list,
)

Schedule = Literal["Default", "Exponential", "WarmupCosine", "ReduceLROnPlateau"]
ClipAlgorithm = Literal["norm", "value", "agc"]


@settings
class ExecutionConfig:
    """How the computation runs: device, precision, batches, checkpoints. These settings do not affect the physics."""

    accelerator: Accelerator = "auto"
    """Device: auto, cpu, gpu or cuda, cuda:1 (the GPU of that number), mps; 'auto' uses a GPU if there is one."""
    devices: DeviceCount = 1
    """Number of devices, one per worker on a Ray cluster; 'auto' uses all that the cluster has."""
    strategy: Literal["auto", "ddp"] = "auto"
    """Accepted for compatibility, without effect: several devices always share every batch and add up the gradients."""
    deterministic: bool | Literal["warn"] = True
    """Use only deterministic algorithms, and refuse to train where there is none; 'warn' reports the others and uses them."""
    precision: Literal["32-true", "tf32", "16-mixed", "bf16-mixed"] = "32-true"
    """Number format of the network's convolutions; the physics always has all 32 bits. 'tf32' rounds their input to 10 bits of
    mantissa on a GPU; on a processor it, and without bfloat16 arithmetic 'bf16-mixed', mean '32-true'."""
    gradient_clip_val: PositiveFloat | None = None
    """Overrides the training setting of that name."""
    gradient_clip_algorithm: ClipAlgorithm = "norm"
    """Used with the gradient_clip_val of this section."""
    accum_steps: PositiveInt = 1
    """Number of batches over which gradients are accumulated before each optimiser step."""
    num_workers: NonNegativeInt = 0
    """Threads that read batches ahead of the training, on a GPU at least one. Processes are not needed: reading releases the
    interpreter."""
    pin_memory: bool = False
    """Accepted for compatibility, without effect: what goes to a GPU always goes through page-locked memory."""
    persistent_workers: bool = False
    """Accepted for compatibility, without effect: threads cost nothing to start."""
    prefetch_factor: PositiveInt | None = None
    """Batches that each of those threads reads ahead; 2 if not given."""
    learning_rate: PositiveFloat = 1e-3
    """Learning rate of the network."""
    scheduler: Schedule = "Default"
    """Overrides the training setting of that name unless it is 'Default'."""
    enable_progress_bar: bool = False
    """Show a progress bar even if the output is not a terminal."""
    enable_checkpointing: bool = True
    """Write checkpoints during training."""
    checkpoint_save_top_k: NonNegativeInt = 1
    """How many of the best checkpoints are kept in addition to the last; on a cluster one more, in case the last is damaged."""
    checkpoint_monitor_metric: str = "val_loss"
    """Quantity by which checkpoints are ranked and training is stopped early."""
    checkpoint_mode: Literal["min", "max"] = "min"
    """Whether a lower or a higher value is better."""
    early_stop_patience: PositiveInt = 100
    """Epochs without improvement after which training stops."""
    logger_backend: Literal["csv", "tensorboard", "mlflow", "none"] = "csv"
    """Where the metrics of each epoch are recorded."""
    recon_log_every_n_epochs: PositiveInt | None = None
    """Record the reconstructed image every N epochs, if the logger stores pictures; never if not given."""
    recon_log_num_patches: PositiveInt = 4
    """Accepted for compatibility, without effect: the whole image is recorded and not example patches."""
    recon_log_fixed_indices: Annotated[tuple[NonNegativeInt, ...] | None, BeforeValidator(split_list)] = None
    """Accepted for compatibility, without effect."""
    recon_log_stitch: bool = False
    """Accepted for compatibility, without effect: the recorded image is always stitched."""
    recon_log_max_stitch_samples: PositiveInt | None = None
    """Maximum number of groups used for the recorded image."""
    inference_batch_size: PositiveInt | None = None
    """Groups per batch during reconstruction; batch_size if not given."""
    middle_trim: NonNegativeInt = 0
    """Accepted for compatibility, without effect (as in PtychoPINN)."""
    pad_eval: bool = False
    """Accepted for compatibility, without effect (as in PtychoPINN)."""
    # What PtychoPINN does not have:
    min_devices: PositiveInt | None = None
    """Minimum number of devices with which a run continues when others are lost; it grows again to 'devices' when
    they return."""
    split: Literal["auto", "data", "tiles"] = "auto"
    """How workers share the refinement of one scan: with 'data' every batch, and each worker has the whole scan; with 'tiles'
    each has its own patterns and its part of the object; 'auto' takes tiles if a worker has no room for the whole."""
    cpus_per_device: PositiveInt = 1
    """Processor cores per worker."""
    gpu_share: GpuShare = 1.0
    """Share of a GPU per worker on a cluster: with 0.25 four of them use one."""
    max_failures: NonNegativeInt = 3
    """How many losses of a worker a run survives; each time it resumes from its last checkpoint."""
    address: str | None = None
    """Ray cluster to run on, as host:port or 'auto'; by default the environment variable RAY_ADDRESS or, if unset, a
    cluster on this machine only."""
    storage_path: str | None = None
    """Folder or URI (s3://..., gs://...) for the checkpoints of a run on a cluster; every node must have access to
    it. 'ray' in the output folder if not given."""
    wait_for_nodes_s: NonNegativeFloat = 0.0
    """How long to wait for an autoscaling cluster to start enough nodes; with 0, a run that does not fit is refused at once."""
