"""Sweeps on a Ray cluster: what is found, what is stopped, and what happens when a trial or the program dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers import wait_for
from ray_fixtures import CPUS, RUN, pids_of_actors, processes_of

from ptycho_ray.errors import ConfigurationError

ray = pytest.importorskip("ray", reason="ray is not installed (pip install 'ptycho-ray[cluster]')")
pytest.importorskip("optuna", reason="optuna is not installed (pip install 'ptycho-ray[cluster]')")

from ptycho_ray.cluster.tune import run_sweep  # noqa: E402
from ptycho_ray.commands import tune  # noqa: E402
from ptycho_ray.data import load_data  # noqa: E402
from ptycho_ray.data.position_maps import position_matrix, transformed_positions  # noqa: E402
from ptycho_ray.physics.optics import fresnel_propagate  # noqa: E402
from ptycho_ray.simulation import make_object, make_probe, make_scan, simulate_scan  # noqa: E402
from ptycho_ray.tracking.sweep_record import TRIALS, SweepRecord  # noqa: E402
from ptycho_ray.tuning.space import space_from  # noqa: E402

DEFOCUS_PX2, SCALE = 12.0, 1.02
WRONG_PROBE = {
    "trial": "direct",
    "parameters": {"probe_defocus_px2": {"uniform": [-40, 40]}, "position_scale": {"uniform": [0.95, 1.05]}},
    "settings": {"nepochs": 40, "validation_fraction": 0.15},
}


def wrong_scan(noise: bool = True):
    """A scan whose probe is the focus and not what lit the sample, and whose positions are 2 % too far apart."""
    rng = np.random.default_rng(7)
    image = make_object("dead_leaves", (140, 140), rng)
    focus = make_probe("zone_plate", 32, rng, photons=1e6)
    lit = fresnel_propagate(focus, DEFOCUS_PX2).astype(np.complex64)
    positions = make_scan("fermat", (140, 140), 32, rng, n_patterns=340)
    recorded = transformed_positions(positions, position_matrix(SCALE))
    scan = simulate_scan(image, lit, positions, rng=rng, recorded_positions_n2=recorded)
    scan.probe = focus
    return scan


@pytest.fixture(scope="module")
def wrong_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    wrong_scan().to_file(path)
    return path


@pytest.fixture(scope="module")
def blind_file(wrong_file, tmp_path_factory):
    """The same scan without its true object."""
    scan = load_data(wrong_file)
    scan.object_truth = None
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    scan.to_file(path)
    return path


def written(folder: Path, content: dict) -> Path:
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def sweep(scan, space, folder: Path, trials: int, base=None, **options) -> SweepRecord:
    folder.mkdir(exist_ok=True)
    record = SweepRecord.begin(folder, {"space": space.to_dict()}, resume=False)
    run_sweep(scan, {"model.N": scan.N, **space.settings, **(base or {})}, space, record, trials, **options)
    return record


@pytest.mark.slow
def test_a_wrong_defocus_and_wrong_positions_are_found_without_a_truth(one_ray, wrong_file, tmp_path):
    """A small version of benchmarks/bench_tune_recovery.py, through the command; a smaller field tells the scale less well."""
    space = written(tmp_path, WRONG_PROBE)
    folder = tmp_path / "out"
    result = tune.run([str(wrong_file), "--space", str(space), "--trials", "26", "--output-dir", str(folder)])
    best = result["best"]
    assert best["probe_defocus_px2"] == pytest.approx(DEFOCUS_PX2, rel=0.1)
    assert best["position_scale"] == pytest.approx(1 / SCALE, rel=0.004)
    assert (result["trials"], result["failed"]) == (26, 0)
    for name in (
        "results.csv",
        "results.parquet",
        "best.yaml",
        "report.html",
        "result.json",
        "best/reconstruction.npz",
    ):
        assert (folder / name).is_file(), name
    assert len(list((folder / "trials").iterdir())) == 1, "what other trials made is deleted"

    from ptycho_ray.config import TrainingConfig
    from ptycho_ray.config.sources import resolve_config

    config = resolve_config(TrainingConfig, folder / "best.yaml", environment={}).config
    assert config.position_scale == best["position_scale"]
    assert config.train_data_file == wrong_file


def test_a_sweep_through_the_command(one_ray, wrong_file, tmp_path):
    scale = {"position_scale": {"uniform": [0.95, 1.05]}}
    settings = {"nepochs": 1, "validation_fraction": 0.15}
    space = written(tmp_path, {**WRONG_PROBE, "parameters": scale, "settings": settings})
    folder = tmp_path / "out"
    result = tune.run([str(wrong_file), "--space", str(space), "--trials", "2", "--output-dir", str(folder)])
    assert (result["trials"], result["failed"]) == (2, 0)
    assert result["trials_of_the_polish"] > 2
    (scale,) = result["parameters"]
    assert scale["low"] <= scale["value"] == result["best"]["position_scale"] <= scale["high"]
    assert f"# position_scale: {scale['value']:.6g}, between" in (folder / "best.yaml").read_text(encoding="utf-8")
    for name in ("results.csv", "best.yaml", "report.html", "result.json", "best/reconstruction.npz"):
        assert (folder / name).is_file(), name
    assert len(list((folder / "trials").iterdir())) == 1, "what other trials made is deleted"


@pytest.mark.slow
def test_trials_that_diverge_or_cannot_be_are_recorded_and_the_sweep_goes_on(one_ray, small_scan, tmp_path):
    space = space_from(
        {
            "parameters": {
                "execution.learning_rate": {"choice": [1e-3, 1e30]},
                "gridsize": {"choice": [1, 2]},
                "neighbor_count": {"choice": [1, 4]},
            },
            "settings": {"nepochs": 2, "validation_fraction": 0.2, "n_filters_scale": 1, "batch_size": 8},
            "points": [
                {"execution.learning_rate": 1e30, "gridsize": 1, "neighbor_count": 4},
                {"execution.learning_rate": 1e-3, "gridsize": 2, "neighbor_count": 1},
                {"execution.learning_rate": 1e-3, "gridsize": 1, "neighbor_count": 4},
            ],
        }
    )
    record = sweep(small_scan, space, tmp_path / "out", 3)
    states = [(trial.status, trial.error or "") for trial in record.ended]
    assert [status for status, _ in states] == ["failed", "failed", "finished"]
    assert "learning_rate" in states[0][1]
    assert "neighbor_count: found 1; expected at least 3" in states[1][1]
    assert (tmp_path / "out" / "trials" / "0002" / "wts.h5.zip").is_file()


def is_trial(name: str) -> bool:
    """Ray Tune's class of a function that is a trial."""
    return name == "ImplicitFunc"


