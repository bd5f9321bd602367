"""``ptycho-ray study``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from ptycho_ray.commands.common import FILE, SCAN, DeviceOptions, ReadingOptions, Result
from ptycho_ray.commands.output import refuse_relative_in_job
from ptycho_ray.config import Architecture, TrainingConfig
from ptycho_ray.config.command_line import parse
from ptycho_ray.config.sources import resolve_config
from ptycho_ray.errors import ConfigurationError, TrainingInterrupted
from ptycho_ray.files import jsonable, require_file, write_json

if TYPE_CHECKING:
    from ptycho_ray.tuning.generalisation_study import Row, Run, Study


@dataclass(kw_only=True)
class Options(ReadingOptions, DeviceOptions):
    """Train networks on increasing numbers of patterns of one scan, several times each, and evaluate them on an unseen scan.

    Every run is kept: the same command resumes an interrupted study, and with more sizes or trials extends it. Training
    settings are given as options or in the --config file and apply to all runs.

    Example: ptycho-ray study train.npz unseen.npz --sizes 128 512 --trials 3 --nepochs 20 --output-dir study
    """

    train_scan: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan to train on, in parts."""
    test_scan: Annotated[Path, tyro.conf.Positional, SCAN]
    """The scan to reconstruct; it must hold its true object."""
    sizes: tuple[int, ...] = (128, 256, 512)
    """Numbers of patterns to train on."""
    trials: int = 3
    """Training runs for each size and architecture, with different seeds and patterns."""
    architectures: tuple[Architecture, ...] = ("cnn",)
    """Which networks."""
    steps: int | None = None
    """Approximate number of optimiser steps in every run, instead of --nepochs."""
    config: Annotated[Path | None, FILE] = None
    """YAML file with settings of all runs."""
    workers: Annotated[str | None, tyro.conf.arg(metavar="N")] = None
    """Do N runs at a time on a Ray cluster, 'auto' for as many as fit; one after the other if not given."""


def run(words: Sequence[str]) -> Result:
    typed = parse(Options, words, prog="ptycho-ray study", config_class=TrainingConfig)
    options = typed.options
    files = [require_file(options.train_scan), require_file(options.test_scan)]
    given = typed.settings | ({} if options.workers is None else {"execution.devices": options.workers})
    resolved = resolve_config(TrainingConfig, options.config, typed=given)
    if options.steps is not None and (options.steps < 1 or resolved.was_given("nepochs")):
        raise ConfigurationError(field="--steps", found=options.steps, expected="1 or more, and no nepochs beside it")
    refuse_relative_in_job(resolved.config.output_dir)
    from ptycho_ray.data import load_data
    from ptycho_ray.display.figures import save_figure
    from ptycho_ray.display.report import Section, provenance, write_report
    from ptycho_ray.display.study_figures import plot_study
    from ptycho_ray.evaluation.comparison import write_table
    from ptycho_ray.tuning import generalisation_study as core

    config = resolved.config
    if not resolved.was_given("model.N"):
        side = load_data(files[1], reading=options.reading).N
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, N=side))
    folder = config.output_dir
    study = core.Study(files[0], files[1], config, resolved.execution, folder, options.steps, options.reading)
    runs = core.runs_of(options.architectures, options.sizes, options.trials)
    core.check(study, runs)
    done = {one.name: row for one in runs if (row := core.finished_row(study, one)) is not None}
    left = [one for one in runs if one.name not in done]
    if done:
        print(f"{len(done)} of {len(runs)} runs are done", file=sys.stderr)
    rows = list(done.values())
    for row in _rows(study, left, on_cluster=options.workers is not None):
        rows.append(row)
        print(_line(row, len(rows), len(runs)), file=sys.stderr)
    lines = core.summary(rows)
    write_table(folder / "runs.csv", rows)
    write_table(folder / "study.csv", lines)
    picture = plot_study(lines, core.FIGURES, tuple(core.PERCENTILES))
    save_figure(picture, folder / "study.png")
    failed = [row for row in rows if "error" in row]
    report = write_report(
        folder / "study.html",
        title=f"Generalisation from {options.train_scan} to {options.test_scan}",
        sections=[
            Section("Quality against training size", "Median, and the quartiles as a band.", pictures=[("", picture)]),
            Section("Table", rows=lines),
            *([Section("Runs that failed", rows=failed)] if failed else []),
            Section("Settings", facts=dataclasses.asdict(config), folded=True),
            Section("Provenance", facts=provenance(seed=config.seed, data_files=files), folded=True),
        ],
    )
    result: Result = {
        "runs": len(rows), "failed": len(failed), "study": lines, "table": folder / "study.csv", "report": report
    }  # fmt: skip
    write_json(folder / "study.json", jsonable(result))
    return result


def _rows(study: Study, runs: list[Run], *, on_cluster: bool) -> Iterator[Row]:
    if on_cluster and runs:
        from ptycho_ray.cluster.generalisation_study import run_on_cluster

        yield from run_on_cluster(study, runs)
        return
    from ptycho_ray.tuning.generalisation_study import do_run

    for one in runs:
        try:
            yield do_run(study, one)
        except TrainingInterrupted:
            raise KeyboardInterrupt from None  # the same command goes on; the run that was cut begins anew


def _line(row: Row, number: int, runs: int) -> str:
    outcome = row.get("error") or f"amplitude MAE {row['amplitude_mae']:.4f}  phase MAE {row['phase_mae']:.4f}"
    return f"run {number}/{runs}  {row['architecture']}  {row['size']} patterns  trial {row['trial'] + 1}  {outcome}"
