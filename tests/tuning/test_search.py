"""Search, record and results of a sweep, without a cluster."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("optuna", reason="optuna is not installed (pip install 'ptycho-ray[cluster]')")

from ptycho_ray.config import TrainingConfig
from ptycho_ray.config.sources import resolve_config
from ptycho_ray.errors import ConfigurationError, InputError
from ptycho_ray.tracking.sweep_record import TRIALS, SweepRecord, TrialRecord
from ptycho_ray.tuning.results import best_settings, importance_of, write_best, write_sweep_report, write_tables
from ptycho_ray.tuning.search import Search, chosen_search
from ptycho_ray.tuning.space import Space, space_from

DEFOCUS = {"probe_defocus_px2": {"uniform": [-10, 10]}, "position_scale": {"uniform": [0.9, 1.1]}}


def bowl(values: dict[str, Any]) -> float:
    return (values["probe_defocus_px2"] - 3) ** 2 / 50 + ((values["position_scale"] - 0.98) / 0.05) ** 2


def search_bowl(search: Search, trials: int, first: int = 0) -> list[tuple[dict[str, Any], float]]:
    seen = []
    for number in range(first, first + trials):
        values = search.ask(number)
        assert values is not None
        loss = bowl(values)
        search.tell(number, {"likelihood": loss})
        seen.append((values, loss))
    return seen


def direct(**others: Any) -> Space:
    return space_from({"trial": "direct", "parameters": DEFOCUS, **others})


@pytest.mark.parametrize("kind", ["gp", "tpe", "random"])
def test_the_same_seed_gives_the_same_proposals(kind: str) -> None:
    first, again, other = (search_bowl(Search(direct(search=kind), seed), 12) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_gaussian_process_finds_the_bottom_of_a_bowl() -> None:
    assert chosen_search(direct()) == "gp"
    values, loss = min(search_bowl(Search(direct(), 0), 24), key=lambda item: item[1])
    assert loss < 0.01
    assert values["position_scale"] == pytest.approx(0.98, abs=0.005)


def test_points_come_first_and_a_grid_ends() -> None:
    space = space_from(
        {
            "parameters": {
                "gridsize": {"choice": [1, 2]},
                "neighbor_count": {"integer": [4, 5], "when": {"gridsize": 2}},
            },
            "search": "grid",
            "points": [{"gridsize": 2, "neighbor_count": 5}],
        }
    )
    search = Search(space, 0)
    asked = []
    while (values := search.ask(len(asked))) is not None:
        search.tell(len(asked), {"likelihood": 0.0})
        asked.append(values)
    assert asked[0] == {"model.gridsize": 2, "neighbor_count": 5}
    assert {"model.gridsize": 1} in asked
    assert {"model.gridsize": 2, "neighbor_count": 4} in asked


def test_a_search_learns_from_a_finished_sweep(tmp_path: Path) -> None:
    known = search_bowl(Search(direct(), 0), 24)
    search = Search(direct(), 5)
    assert all(search.learn(values, {"likelihood": loss}) for values, loss in known)
    first = search_bowl(search, 4, first=24)
    assert min(loss for _, loss in first) < 0.1, "no start from scratch"
    assert not search.learn({"probe_defocus_px2": 0.0}, {"likelihood": 1.0}), "a parameter is missing"
    assert not search.learn({"probe_defocus_px2": 99.0, "position_scale": 1.0}, {"likelihood": 1.0})
    assert not search.learn(known[0][0], {"r_factor": 1.0})


def test_a_failed_and_a_stopped_trial_do_not_end_the_search() -> None:
    search = Search(direct(search="tpe"), 0)
    search.ask(0)
    search.tell(0, None)
    search.ask(1)
    search.report(1, 4, {"likelihood": 3.0})
    search.tell(1, {"likelihood": 3.0}, stopped=True)
    assert len(search_bowl(search, 10, first=2)) == 10


def identity(space: Space, **settings: Any) -> dict[str, Any]:
    return {"space": space.to_dict(), "settings": {"nepochs": 40, **settings}, "data": "sha"}


def filled(folder: Path, space: Space, trials: int = 12, seed: int = 0) -> SweepRecord:
    record = SweepRecord.begin(folder, identity(space), resume=False)
    rng = np.random.default_rng(seed)
    for number in range(trials):
        values = {"probe_defocus_px2": float(rng.uniform(-10, 10)), "position_scale": float(rng.uniform(0.9, 1.1))}
        figures = {"likelihood": bowl(values), "r_factor": 0.1, "seconds": 1.0 + number}
        record.write(TrialRecord(number, values, "finished", 40, figures, [[40, bowl(values)]], None, 1.0, 2.0))
    record.write(TrialRecord(trials, {"probe_defocus_px2": 0.0, "position_scale": 1.0}, "failed", error="it diverged"))
    return record


def test_a_record_outlives_its_program(tmp_path: Path) -> None:
    space = direct()
    record = filled(tmp_path, space)
    record.write(TrialRecord(20, {"probe_defocus_px2": 1.0, "position_scale": 1.0}, began=5.0))
    with (tmp_path / TRIALS).open("ab") as stream:
        stream.write(b'{"number": 21, "para')  # killed in the middle of a line
    again = SweepRecord.begin(tmp_path, identity(space), resume=True)
    assert again.ended == record.ended
    assert [trial.number for trial in again.running] == [20]
    again.write(TrialRecord(21, {}, "failed"))
    assert SweepRecord.load(tmp_path).trials[21].status == "failed"


def test_a_folder_of_another_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--resume: found no sweep"):
        SweepRecord.begin(tmp_path, identity(direct()), resume=True)
    filled(tmp_path, direct())
    with pytest.raises(InputError, match="found a sweep; expected a new folder, or --resume"):
        SweepRecord.begin(tmp_path, identity(direct()), resume=False)
    other = space_from({"trial": "direct", "parameters": {**DEFOCUS, "position_shear": {"uniform": [0, 1]}}})
    with pytest.raises(ConfigurationError, match="another sweep.*position_shear|position_shear.*another sweep"):
        SweepRecord.begin(tmp_path, identity(other), resume=True)
    with pytest.raises(ConfigurationError, match="settings.nepochs: this is the folder of another sweep; found 40"):
        SweepRecord.begin(tmp_path, identity(direct()) | {"settings": {"nepochs": 50}}, resume=True)
    with pytest.raises(ConfigurationError, match="data: this is the folder of another sweep"):
        SweepRecord.begin(tmp_path, identity(direct()) | {"data": "other"}, resume=True)


def test_the_front_of_two_objectives(tmp_path: Path) -> None:
    record = SweepRecord(tmp_path, ("likelihood", "frc"))
    for number, (likelihood, frc) in enumerate([(1.0, 0.5), (2.0, 0.9), (2.0, 0.4), (3.0, 0.9), (0.5, 0.1)]):
        record.trials[number] = TrialRecord(number, {}, "finished", 1, {"likelihood": likelihood, "frc": frc})
    assert [trial.number for trial in record.pareto()] == [4, 0, 1]
    best = record.best()
    assert best is not None
    assert best.number == 4


def test_tables_have_every_trial_and_agree(tmp_path: Path) -> None:
    import pyarrow.parquet

    space = direct()
    record = filled(tmp_path, space)
    write_tables(record, space)
    with (tmp_path / "results.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    table = pyarrow.parquet.read_table(tmp_path / "results.parquet").to_pylist()
    assert len(rows) == len(table) == 13
    assert rows[-1]["status"] == table[-1]["status"] == "failed"
    assert rows[-1]["error"] == table[-1]["error"] == "it diverged"
    assert [float(row["likelihood"]) for row in rows[:-1]] == [row["likelihood"] for row in table[:-1]]


def test_the_best_settings_are_a_configuration(tmp_path: Path) -> None:
    space = direct(settings={"nepochs": 40})
    record = filled(tmp_path, space)
    base = {"nepochs": 40, "model.N": 32, "output_dir": tmp_path, "execution.learning_rate": 2e-3, "batch_size": 8}
    made = write_best(record, base, space)
    best = record.best()
    assert best is not None
    config = resolve_config(TrainingConfig, made["settings"], environment={}).config
    assert config.position_scale == best.parameters["position_scale"]
    assert config.batch_size == 8
    written = yaml.safe_load(made["settings"].read_text())
    assert written == best_settings(base, best, space)
    assert "nepochs" not in written, "the passes of a direct solution are not epochs of a network"
    assert "output_dir" not in written


def test_settings_of_the_solver_are_handed_to_refine(tmp_path: Path) -> None:
    tilts = {"refinement.tilt_row_mrad": {"uniform": [-5, 5]}}
    space = space_from({"trial": "refine", "parameters": tilts, "settings": {"refinement.slices": 4, "nepochs": 3}})
    record = SweepRecord.begin(tmp_path, identity(space), resume=False)
    found, figures = {"refinement.tilt_row_mrad": 1.5}, {"likelihood": 1.0}
    record.write(TrialRecord(1, found, "finished", 3, figures, [[3, 1.0]], began=0.0, ended=1.0))
    made = write_best(record, {"nepochs": 3, "refinement.slices": 4, "refinement.thickness_angstrom": 80.0}, space)
    written = yaml.safe_load(made["refinement_settings"].read_text())
    assert written == {"slices": 4, "thickness_angstrom": 80.0, "tilt_row_mrad": 1.5}
    assert "refinement" not in yaml.safe_load(made["settings"].read_text() or "{}")


def test_the_page_and_what_matters(tmp_path: Path) -> None:
    space = direct()
    record = filled(tmp_path, space, trials=30)
    importance = importance_of(record, space)
    assert list(importance) == ["position_scale", "probe_defocus_px2"] or set(importance) == set(DEFOCUS)
    page = write_sweep_report(record, {"nepochs": 40}, space, "A sweep", {"seed": 0}).read_text()
    for text in (
        "Best: trial",
        "Parameters of every finished trial",
        "Importance of each parameter",
        "most important parameters",
        "it diverged",
    ):
        assert text in page
    assert page.count("data:image/png") == 4
