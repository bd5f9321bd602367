"""The results of a sweep: tables, the best settings and model, and a report."""

from __future__ import annotations

import csv
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ptycho_ray.bundle import FILE_NAME
from ptycho_ray.config import TrainingConfig
from ptycho_ray.config.sources import resolve_config
from ptycho_ray.display.figures import plot_object
from ptycho_ray.display.report import Section, write_report
from ptycho_ray.display.sweep_figures import plot_contour, plot_front, plot_history, plot_importance, plot_parallel
from ptycho_ray.files import atomic_path, jsonable
from ptycho_ray.tracking.objectives import OBJECTIVES
from ptycho_ray.tracking.sweep_record import SweepRecord, TrialRecord, trial_folder
from ptycho_ray.tuning.bounds import on_bounds
from ptycho_ray.tuning.polish import Estimate, Polished
from ptycho_ray.tuning.search import Search
from ptycho_ray.tuning.space import Space, refinement_settings, without_refinement
from ptycho_ray.tuning.trial import IMAGE

#: Settings of the sweep itself, which a training that follows need not have.
OF_THE_SWEEP = ("output_dir", "execution.logger_backend", "execution.devices", "execution.address")


def rows_of(record: SweepRecord, space: Space) -> list[dict[str, Any]]:
    """One flat row for each trial that ended."""
    figures = [name for name in OBJECTIVES if any(name in trial.figures for trial in record.ended)]
    return [
        {
            "trial": trial.number,
            "status": trial.status,
            "epoch": trial.epoch,
            **{name: trial.figures.get(name) for name in figures},
            **{p.name: trial.parameters.get(p.name) for p in space.parameters},
            "wall_seconds": round(trial.ended - trial.began, 3),
            "error": trial.error,
        }
        for trial in record.ended
    ]


def write_tables(record: SweepRecord, space: Space) -> list[Path]:
    """``results.csv`` and ``results.parquet``, with the same content."""
    import pyarrow
    import pyarrow.parquet

    rows, folder = rows_of(record, space), record.folder
    with atomic_path(folder / "results.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    columns = {name: _one_type([row[name] for row in rows]) for name in rows[0]}
    with atomic_path(folder / "results.parquet") as temporary:
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary)
    return [folder / "results.csv", folder / "results.parquet"]