@pytest.mark.slow
def test_a_trial_that_is_killed_is_recorded_and_the_sweep_goes_on(one_ray, tmp_path):
    killed = []

    def kill_first(record, trial) -> None:
        living = pids_of_actors(is_trial)
        if not killed and trial.epoch and living:  # this process hears of a step later than the trial makes it
            killed.append(trial.number)
            os.kill(living[0], signal.SIGKILL)

    space = space_from({**WRONG_PROBE, "settings": {"nepochs": 200, "validation_fraction": 0.1}, "search": "random"})
    record = sweep(wrong_scan(), space, tmp_path / "out", 4, watcher=kill_first)
    failed = [trial for trial in record.ended if trial.status == "failed"]
    assert len(failed) == 1
    assert "killed, or out of memory" in failed[0].error
    assert [trial.status for trial in record.ended].count("finished") == 3


@pytest.mark.slow
def test_asha_stops_what_is_behind(one_ray, small_scan, tmp_path):
    space = space_from(
        {
            "parameters": {"execution.learning_rate": {"loguniform": [1e-6, 1e-2]}},
            "search": "random",
            "settings": {"nepochs": 9, "validation_fraction": 0.2, "n_filters_scale": 1, "batch_size": 8},
        }
    )
    record = sweep(small_scan, space, tmp_path / "out", 8)
    stopped = [trial for trial in record.ended if trial.status == "stopped"]
    assert stopped
    assert all(trial.epoch < 9 for trial in stopped)
    best = record.best()
    assert best is not None
    assert best.epoch == 9
    assert best.figures["likelihood"] == min(trial.figures["likelihood"] for trial in record.ended)


@pytest.mark.slow
def test_a_population_changes_the_learning_rate_while_it_trains(one_ray, small_scan, tmp_path):
    space = space_from(
        {
            "parameters": {"execution.learning_rate": {"loguniform": [1e-7, 1e-2]}},
            "scheduler": "pbt",
            "settings": {"nepochs": 9, "validation_fraction": 0.2, "n_filters_scale": 1, "batch_size": 8},
            "points": [{"execution.learning_rate": 1e-7}, {"execution.learning_rate": 3e-3}],
        }
    )
    record = sweep(small_scan, space, tmp_path / "out", 4)
    assert [trial.status for trial in record.ended] == ["finished"] * 4, [trial.error for trial in record.ended]
    first = record.trials[0]
    assert first.parameters["execution.learning_rate"] != 1e-7, "it took over another one's weights and rate"
    assert first.figures["likelihood"] < first.curve[0][1]


