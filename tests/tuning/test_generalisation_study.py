"""Generalisation studies: which runs are made, that they are made once, and what is told of them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ptycho_ray.commands.cli import main
from ptycho_ray.display.study_figures import plot_study
from ptycho_ray.tuning.generalisation_study import FIGURES, PERCENTILES, Run, runs_of, summary


@pytest.fixture
def words(small_scan, other_scan, tmp_path):
    small_scan.to_file(tmp_path / "train.npz")
    other_scan.to_file(tmp_path / "unseen.npz")
    settings = "--nepochs 1 --batch-size 8 --n-filters-scale 1 --fno-width 8"
    scans = [str(tmp_path / "train.npz"), str(tmp_path / "unseen.npz")]
    return ["study", *scans, *settings.split(), "--output-dir", str(tmp_path / "study"), "--json"]


def told_by(words, capsys):
    capsys.readouterr()
    assert main(words) == 0
    out, err = capsys.readouterr()
    made = [line for line in err.splitlines() if line.startswith("run ")]
    return json.loads(out), made


def test_a_cut_study_still_has_every_combination_once():
    runs = runs_of(["cnn", "ffno"], [64, 32], 2)
    assert [run.name for run in runs[:4]] == ["cnn-32-0", "ffno-32-0", "cnn-64-0", "ffno-64-0"]
    assert len({run.name for run in runs}) == len(runs) == 8


@pytest.mark.slow
def test_runs_are_made_once_and_more_trials_add_to_them(words, tmp_path, capsys):
    told, made = told_by([*words, "--sizes", "16", "32", "--trials", "1"], capsys)
    assert len(made) == 2
    assert [line["size"] for line in told["study"]] == [16, 32]
    folder = tmp_path / "study"
    written = {path.name for path in folder.iterdir()}
    assert written >= {"runs.csv", "study.csv", "study.png", "study.html", "study.json", "cnn-16-0", "cnn-32-0"}
    before = (folder / "cnn-16-0" / "wts.h5.zip").stat().st_mtime_ns

    (folder / "cnn-32-0" / "result.json").unlink()  # as if it had been cut there
    told, made = told_by([*words, "--sizes", "16", "32", "--trials", "2"], capsys)
    assert len(made) == 3
    assert [line["trials"] for line in told["study"]] == [2, 2]
    assert (folder / "cnn-16-0" / "wts.h5.zip").stat().st_mtime_ns == before
    rows = [json.loads((folder / f"cnn-16-{trial}" / "result.json").read_text()) for trial in (0, 1)]
    assert rows[0]["phase_mae"] != rows[1]["phase_mae"]

    _, made = told_by([*words, "--sizes", "16", "--trials", "1", "--mae-weight", "1"], capsys)
    assert len(made) == 1, "a run with other settings is another run"


@pytest.mark.slow
def test_steps_in_place_of_epochs(words, capsys):
    without = [word for i, word in enumerate(words) if word != "--nepochs" and words[i - 1] != "--nepochs"]
    told, _ = told_by([*without, "--sizes", "16", "32", "--trials", "1", "--steps", "4"], capsys)
    assert [line["trials"] for line in told["study"]] == [1, 1]
    assert main([*words, "--steps", "4"]) == 2


def test_a_failed_run_stands_in_the_table(words, capsys):
    told, made = told_by(
        [*words, "--sizes", "16", "--trials", "1", "--gridsize", "7", "--neighbor-count", "48"], capsys
    )
    assert told["failed"] == 1
    assert "neighbor" in made[0] or "patterns" in made[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--sizes", "500"], "at most its 60 patterns"),
        (["--trials", "0"], "0 trials"),
        (["--sizes", "16", "--N", "64"], "expected 64"),
    ],
)
def test_what_cannot_be_studied_is_said_at_once(words, more, message, tmp_path, capsys):
    assert main([*words, *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_median_and_quartiles():
    rows = [
        {"architecture": "cnn", "size": 64, "trial": trial, "training_cpu_seconds": 1.0} | dict.fromkeys(FIGURES, value)
        for trial, value in enumerate([0.1, 0.2, 0.9])
    ]
    failed = {"architecture": "cnn", "size": 64, "trial": 3, "error": "diverged"}
    (line,) = summary([*rows, failed])
    assert line["trials"] == 3
    assert [line[f"phase_mae_{name}"] for name in ("p25", "median", "p75")] == pytest.approx([0.15, 0.2, 0.55])
    figure = plot_study([line, {"architecture": "ffno", "size": 32, "trials": 0}], FIGURES, tuple(PERCENTILES))
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.2])


@pytest.mark.slow
def test_runs_side_by_side_are_those_of_one_process(words, tmp_path, capsys):
    pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")
    options = ["--sizes", "16", "--trials", "2", "--execution.accelerator", "cpu"]
    alone, _ = told_by([*words, *options], capsys)
    elsewhere = [str(tmp_path / "other") if word == str(tmp_path / "study") else word for word in words]
    together, made = told_by([*elsewhere, *options, "--workers", "2"], capsys)
    assert len(made) == 2
    name = "phase_mae_median"
    assert together["study"][0][name] == pytest.approx(alone["study"][0][name], rel=1e-3)


def test_names():
    assert Run("ffno", 32, 1).name == "ffno-32-1"
