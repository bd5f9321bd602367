"""What ``train`` does alike for a scan and for a folder of Ptychodus: settings from its options, and where it trains."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptycho_ray.commands.common import Result, devices_of, tell
from ptycho_ray.config import TrainingConfig
from ptycho_ray.config.sources import Resolved
from ptycho_ray.files import Part, digests_in_threads, require_file

if TYPE_CHECKING:
    import numpy as np

    from ptycho_ray.commands.train import Options


def settings_of(options: Options) -> dict[str, Any]:
    """The settings that the command's own options stand for."""
    settings: dict[str, Any] = {}
    if options.ensemble is not None:
        settings["ensemble_members"] = options.ensemble
    if options.scans:
        settings |= {"train_data_file": options.scans[0], "further_train_data_files": options.scans[1:]}
    if options.init is not None:
        settings["initial_model"] = options.init
    if options.workers is not None:
        settings |= {f"execution.{name}": value for name, value in devices_of(options.workers).items()}
    return settings


@dataclass(frozen=True)
class Way:
    """Where and how it is trained: ``train_cdi_model``, ``reassemble_cdi_image`` and ``digests_in_threads`` in this process or
    on a cluster, and whether it goes on with a run that was interrupted."""

    train: Callable[..., Result]
    reassemble: Callable[..., tuple[np.ndarray, np.ndarray, Result]]
    goes_on: bool
    digests_of: Callable[[Sequence[Part]], list[bytes]] = digests_in_threads


def way_of_training(options: Options, resolved: Resolved[TrainingConfig]) -> Way:
    """The way that options and settings ask for."""
    folder, execution = resolved.config.output_dir, resolved.execution
    if not (options.ray or options.workers is not None or execution.devices not in (1, "auto")):
        from ptycho_ray.training.ensemble import member_folder
        from ptycho_ray.workflow import reassemble_cdi_image, train_cdi_model

        checkpoints = folder / "checkpoints"
        several = resolved.config.ensemble_members > 1
        last = (member_folder(checkpoints, 0) if several else checkpoints) / "last.safetensors"
        if options.resume:
            require_file(last, "--resume")
        resume_from = None if not options.resume else checkpoints if several else last
        train = functools.partial(train_cdi_model, checkpoint_dir=checkpoints, resume_from=resume_from)
        return Way(train, reassemble_cdi_image, options.resume)
    tell("loading the program")
    from ptycho_ray.cluster.image import reassemble_on_cluster
    from ptycho_ray.cluster.train import train_on_cluster, unfinished
    from ptycho_ray.cluster.whole_scan import digests_on_cluster

    goes_on = options.resume or (not options.start_anew and unfinished(resolved.config, execution))
    resume = False if options.start_anew else options.resume or None
    train = functools.partial(train_on_cluster, resume=resume, tell=tell)
    return Way(train, reassemble_on_cluster, goes_on, functools.partial(digests_on_cluster, execution, tell))