@pytest.mark.slow
def test_several_objectives_with_and_without_a_truth(one_ray, tmp_path):
    space = space_from({**WRONG_PROBE, "objective": ["frc", "seconds", "ssim", "mae", "frc50"], "search": "random"})
    record = sweep(wrong_scan(), space, tmp_path / "out", 3)
    for trial in record.judged():
        assert set(space.objectives) <= set(trial.figures)
        assert 0 < trial.figures["ssim"] <= 1
        assert -1 <= trial.figures["frc"] <= 1
    assert len(record.judged()) == 3
    assert record.pareto()


DRIVER = """
from ptycho_ray.commands import tune
tune.run({words!r})
"""


@pytest.mark.slow
def test_the_program_is_killed_and_no_finished_trial_is_lost(one_ray, wrong_file, tmp_path):
    space = written(tmp_path, {**WRONG_PROBE, "settings": {"nepochs": 60, "validation_fraction": 0.1}})
    folder = tmp_path / "out"
    words = [str(wrong_file), "--space", str(space), "--trials", "9", "--no-polish", "--output-dir", str(folder)]
    driver = subprocess.Popen([sys.executable, "-c", DRIVER.format(words=words)], env={**os.environ, RUN: "driver"})
    try:
        wait_for(lambda: len(ended_lines(folder)) >= 3 or driver.poll() is not None, "three trials", every=0.01)
        assert driver.poll() is None, "the sweep must still be going on"
    finally:
        driver.kill()
        driver.wait()
        wait_for(lambda: not processes_of("driver"), "the end of its cluster")
    before = ended_lines(folder)
    assert 3 <= len(before) < 9
    began = SweepRecord.load(folder).running
    with pytest.raises(ConfigurationError, match=r"another sweep"):
        tune.run([*words, "--resume", "--nepochs", "61"])
    result = tune.run([*words, "--resume"])
    assert result["trials"] == 9
    after = ended_lines(folder)
    assert after[: len(before)] == before, "what had ended stays as it was"
    assert sorted(line["number"] for line in after) == list(range(9)), "and nothing is run twice"
    again = {line["number"]: line["parameters"] for line in after}
    assert all(again[trial.number] == trial.parameters for trial in began), "what had begun is done again as it was"


def ended_lines(folder: Path) -> list[dict]:
    path = folder / TRIALS
    content = path.read_text() if path.exists() else ""
    lines = [json.loads(line) for line in content.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in lines if line["status"] != "running"]


@pytest.mark.parametrize(
    ("change", "typed", "message"),
    [
        ({"objective": "ssim"}, [], "objective: needs the true object.*found 'ssim'; expected likelihood"),
        ({}, ["--validation-fraction", "0"], "validation_fraction: the objective needs held-out patterns"),
        ({"parameters": {"nphotons": {"loguniform": [1, 10]}}}, [], "parameters.nphotons: .*holds photon counts"),
        ({"parameters": {"probe_defocus_m": {"uniform": [-1e-4, 1e-4]}}}, [], "states no pixel_size_m"),
        ({"objective": ["frc", "seconds"]}, ["--stopping", "asha"], "scheduler: with several objectives"),
        (
            {},
            ["--execution.devices", str(CPUS + 1)],
            f"a trial needs {CPUS + 1} CPU; found {CPUS + 1}; expected at most {CPUS} CPU",
        ),
        ({}, ["--resume"], "--resume: found no sweep"),
        ({}, ["--trials", "0"], "--trials: found 0; expected 1 or more"),
        ({}, ["--learn-from", "nowhere"], "nowhere: found no sweep"),
    ],
)
def test_what_is_refused_before_anything_starts(one_ray, blind_file, tmp_path, change, typed, message):
    space = written(tmp_path, {**WRONG_PROBE, **change})
    with pytest.raises(ConfigurationError if "sweep" not in message else ValueError, match=message):
        tune.run([str(blind_file), "--space", str(space), "--output-dir", str(tmp_path / "out"), *typed])


@pytest.mark.slow
def test_a_trial_may_have_several_workers(one_ray, small_scan, tmp_path):
    space = space_from(
        {
            "parameters": {"execution.learning_rate": {"choice": [1e-3, 1e-4]}},
            "search": "grid",
            "settings": {"nepochs": 2, "validation_fraction": 0.2, "n_filters_scale": 1, "batch_size": 8},
        }
    )
    base = {"execution.devices": 2, "output_dir": tmp_path / "out"}
    record = sweep(small_scan, space, tmp_path / "out", 2, base=base)
    assert [trial.status for trial in record.ended] == ["finished", "finished"], [t.error for t in record.ended]
