"""``ptycho-ray pretrain``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ptycho_ray.commands.common import Common, DeviceOptions, Result
from ptycho_ray.commands.output import WritingOptions, folder_to_write
from ptycho_ray.config import ExecutionConfig
from ptycho_ray.config.command_line import parse
from ptycho_ray.files import jsonable, write_json


@dataclass(kw_only=True)
class Options(Common, WritingOptions, DeviceOptions):
    """Train a general network on simulated scans, which are generated during the training.

    The result is a bundle that reconstructs scans with any probe and any pattern size
    ('ptycho-ray reconstruct SCAN --model-path FOLDER'), and from which training on a scan can start
    ('ptycho-ray train SCAN --init FOLDER').

    With --prior, a denoiser instead that knows what objects look like: the learned prior of the solver
    ('ptycho-ray refine SCAN --prior FOLDER'); 'ptycho-ray pretrain --prior --help' shows its settings.

    Example: ptycho-ray pretrain --nepochs 40 --output-dir pretrained
    """

    prior: bool = False
    """Train a prior for the solver, from simulated objects and photographs."""

    resume: bool = False
    """Resume an interrupted run from the checkpoint in --output-dir."""


def run(words: Sequence[str]) -> Result:
    from ptycho_ray.bundle import Bundle, save_bundle
    from ptycho_ray.display.figures import plot_history
    from ptycho_ray.display.report import Section, provenance, write_report
    from ptycho_ray.models.denoiser import FILE_NAME, save_prior
    from ptycho_ray.training.pretraining import PretrainingConfig, pretrain
    from ptycho_ray.training.prior_training import PriorConfig, pretrain_prior

    kind: type[Any] = PriorConfig if "--prior" in words else PretrainingConfig
    typed = parse(Options, words, prog="ptycho-ray pretrain", config_class=kind, with_model=False)
    own = {name: value for name, value in typed.settings.items() if not name.startswith("execution.")}
    config = kind(**own)
    execution = ExecutionConfig(
        **{n.removeprefix("execution."): value for n, value in typed.settings.items() if n not in own}
    )
    folder = folder_to_write(
        config.output_dir,
        given="output_dir" in typed.settings,
        overwrite=typed.options.overwrite,
        resume=typed.options.resume,
    )
    config = replace(config, output_dir=folder)
    origin = provenance(seed=config.seed, data_files=[]) | {"pretraining": jsonable(asdict(config))}
    result: Result = {"report": folder / "report.html", "epochs": config.nepochs}
    if typed.options.prior:
        told, shown, unseen = _tells(config.nepochs, "seen"), "val_seen", "images"
        network, history = pretrain_prior(config, execution, resume=typed.options.resume, on_epoch=told)
        result["prior"] = save_prior(folder / FILE_NAME, network)
    else:
        told, shown, unseen = _tells(config.nepochs, "retrieved_loss"), "val_retrieved_loss", "scans"
        pretrained = pretrain(config, execution, resume=typed.options.resume, on_epoch=told)
        history = pretrained.history
        result["model"] = save_bundle(folder, Bundle(pretrained.model, pretrained.config, origin, history))
    result |= {"error": history["val_loss"][-1], "error_of_what_the_network_is_shown": history[shown][-1]}
    write_report(
        result["report"],
        title="Pretraining",
        sections=[
            Section("Training", pictures=[(f"Errors of patches of unseen {unseen}.", plot_history(history))]),
            Section("Provenance", facts=origin, folded=True),
        ],
    )
    write_json(folder / "result.json", jsonable(result))
    return result


def _tells(epochs: int, shown: str) -> Callable[[int, dict[str, float]], None]:
    """Says after every epoch how large the error is, and that of what the network is shown."""

    def tell(epoch: int, figures: dict[str, float]) -> None:
        errors = f"loss {figures['loss']:.4f}, unseen {figures['val_loss']:.4f} (shown {figures[f'val_{shown}']:.4f})"
        print(f"epoch {epoch}/{epochs}: {errors}", file=sys.stderr)

    return tell
