"""A generalisation study: quality of a network on an unseen scan against the number of training patterns.

Networks of several architectures are trained on random parts of one scan, several times each with different seeds, and
evaluated on another scan with known ground truth. Each run writes one file, so an interrupted study can be resumed. Ray
is in ``ptycho_ray.cluster.generalisation_study``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ptycho_ray.config import Architecture, ExecutionConfig, TrainingConfig
from ptycho_ray.config.reading import Reading
from ptycho_ray.errors import InputError
from ptycho_ray.evaluation.comparison import figures_of
from ptycho_ray.files import jsonable, write_json
from ptycho_ray.training.ensemble import member_seed

Row = dict[str, Any]
RESULT = "result.json"
#: What the table tells of each figure over the trials.
PERCENTILES = {"p25": 25, "median": 50, "p75": 75}
#: Figures of the table and the picture.
FIGURES = ("amplitude_mae", "amplitude_ssim", "phase_mae", "phase_ssim")


@dataclass(frozen=True)
class Run:
    """One training: ``size`` patterns of the scan, drawn and trained with the seed of ``trial``."""

    architecture: Architecture
    size: int
    trial: int

    @property
    def name(self) -> str:
        return f"{self.architecture}-{self.size}-{self.trial}"


@dataclass(frozen=True)
class Study:
    """What all runs of a study share.

    Attributes:
        train_file, test_file: the scan that parts are trained on, and the unseen one, which holds its true object.
        config: settings of every run; its architecture, seed and number of groups are those of the run.
        steps: approximate number of optimiser steps in every run, instead of ``config.nepochs``: a larger training set
            then does not mean a longer training.
        folder: each run has a folder in it.
        reading: how both files are read, where they do not say so themselves.
    """

    train_file: Path
    test_file: Path
    config: TrainingConfig
    execution: ExecutionConfig
    folder: Path
    steps: int | None = None
    reading: Reading = dataclasses.field(default_factory=Reading)

    def config_of(self, run: Run) -> TrainingConfig:
        """The settings of a run."""
        nepochs = self.config.nepochs
        if self.steps is not None:
            nepochs = max(1, round(self.steps / math.ceil(run.size / self.config.batch_size)))
        return dataclasses.replace(
            self.config,
            model=dataclasses.replace(self.config.model, architecture=run.architecture),
            n_groups=run.size,
            nepochs=nepochs,
            seed=member_seed(self.config.seed, run.trial),
            output_dir=self.folder / run.name,
        )

    def mark_of(self, run: Run) -> str:
        """A name that changes with the settings and the scans."""
        files = [(str(file.absolute()), file.stat().st_size) for file in (self.train_file, self.test_file)]
        settings = dataclasses.asdict(self.config_of(run)) | {"output_dir": None}
        numbers = [getattr(self.execution, name) for name in ("learning_rate", "precision", "scheduler", "accum_steps")]
        text = json.dumps(
            jsonable([settings, numbers, files, *([self.reading.chosen()] if self.reading.chosen() else [])]),
            sort_keys=True,
        )
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def runs_of(architectures: Sequence[Architecture], sizes: Sequence[int], trials: int) -> list[Run]:
    """Every combination, the first trial of all before the second of any; InputError for none."""
    if not (architectures and sizes and trials > 0 and min(sizes) > 1):
        raise InputError(
            field="study",
            found=f"{len(architectures)} architectures, sizes {list(sizes)}, {trials} trials",
            expected="at least one of each, and at least 2 patterns",
        )
    return [Run(a, size, trial) for trial, size, a in itertools.product(range(trials), sorted(sizes), architectures)]


def finished_row(study: Study, run: Run) -> Row | None:
    """The row of a run that was done with the same settings and scans, else None."""
    path = study.folder / run.name / RESULT
    if not path.is_file():
        return None
    row: Row = json.loads(path.read_text(encoding="utf-8"))
    return row if row.get("mark") == study.mark_of(run) and "error" not in row else None


def do_run(study: Study, run: Run) -> Row:
    """Train, reconstruct the unseen scan, judge it against its truth and write the row to the folder of the run.

    An error in one run is recorded in its row under ``error``.
    """
    from ptycho_ray import workflow
    from ptycho_ray.evaluation import evaluate_reconstruction

    row: Row = {**dataclasses.asdict(run), "mark": study.mark_of(run)}
    config = study.config_of(run)
    began = time.process_time()
    try:
        train = workflow.load_data(
            study.train_file, n_subsample=run.size, subsample_seed=config.seed % 2**32, reading=study.reading
        )
        test = workflow.load_data(study.test_file, reading=study.reading)
        results = workflow.train_cdi_model(train, None, config, execution=study.execution)
        row["training_cpu_seconds"] = round(time.process_time() - began, 1)
        models = results["ensemble"] if "ensemble" in results else results["model_instance"]
        _, _, made = workflow.reassemble_cdi_image(
            test, config, model=models, execution=study.execution, keep_patches=False
        )
        image = made["stitched"]
        assert test.object_truth is not None
        found = evaluate_reconstruction(
            image.image, test.object_truth, origin_px=image.origin_px, region=image.covered(), register=False
        )
        row |= {"epochs": config.nepochs, "last_loss": results["history"]["loss"][-1], **figures_of(found)}
        workflow.save_inference_bundle(study.folder / run.name, results, config, {"made_by": "a generalisation study"})
    except (InputError, ArithmeticError) as error:
        row["error"] = str(error)
    write_json(study.folder / run.name / RESULT, jsonable(row))
    return row


def check(study: Study, runs: Sequence[Run]) -> None:
    """InputError if the study cannot succeed: no ground truth, too few patterns, a different N."""
    from ptycho_ray.data import load_data

    train, test = load_data(study.train_file, reading=study.reading), load_data(study.test_file, reading=study.reading)
    if test.object_truth is None:
        raise InputError(file=study.test_file, field="object", found="none", expected="the true object")
    largest = max(run.size for run in runs)
    if largest > len(train):
        raise InputError(
            file=study.train_file, field="--sizes", found=largest, expected=f"at most its {len(train)} patterns"
        )
    for scan, file in ((train, study.train_file), (test, study.test_file)):
        if study.config.model.N != scan.N:
            raise InputError(file=file, field="N", found=scan.N, expected=f"{study.config.model.N} (--N)")


def summary(rows: Sequence[Row]) -> list[Row]:
    """One row per architecture and size: the number of trials, and median and quartiles of each metric."""
    lines = []
    for architecture, size in dict.fromkeys((row["architecture"], row["size"]) for row in _ordered(rows)):
        good = [
            row for row in rows if (row["architecture"], row["size"]) == (architecture, size) and "error" not in row
        ]
        line: Row = {"architecture": architecture, "size": size, "trials": len(good)}
        for figure in (*FIGURES, "training_cpu_seconds") if good else ():
            values = [row[figure] for row in good]
            for name, percent in PERCENTILES.items():
                line[f"{figure}_{name}"] = float(np.percentile(values, percent))
        lines.append(line)
    return lines


def _ordered(rows: Sequence[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["architecture"], row["size"], row["trial"]))
