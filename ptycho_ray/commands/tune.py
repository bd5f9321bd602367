"""``ptycho-ray tune``."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ptycho_ray.commands.common import FILE, FOLDER, SCAN, DeviceOptions, ReadingOptions, Result, tell
from ptycho_ray.commands.output import refuse_relative_in_job
from ptycho_ray.config import TrainingConfig
from ptycho_ray.config.command_line import parse
from ptycho_ray.config.sources import Resolved, resolve_config
from ptycho_ray.errors import ConfigurationError
from ptycho_ray.files import jsonable, write_json

if TYPE_CHECKING:
    from ptycho_ray.data import RawData
    from ptycho_ray.tuning.space import Space

#: Settings that say where and how a sweep runs; two that differ only in them are the same sweep.
NOT_IDENTITY = ("output_dir", "train_data_file", "execution.")


@dataclass(kw_only=True)
class Options(ReadingOptions, DeviceOptions):
    """Search for settings of the experiment (defocus, positions, photons), the physics or the network.

    The search space is a YAML file; configs/tune/ has examples. No image of the sample is needed: trials are judged by
    how well they predict held-out patterns. Settings given as options or in the --config file apply to all trials.

    Example: ptycho-ray tune scan.npz --space configs/tune/probe.yaml --trials 40 --output-dir sweep
    """

    scan: Annotated[Path | None, tyro.conf.Positional, SCAN] = None
    """The scan (NPZ, HDF5 or CXI). It may also be given in the --config file, as train_data_file."""
    space: Annotated[Path, FILE]
    """YAML file with the search space."""
    trials: int = 40
    """Total number of trials, failed ones included."""
    config: Annotated[Path | None, FILE] = None
    """YAML file with settings of all trials."""
    objective: tuple[str, ...] = ()
    """Objectives of the search, instead of those in the space; several give a Pareto front."""
    search: Literal["auto", "tpe", "gp", "random", "grid"] | None = None
    """Search algorithm, instead of the one in the space."""
    stopping: Literal["auto", "asha", "median", "pbt", "none"] | None = None
    """Early stopping of trials, instead of the scheduler in the space."""
    learn_from: Annotated[tuple[Path, ...], FOLDER] = ()
    """Output folders of finished sweeps over the same parameters, whose results are made known to the search."""
    resume: bool = False
    """Continue the sweep in --output-dir: after an interruption, or with more --trials."""
    polish: bool = True
    """Improve the best trial of a sweep over the experiment at the end, and say how well the data determine each parameter."""
    keep_all: bool = False
    """Keep the model or image of every trial, not only of the best (or Pareto-optimal) ones."""


def run(words: Sequence[str]) -> Result:
    typed = parse(Options, words, prog="ptycho-ray tune", config_class=TrainingConfig)
    options = typed.options
    from ptycho_ray.tuning.parameter import REFINEMENT
    from ptycho_ray.tuning.space import check_space, load_space, suited_to, without_refinement

    space = load_space(options.space)
    changes: dict[str, Any] = {"objectives": options.objective or space.objectives}
    changes |= {"search": options.search or space.search, "scheduler": options.stopping or space.scheduler}
    space = dataclasses.replace(space, **changes)
    check_space(space)
    if options.trials < 1:
        raise ConfigurationError(field="--trials", found=options.trials, expected="1 or more")
    given = typed.settings | ({"train_data_file": options.scan} if options.scan else {})
    resolved = resolve_config(TrainingConfig, options.config, typed={**without_refinement(space.settings), **given})
    config, execution = resolved.config, resolved.execution
    if config.train_data_file is None:
        raise ConfigurationError(field="train_data_file", found="nothing", expected="the scan")
    refuse_relative_in_job(config.output_dir)

    tell("loading the program")
    from ptycho_ray import workflow
    from ptycho_ray.cluster.connect import connected
    from ptycho_ray.cluster.sweep_polish import polish_sweep
    from ptycho_ray.cluster.tune import check_sweep, run_sweep
    from ptycho_ray.cluster.whole_scan import digests_on_cluster
    from ptycho_ray.display.report import provenance
    from ptycho_ray.display.sweep_table import LiveTable
    from ptycho_ray.tracking import build_trackers, recorded, run_tags
    from ptycho_ray.tracking.sweep_record import SweepRecord, TrialRecord
    from ptycho_ray.tuning import results

    scan = workflow.load_data(
        config.train_data_file,
        n_subsample=config.n_subsample,
        subsample_seed=config.subsample_seed,
        reading=options.reading,
    )
    space = suited_to(space, scan)
    base = base_settings(resolved, scan, space)
    base |= {name: value for name, value in space.settings.items() if name.startswith(REFINEMENT)}
    check_sweep(scan, base, space)
    axes = None
    if space.orient and "position_axes" not in base:
        from ptycho_ray.tuning.axes import axes_of

        base["position_axes"], axes = axes_of(scan, config.seed)
        tell(axes)
    folder = config.output_dir
    folder.mkdir(parents=True, exist_ok=True)
    digests_of = functools.partial(digests_on_cluster, execution, tell)
    origin = provenance(seed=config.seed, data_files=[config.train_data_file], digests_of=digests_of)
    identity = {
        "space": space.to_dict(),
        "settings": {name: value for name, value in base.items() if not name.startswith(NOT_IDENTITY)},
        "data": origin["data"][str(config.train_data_file)],
    }
    learn_from = [SweepRecord.load(other) for other in options.learn_from]
    record = SweepRecord.begin(folder, identity, resume=options.resume)
    parameters = {**jsonable(base), "space": space.to_dict()["parameters"], "trials": options.trials}
    trackers = build_trackers(execution, folder, parameters, run_tags(origin), resume=options.resume)
    table = LiveTable(options.trials)
    began = time.monotonic()

    def watch(sweep: SweepRecord, trial: TrialRecord) -> None:
        table(sweep, trial)
        if trial.status != "running":
            for tracker in trackers:
                tracker.on_trial(f"trial-{trial.number:04}", trial)

    with recorded(trackers) as outcome:
        polished, ended = None, 0
        try:
            with connected(execution, tell):
                space = run_sweep(
                    scan, base, space, record, options.trials, seed=config.seed, learn_from=learn_from, watcher=watch
                )
                table.close(record)
                ended = len(record.ended)
                if options.polish:
                    polished = polish_sweep(scan, base, space, record, tell)
        finally:
            table.close(record)
            if record.ended:
                results.write_tables(record, space)
        best = record.best()
        result: Result = {
            "trials": ended,
            "failed": sum(trial.status == "failed" for trial in record.ended),
            "stopped_early": sum(trial.status == "stopped" for trial in record.ended),
            "seconds": round(time.monotonic() - began, 1),
            "best": None,
            "table": folder / "results.csv",
        }
        if best is not None:
            result["best"] = {
                "trial": best.number,
                **{n: best.figures[n] for n in record.objectives},
                **best.parameters,
            }
            result |= results.determination(polished, space, best) | ({"axes": axes} if axes else {})
            result |= results.write_best(record, base, space, polished)
        if len(record.objectives) > 1:
            result["pareto_front"] = [trial.number for trial in record.pareto()]
        title = f"Sweep over {len(space.parameters)} settings on {Path(config.train_data_file).name}"
        result["report"] = results.write_sweep_report(record, base, space, title, origin, polished)
        if not options.keep_all:
            results.drop_other_trials(record)
        outcome.bundle = result.get("model")
        outcome.files = [result["table"], result["report"], *([result["settings"]] if "settings" in result else [])]
    result |= outcome.facts
    write_json(folder / "result.json", jsonable(result))
    if best is None:
        failed = record.ended[0].error if record.ended else "no trial was run"
        raise RuntimeError(f"no trial finished; see {folder / 'results.csv'}. The first one: {failed}")
    return result


def base_settings(resolved: Resolved[TrainingConfig], scan: RawData, space: Space) -> dict[str, Any]:
    """The settings that were given, by name, with the N of the scan and all its positions by default, and for a sweep over
    networks what is recommended, as ``train`` takes it."""
    config, base = resolved.config, {}
    for name in resolved.provenance:
        if resolved.was_given(name):
            section, _, field = name.rpartition(".")
            holder = {"model": config.model, "execution": resolved.execution, "": config}[section]
            base[name] = getattr(holder, field)
    if not space.of_experiment:
        from ptycho_ray.training.settings_of_scans import recommended_where_open

        base |= recommended_where_open(resolved, config, [scan], [p.name for p in space.parameters])
    base.setdefault("model.N", scan.N)
    if "n_images" not in base:
        base.setdefault("n_groups", len(scan))
    assert config.train_data_file is not None
    base["train_data_file"] = Path(config.train_data_file).absolute()
    return base
