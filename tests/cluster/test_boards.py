"""configs/grafana/: the boards are made of metrics that exist, and show every metric of ours."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import ray.dashboard.modules.metrics.dashboards as rays_own
from helpers import ROOT
from prometheus_client import Counter, Histogram

from ptycho_ray.cluster import dashboard_metrics
from ptycho_ray.cluster.dashboard_metrics import DashboardMetrics, SweepMetrics
from ptycho_ray.service.metrics import Metrics
from ptycho_ray.tracking.sweep_record import SweepRecord, TrialRecord

FOLDER = ROOT / "configs/grafana"
make_boards = SimpleNamespace(**runpy.run_path(str(FOLDER / "make_boards.py")))


class SeenGauge:
    """Stands for Ray's gauge: keeps what was set."""

    values: ClassVar[dict[tuple[str, ...], float]] = {}

    def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.tag_keys = name, tag_keys

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.tag_keys)
        self.values[(self.name, *(tags[key] for key in self.tag_keys))] = value


@pytest.fixture
def gauges(monkeypatch) -> dict[tuple[str, ...], float]:
    monkeypatch.setattr(SeenGauge, "values", {})
    monkeypatch.setattr(dashboard_metrics, "Gauge", SeenGauge)
    return SeenGauge.values


def sweep(folder: Path) -> SweepRecord:
    record = SweepRecord(folder, ("likelihood", "frc"))
    for number, (status, likelihood, frc) in enumerate(
        [("finished", 3.0, 0.4), ("running", 2.0, 0.9), ("failed", None, None), ("finished", 5.0, 0.1)]
    ):
        figures = {} if likelihood is None else {"likelihood": likelihood, "frc": frc}
        record.trials[number] = TrialRecord(number, {}, status=status, figures=figures)  # type: ignore[arg-type]
    return record


def test_a_sweep_shows_its_trials_and_the_best_of_each_objective(gauges, tmp_path):
    record = sweep(tmp_path)
    SweepMetrics("tilt")(record, record.trials[3])
    assert {key[-1]: value for key, value in gauges.items() if key[0] == "ptycho_ray_trials"} == {
        "running": 1, "finished": 2, "stopped": 0, "failed": 1,
    }  # fmt: skip
    assert gauges["ptycho_ray_best_objective", "tilt", "likelihood"] == 2.0
    assert gauges["ptycho_ray_best_objective", "tilt", "frc"] == 0.9


@pytest.mark.parametrize("name", sorted(make_boards.BOARDS))
def test_a_board_is_what_the_list_says(name):
    text = (FOLDER / f"{name}.json").read_text(encoding="utf-8")
    assert text == make_boards.board(name), "run python configs/grafana/make_boards.py"
    assert len(json.loads(text)["panels"]) == len(make_boards.BOARDS[name][1])


def ours_of_the_service() -> set[str]:
    names, metrics = set(), Metrics()
    for kind in (*vars(metrics).values(), *metrics.shared.values()):
        if hasattr(kind, "_name"):
            names.add(kind._name + {Counter: "_total", Histogram: "_bucket"}.get(type(kind), ""))
    return names


def test_the_boards_show_metrics_that_exist(gauges, tmp_path):
    training = DashboardMetrics("run")
    training.on_step(None, {"loss": 1.0}, 1)
    training.on_epoch(SimpleNamespace(epoch=1, seconds=2.0), {"loss": 1.0, "val_loss": 1.0, "learning_rate": 0.1}, None)
    record = sweep(tmp_path)
    SweepMetrics("sweep")(record, record.trials[0])
    of_ray = {f"ray_{key[0]}" for key in gauges}
    (folder,) = map(Path, rays_own.__path__)
    rays = set(re.findall(r"ray_[a-z_]+", "".join(path.read_text() for path in folder.glob("*.py"))))
    expressions = "\n".join(
        expression for _, panels in make_boards.BOARDS.values() for panel in panels for expression, _ in panel.shows
    )
    shown = set(re.findall(r"\b(?:ray|ptycho_ray)_\w+", expressions))
    service = ours_of_the_service()
    assert len(service) >= 5
    assert shown - of_ray - service - rays == set()
    assert service - shown == set(), "a metric of the service that no board shows"
