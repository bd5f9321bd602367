"""``ptycho-ray pretrain``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

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

    Example: ptycho-ray pretrain --nepochs 40 --output-dir pretrained
    """

    resume: bool = False
    """Resume an interrupted run from the checkpoint in --output-dir."""


def run(words: Sequence[str]) -> Result:
    from ptycho_ray.bundle import Bundle, save_bundle
    from ptycho_ray.display.figures import plot_history
    from ptycho_ray.display.report import Section, provenance, write_report
    from ptycho_ray.training.pretraining import PretrainingConfig, pretrain

    typed = parse(Options, words, prog="ptycho-ray pretrain", config_class=PretrainingConfig, with_model=False)
    own = {name: value for name, value in typed.settings.items() if not name.startswith("execution.")}
    config = PretrainingConfig(**own)
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
    pretrained = pretrain(
        config,
        execution,
        resume=typed.options.resume,
        on_epoch=lambda epoch, figures: print(
            f"epoch {epoch}/{config.nepochs}: loss {figures['loss']:.4f}, unseen scans {figures['val_loss']:.4f} "
            f"(retrieved {figures['val_retrieved_loss']:.4f})",
            file=sys.stderr,
        ),
    )
    origin = provenance(seed=config.seed, data_files=[]) | {"pretraining": jsonable(asdict(config))}
    bundle = save_bundle(folder, Bundle(pretrained.model, pretrained.config, origin, pretrained.history))
    result: Result = {
        "model": bundle,
        "report": folder / "report.html",
        "epochs": config.nepochs,
        "error": pretrained.history["val_loss"][-1],
        "error_of_what_the_network_is_shown": pretrained.history["val_retrieved_loss"][-1],
    }
    write_report(
        result["report"],
        title="Pretraining",
        sections=[
            Section("Training", pictures=[("Errors of patches of unseen scans.", plot_history(pretrained.history))]),
            Section("Provenance", facts=origin, folded=True),
        ],
    )
    write_json(folder / "result.json", jsonable(result))
    return result
