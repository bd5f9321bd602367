"""What ``train`` does alike for a scan and for a folder of Ptychodus: settings from its options, and where it trains."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ptycho_ray.commands.common import Result, tell
from ptycho_ray.commands.output import refuse_relative_in_job
from ptycho_ray.config import TrainingConfig
from ptycho_ray.config.sources import Resolved
from ptycho_ray.files import require_file

if TYPE_CHECKING:
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
        fewest, colon, most = options.workers.rpartition(":")
        settings["execution.devices"] = most
        if colon:
            settings["execution.min_devices"] = fewest
    return settings


def way_of_training(options: Options, resolved: Resolved[TrainingConfig]) -> tuple[Callable[..., Result], bool]:
    """``train_cdi_model`` in this process or on a cluster, and whether it goes on with a run that was interrupted."""
    folder, execution = resolved.config.output_dir, resolved.execution
    if not (options.ray or options.workers is not None or execution.devices not in (1, "auto")):
        from ptycho_ray.training.ensemble import member_folder
        from ptycho_ray.workflow import train_cdi_model

        checkpoints = folder / "checkpoints"
        several = resolved.config.ensemble_members > 1
        last = (member_folder(checkpoints, 0) if several else checkpoints) / "last.safetensors"
        if options.resume:
            require_file(last, "--resume")
        resume_from = None if not options.resume else checkpoints if several else last
        return functools.partial(train_cdi_model, checkpoint_dir=checkpoints, resume_from=resume_from), options.resume
    refuse_relative_in_job(folder)
    tell("loading the program")
    from ptycho_ray.cluster.train import train_on_cluster, unfinished

    goes_on = options.resume or (not options.start_anew and unfinished(resolved.config, execution))
    resume = False if options.start_anew else options.resume or None
    return functools.partial(train_on_cluster, resume=resume, tell=tell), goes_on