def _one_type(values: list[Any]) -> list[Any]:
    """A column of a Parquet file has one type; one of several is written as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or len(kinds) <= 1:
        return values
    return [None if value is None else str(value) for value in values]


def best_settings(base: Mapping[str, Any], trial: TrialRecord, space: Space) -> dict[str, Any]:
    """The settings of a trial as a configuration file has them, without those of the solver.

    A direct solution has no network, so of the settings that the space fixes for its trials none is passed on.
    """
    fixed = space.settings if space.of_experiment else {}
    values = {name: value for name, value in base.items() if name not in OF_THE_SWEEP and name not in fixed}
    nested: dict[str, Any] = {}
    for name, value in without_refinement({**values, **trial.parameters}).items():
        section, _, field = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[field] = jsonable(value)
    return nested


def determination(polished: Polished | None, space: Space, best: TrialRecord) -> dict[str, Any]:
    """How well the data determine the parameters of the best trial, for ``result.json``: value and interval of each, what they
    do not determine, pairs that they determine only together, and parameters that lie on a bound."""
    found: dict[str, Any] = {}
    if polished is not None:
        found["parameters"] = [asdict(each) for each in polished.estimates]
        found["not_determined"] = [each.name for each in polished.estimates if not each.determined] or None
        found["determined_only_together"] = [
            {"parameters": [first, second], "correlation": round(together, 3)}
            for first, second, together in polished.correlated
        ] or None
        found["trials_of_the_polish"] = polished.evaluations
    on_bound = list(on_bounds(space, best.parameters))
    return found | ({"on_a_bound": on_bound} if on_bound else {})


def interval(estimate: Estimate) -> str:
    """Value and interval of a parameter in words."""
    words = f"{estimate.value:.6g}, between {estimate.low:.6g} and {estimate.high:.6g}"
    return words if estimate.determined else f"{words}: not determined by the data"


def _write_settings(path: Path, comments: Sequence[str], content: Mapping[str, Any]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text("\n".join([*comments, yaml.safe_dump(content, sort_keys=False)]), encoding="utf-8")


def write_best(
    record: SweepRecord, base: Mapping[str, Any], space: Space, polished: Polished | None = None
) -> dict[str, Path]:
    """``best.yaml`` for ``ptycho-ray train --config``, ``refine.yaml`` for ``ptycho-ray refine --config`` if settings of the
    solver were swept, and ``best/`` with the result of the best trial."""
    best = record.best()
    if best is None:
        return {}
    figures = ", ".join(f"{name} {best.figures[name]:.6g}" for name in record.objectives)
    lines = [f"# Trial {best.number} of a sweep: {figures}."]
    lines += [f"# {each.name}: {interval(each)}" for each in (polished.estimates if polished else ())]
    path = record.folder / "best.yaml"
    _write_settings(path, lines, best_settings(base, best, space))
    resolve_config(TrainingConfig, path, environment={})  # what is handed over can be read
    made: dict[str, Path] = {"settings": path}
    if refinement := refinement_settings({**base, **best.parameters}):
        made["refinement_settings"] = record.folder / "refine.yaml"
        _write_settings(made["refinement_settings"], lines, jsonable(refinement))
    for kind, name in (("model", FILE_NAME), ("image", IMAGE)):
        source = trial_folder(record.folder / "trials", best.number) / name
        if source.exists():
            target = record.folder / "best" / name
            with atomic_path(target) as temporary:
                shutil.copyfile(source, temporary)
            made[kind] = target
    return made


def drop_other_trials(record: SweepRecord) -> None:
    """Delete the results of trials that are not Pareto-optimal; their metrics stay in the tables."""
    kept = {trial_folder(record.folder, trial.number).name for trial in record.pareto()}
    for folder in (record.folder / "trials").glob("*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def importance_of(record: SweepRecord, space: Space) -> dict[str, float]:
    """Importance of each free parameter for the first objective (PED-ANOVA), in decreasing order."""
    import warnings

    import optuna

    only_first = Space(space.parameters, space.trial, record.objectives[:1], "random")
    search = Search(only_first, 0)
    learned = [search.learn(trial.parameters, trial.figures) for trial in record.judged()]
    if sum(learned) < 4:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(search.study, evaluator=evaluator)
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def write_sweep_report(
    record: SweepRecord,
    base: Mapping[str, Any],
    space: Space,
    title: str,
    origin: Mapping[str, Any],
    polished: Polished | None = None,
) -> Path:
    """``report.html``: the best settings, the trials, and what the objective depends on."""
    best, judged = record.best(), record.judged()
    sections = []
    if best is not None:
        importance = importance_of(record, space)
        names = list(importance)[:2]
        two = [next(p for p in space.parameters if p.name == name) for name in names]
        objective = OBJECTIVES[record.objectives[0]]
        facts = {**{name: best.figures[name] for name in record.objectives}, **best.parameters}
        sections.append(
            Section(f"Best: trial {best.number}", f"{record.objectives[0]}: {objective.text}.", facts=facts)
        )
        if polished is not None:
            sections.append(_determination_section(polished))
        image = _image_of(record, best)
        if image is not None:
            sections.append(image)
        pictures = [("Every trial, and the best so far.", plot_history(record))]
        if len(record.objectives) > 1:
            pictures.append(("Two objectives; the line joins the Pareto-optimal trials.", plot_front(record)))
        pictures.append(("Parameters of every finished trial.", plot_parallel(record, space)))
        if importance:
            pictures.append(("Importance of each parameter for the objective.", plot_importance(importance)))
        if len(two) == 2 and len(judged) > 1:
            pictures.append(("The two most important parameters.", plot_contour(record, two)))
        sections.append(Section("The search", pictures=pictures))
    if len(record.objectives) > 1:
        front = [
            {"trial": t.number, **{n: t.figures[n] for n in record.objectives}, **t.parameters} for t in record.pareto()
        ]
        sections.append(Section("Pareto-optimal trials", rows=front))
    sections += [
        Section("Trials", rows=rows_of(record, space)),
        Section("Search space", facts={p.name: f"{p.kind} {list(p.values)}" for p in space.parameters}, folded=True),
        Section("Settings of all trials", facts=jsonable(base), folded=True),
        Section("Provenance", facts=origin, folded=True),
    ]
    return write_report(record.folder / "report.html", title=title, sections=sections)


def _determination_section(polished: Polished) -> Section:
    pairs = [f"{a} and {b} only together (correlation {c:.2f})" for a, b, c in polished.correlated]
    text = (
        "Between low and high the held-out patterns do not tell a value from the best one by two standard errors, whatever the "
        "other parameters are."
    )
    facts = {"determined": "; ".join(pairs)} if pairs else {}
    rows = [asdict(each) for each in polished.estimates]
    return Section("What the data determine", text, rows=rows, facts=facts)


def _image_of(record: SweepRecord, best: TrialRecord) -> Section | None:
    import numpy as np

    from ptycho_ray.reconstruction.stitching import StitchedObject

    path = trial_folder(record.folder / "trials", best.number) / IMAGE
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as content:
        first, second = content["origin_px"]
        stitched = StitchedObject(content["object"], content["weight"], (float(first), float(second)))
        pixel = float(content["pixel_size_m"]) if "pixel_size_m" in content else None
    picture = plot_object(stitched.image, region=stitched.covered(), pixel_size_m=pixel)
    return Section("Image", "Solved for directly with the best settings.", pictures=[("Amplitude and phase.", picture)])
